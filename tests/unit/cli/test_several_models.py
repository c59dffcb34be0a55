"""What several models after `effchal evaluate` mean, and what is refused."""

import pytest
from support.configs import compose_config
from support.evaluations import write_bundle_files, write_evaluation

from effchal.cli.arguments import hydra_arguments
from effchal.cli.several_models import bundles_of
from effchal.config import ConfigError, save_config
from effchal.model_source import inference_config


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "it's, two"):
        write_bundle_files(tmp_path / name / "bundle")
    return ["one", "it's, two"]


def test_several_folders_become_a_sweep_over_bundles(runs):
    words = hydra_arguments("evaluate", [*runs, "scenario.max_instances=3"])
    assert words == [
        r"bundle='one','it\'s, two'",
        "evaluate.reuse=true",
        "scenario.max_instances=3",
        "--multirun",
    ]
    assert hydra_arguments("evaluate", ["one"]) == ["bundle='one'"]
    assert hydra_arguments("evaluate", ["base:one"]) == ["bundle='base:one'"]
    with pytest.raises(ConfigError, match="one folder at most"):
        hydra_arguments("serve", runs)


@pytest.mark.parametrize("command", ["evaluate", "lm_eval"])
def test_several_decodings_are_a_sweep_without_a_flag(runs, command):
    for typed in (
        ["decoding=greedy,sled"],
        ["decoding.method=greedy,sample"],
        ["prompt=plain,chatml", "bundle=one"],
    ):
        assert hydra_arguments(command, typed)[-1] == "--multirun"
    assert "--multirun" not in hydra_arguments(command, ["one", "decoding=sled"])
    with pytest.raises(ConfigError, match="decoding=greedy,sled has several values"):
        hydra_arguments("serve", ["decoding=greedy,sled"])


def test_lm_eval_takes_several_models_as_evaluate_does(runs):
    models = ["bundle=[one]", "baseline=true"]
    words = hydra_arguments("lm_eval", [*models, "tasks=[gsm8k]"])
    asked = ["bundle='base:one','one'", "evaluate.reuse=true", "lm_eval.tasks=[gsm8k]"]
    assert words == [*asked, "--multirun"]
    assert hydra_arguments("lm_eval", ["base", "one", "tasks=[gsm8k]"]) == words


def test_what_is_typed_about_reuse_wins(runs):
    words = hydra_arguments("evaluate", [*runs, "evaluate.reuse=false"])
    assert words.index("evaluate.reuse=true") < words.index("evaluate.reuse=false")


def test_base_is_the_base_model_of_the_runs_beside_it(runs):
    assert bundles_of(["base", "one"]) == ["base:one", "one"]
    assert bundles_of(["base_plain", "base", *runs]) == ["base_plain:one", "base:one", *runs]
    assert bundles_of(["one", "base:one/bundle"]) == ["one", "base:one/bundle"]


def test_a_base_that_could_be_several_is_refused(runs, tmp_path):
    other = compose_config(["model=tiny", "prompt=chatml"])
    save_config(other, tmp_path / "one" / "bundle" / "config.yaml")
    with pytest.raises(
        ConfigError,
        match=r"^base could be that of one or of it's, two, whose prompt\.\* differ; type base:<f",
    ):
        bundles_of(["base", *runs])
    assert bundles_of(["base_plain", *runs])[0] == "base_plain:one"
    save_config(compose_config(["model=smollm2_135m"]), tmp_path / "one" / "bundle" / "config.yaml")
    with pytest.raises(ConfigError, match=r"whose model\.\* differ"):
        bundles_of(["base_plain", *runs])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base"], "base of which run"),
        (["base", "base_plain"], "base of which run"),
        (["one", "one"], "one is there twice"),
        (["one", "nowhere"], "no folder nowhere"),
        (["one", "base:nowhere"], "no folder nowhere"),
        (["one", "empty"], "empty is neither a bundle nor a run folder with a finished bundle"),
        (["one", "it's, two", "resume_from=x"], "resume_from does not go with several models"),
        (["one", "base", "bundle=x"], "bundle does not go with several models"),
        (["one", "scored"], "scored is an evaluation, no model; effchal compare takes evaluations"),
    ],
)
def test_words_that_are_no_models_are_refused(words, message, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    write_evaluation(tmp_path / "scored", {"gsm": [1.0]})
    with pytest.raises(ConfigError, match=message):
        hydra_arguments("evaluate", words if len(words) > 1 else [*words, "name=x"])


def test_a_folder_that_is_called_base_is_refused_until_it_is_clear(runs, tmp_path):
    write_bundle_files(tmp_path / "base" / "bundle")
    with pytest.raises(ConfigError, match=r"base is also a folder here; type \./base, or base:"):
        bundles_of(["base", "one"])
    assert bundles_of(["./base", "one"]) == ["base", "one"]


def test_the_base_of_a_bundle_has_its_config_without_the_adapter(runs):
    def config(bundle):
        typed = [f"bundle='{bundle}'"]
        return inference_config(compose_config(typed), typed, set())

    tuned, base, plain = (config(f"{kind}one") for kind in ("", "base:", "base_plain:"))
    assert tuned.lora is not None
    assert (base.bundle, base.lora, base.name) == (None, None, "dev_base")
    assert base.model == plain.model == tuned.model
    assert base.prompt == tuned.prompt
    assert plain.prompt == compose_config(["prompt=plain"]).prompt != base.prompt


def test_the_base_of_a_base_is_refused(runs, tmp_path):
    plain = compose_config(["model=tiny", "lora=none"])
    save_config(plain, tmp_path / "one" / "bundle" / "config.yaml")
    typed = ["bundle='base:one'"]
    with pytest.raises(ConfigError, match="one/bundle is a plain base model itself"):
        inference_config(compose_config(typed), typed, set())
