"""What was typed, as Hydra takes it: paths of any spelling, and words that Hydra cannot read."""

import json

import pytest

from effchal.cli.arguments import hydra_arguments
from effchal.cli.compose import check_actions, compose_config, overlay
from effchal.cli.overrides import check_readable, quote
from effchal.config import ConfigError, ModelConfig
from effchal.config.choices import Quantization

ODD_NAMES = ["a b", "a,b", "a=b", "it's", "(1)", "[x]", "{y}", 'say "x"', "ü#&;!", "1e5", "a\\,b"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_typed_path_that_is_there_is_taken_as_it_is(tmp_path, name):
    file = tmp_path / f"{name}.jsonl"
    file.write_text("")
    (tmp_path / name).mkdir()
    typed = [f"data_mix.sources.lima.path={file}", f"base_model={tmp_path / name}"]
    config = compose_config(hydra_arguments("train", typed))
    assert config.data_mix.sources["lima"].path == str(file)
    assert config.base_model == str(tmp_path / name)


def test_a_path_that_hydra_cannot_read_is_a_text_all_the_same(tmp_path):
    config = compose_config(hydra_arguments("train", [f"base_model={tmp_path}/it's new"]))
    assert config.base_model == f"{tmp_path}/it's new"


def test_a_quoted_path_an_escaped_one_and_null_mean_what_they_say(tmp_path):
    for typed, meant in (
        ("'a b'", "a b"),
        ("a\\,b", "a,b"),
        ("null", None),
        ("${oc.env:NO_SUCH,x}/y", "x/y"),
    ):
        assert compose_config(hydra_arguments("train", [f"base_model={typed}"])).base_model == meant


def test_the_home_folder_is_found_wherever_a_path_is_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    for name in ("manifest.json", "config.yaml"):
        (tmp_path / "run" / "bundle" / name).write_text("")
    typed = ["~/run", "model.name=~/model", "scenario.path=~/data", "helm.environment='~/helm'"]
    config = compose_config(hydra_arguments("helm", typed))
    assert config.bundle == f"{tmp_path}/run"
    assert config.model.name == f"{tmp_path}/model"
    assert config.scenario.path == f"{tmp_path}/data"
    assert config.helm.environment == f"{tmp_path}/helm"
    assert hydra_arguments("plan", ["hydra.run.dir=~/out"]) == [f"hydra.run.dir='{tmp_path}/out'"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("name=a=b", r"cannot read name=a=b; if it is a text, type 'name=\"a=b\"'"),
        ("name=(1", r"cannot read name=\(1; if it is a text, type 'name=\"\(1\"'"),
        ("lora.r=" + "9" * 5000, "cannot read lora.r=9"),
        ("name=a,b", r"a sweep and needs -m; type a list as 'name=\[a,b\]', a text as 'name=\"a,b"),
    ],
)
def test_a_word_that_hydra_cannot_read_is_told_with_how_to_type_it(word, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_readable(word, is_sweep=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["a=b", "(1", "a,b", "it's", 'a"b', 'it\'s "x" = y'])
def test_what_the_message_says_to_type_is_what_was_meant(value):
    import re
    import shlex

    with pytest.raises(ConfigError) as caught:
        check_readable(f"name={value}", is_sweep=False)
    typed = re.search(r"text,? (?:type|as) (.*)$", str(caught.value))[1]
    (word,) = shlex.split(typed)
    assert compose_config([word]).name == value


def make_bundle(folder):
    folder.mkdir(parents=True)
    for name in ("manifest.json", "config.yaml"):
        (folder / name).write_text("")
    return folder


def test_no_command_writes_into_a_bundle(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "run" / "bundle")
    for folder in (bundle, bundle / "new"):
        with pytest.raises(ConfigError, match=r"lies in the bundle .*, which must not change"):
            hydra_arguments("serve", [f"hydra.run.dir={folder}"])
    monkeypatch.chdir(bundle)
    with pytest.raises(ConfigError, match="the working directory lies in the bundle"):
        hydra_arguments("evaluate", ["."])
    assert hydra_arguments("serve", ["."]) == ["bundle='.'"]  # its log goes elsewhere


def test_a_bundle_stands_for_the_run_that_it_lies_in(tmp_path):
    bundle = make_bundle(tmp_path / "run" / "bundle")
    (tmp_path / "run" / "config.yaml").write_text("")
    run = tmp_path / "run"
    words = [f"resume_from='{run}'", f"hydra.run.dir='{run}'"]
    assert hydra_arguments("train", [str(bundle)]) == words
    assert hydra_arguments("train", [f"resume_from={bundle}"]) == words


def test_a_folder_that_is_no_run_becomes_no_output_folder(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    for command in ("train", "evaluate"):
        typed = [f"resume_from={bundle}"]
        assert hydra_arguments(command, typed) == typed


def write_model(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "beside", [[], ["experiment=quickstart"], ["experiment=lima_platypus"], ["lora.r=8"]]
)
@pytest.mark.parametrize("compose", ["command line", "python"])
def test_a_model_by_its_name_takes_nothing_of_another_one(beside, compose):
    typed = [*beside, "model.name=org/mine"]
    config = compose_config(hydra_arguments("train", typed) if compose != "python" else typed)
    length = 512 if "experiment=quickstart" in beside else 2048  # what the experiment itself says
    assert config.model == ModelConfig(name="org/mine", max_seq_len=length)
    optimizer = "paged_adamw8bit" if "experiment=lima_platypus" in beside else "adamw"
    assert config.train.optimizer.value == optimizer


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 32768}, 2048),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({}, 2048),
    ],
)
def test_a_folder_gets_no_more_tokens_than_its_positions(config, length, tmp_path):
    folder = write_model(tmp_path / "it's, mine", **config)
    words = hydra_arguments("train", [f"model.name={folder}"])
    assert words == hydra_arguments("train", [f"model.name={quote(str(folder))}"])
    assert compose_config(words).model.max_seq_len == length
    typed = [f"model.name={quote(str(folder))}", "model.max_seq_len=99", "model.quantization=nf4"]
    composed = compose_config(typed)
    assert composed.model.max_seq_len == 99
    assert composed.model.quantization is Quantization.nf4


def test_a_group_that_is_typed_applies_to_a_renamed_copy_but_for_its_commit():
    config = compose_config(["model.name=my/copy", "model=mistral_7b"])
    assert config.model.quantization is Quantization.nf4
    assert config.model.revision is None
    config = compose_config(["model=mistral_7b", "model.name=my/copy", "model.revision=abc"])
    assert config.model.revision == "abc"


@pytest.mark.parametrize("typed", ["bundle=x", "resume_from=x"])
def test_the_model_of_a_bundle_or_a_run_stays_its_own(typed):
    words = hydra_arguments("serve", [typed, "model.name=other"])
    assert words == [typed, "model.name=other"]
    frozen = compose_config(["model=tiny"])
    with pytest.raises(ConfigError, match=r"^model\.name is frozen in home/config\.yaml"):
        overlay(frozen, compose_config(words), words, {"bundle", "resume_from"}, "home")
    same = [typed, "model.name=builtin:tiny"]
    assert overlay(frozen, compose_config(same), same, {"bundle", "resume_from"}, "home").model == (
        frozen.model
    )


def test_a_group_can_take_the_place_of_none():
    frozen, words = compose_config([]), ["rules=neurips_2023", "rules.hours=3"]
    assert frozen.rules is None
    found = overlay(frozen, compose_config(words), words, {"rules"}, "home").rules
    assert (found.hours, found.gpus) == (3, ["RTX 4090", "A100"])


def test_the_group_of_any_model_needs_a_name():
    with pytest.raises(ConfigError, match=r"^no value for model\.name$"):
        compose_config(["model=other"])


def test_the_words_of_data_are_no_folders():
    assert hydra_arguments("data", ["show", "lora.r=2", "-m"]) == ["lora.r=2", "-m"]
    assert hydra_arguments("data", ["diff", "a", "b", "--help"]) == ["--help"]
    with pytest.raises(ConfigError, match="sho: effchal data takes no folder, only show, diff and"):
        hydra_arguments("data", ["sho"])
    with pytest.raises(ConfigError, match="show: effchal plan takes no folder, only key=value"):
        hydra_arguments("plan", ["show"])


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("-m --cfg job", "--cfg and --multirun"),
        ("--run -c job", "--cfg and --run"),
        ("--info all --hydra-help", "--hydra-help and --info"),
    ],
)
def test_two_flags_that_each_say_what_is_done_are_refused(typed, named):
    with pytest.raises(ConfigError, match=f"^{named} do not go together"):
        check_actions(["lora.r=4", *typed.split()])


@pytest.mark.parametrize("typed", ["-m lora.r=4,8", "--cfg=job --resolve -p lora", "lora.r=4"])
def test_one_flag_that_says_what_is_done_is_taken(typed):
    check_actions(typed.split())


@pytest.mark.parametrize(
    ("command", "typed"), [("train", "decoding=a,b --cfg job"), ("evaluate", "--info decoding=a,b")]
)
def test_several_values_beside_a_flag_that_shows_one_run_are_told_so(command, typed):
    flag = "--info" if "--info" in typed else "--cfg"
    told = f"decoding=a,b has several values, and {flag} shows no sweep; type one of them"
    with pytest.raises(ConfigError, match=f"^{told}$"):
        hydra_arguments(command, typed.split())


def test_a_sweep_that_is_asked_for_beside_a_flag_that_shows_is_left_to_the_next_check():
    typed = ["-m", "decoding=a,b", "--cfg", "job"]
    assert hydra_arguments("train", typed) == ["decoding=a,b", "-m", "--cfg", "job"]
