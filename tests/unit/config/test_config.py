import subprocess
import sys
from dataclasses import replace

import pytest
from support.paths import ROOT

from effchal.cli.compose import CONF_DIR, compose_config, overlay
from effchal.config import Config, ConfigError, PromptConfig, load_config, save_config
from effchal.config.choices import (
    DecodingMethod,
    LossOn,
    Optimizer,
    Quantization,
    Template,
    WandbMode,
)
from effchal.config.nearest import known_keys

LAUNCHERS = list(CONF_DIR.glob("hydra/launcher/*.yaml"))  # Hydra's own group
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF_DIR.glob("*/*.yaml"))


@pytest.mark.integration
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_file_composes_and_validates(option):
    named = ["model.name=builtin:tiny"] if option == "model=other" else []
    assert isinstance(compose_config([option, *named]), Config)


def test_no_yaml_escapes_the_glob():
    assert len(OPTIONS) + len(LAUNCHERS) + 1 == len(list(CONF_DIR.rglob("*.yaml")))


def test_the_card_command_means_what_it_says():
    cfg = compose_config(["data_mix=lima_platypus", "lora.r=64"])
    assert cfg.model.name == "mistralai/Mistral-7B-v0.1"
    assert cfg.model.revision is not None
    assert cfg.model.quantization is Quantization.nf4
    assert cfg.model.double_quant
    assert cfg.lora.r == 64
    assert set(cfg.data_mix.sources) == {"lima", "platypus"}
    kept = cfg.data_mix.sources["platypus"].where["data_source"]
    assert kept == ["scienceqa", "scibench", "reclor", "theoremqa", "ARB", "guanaco"]


def test_the_reference_recipe_is_the_one_that_came_5th():
    cfg = compose_config(["experiment=reference_2023"])
    assert (cfg.lora.r, cfg.lora.alpha, cfg.lora.dropout) == (8, 16, 0.05)
    assert set(cfg.lora.target_modules) == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}
    assert (cfg.train.lr, cfg.train.examples_per_step, cfg.train.epochs) == (1e-4, 128, 3)
    assert (cfg.train.warmup_steps, cfg.model.max_seq_len, cfg.data_mix.validation_fraction) == (
        100,
        2048,
        0.05,
    )
    assert cfg.train.optimizer is Optimizer.lion8bit
    assert cfg.train.loss_on is LossOn.all
    assert cfg.model.quantization is Quantization.nf4


@pytest.mark.parametrize("spelling", ["lora.rank=8", "+lora.rank=8", "++lora.rank=8"])
def test_a_misspelt_key_is_refused_however_it_is_written(spelling):
    with pytest.raises(ConfigError, match=r"unknown key lora\.rank; here it is lora\.r$"):
        compose_config([spelling])


SOURCE = ("data_mix.sources.lima.pathh=x", "data_mix.sources.<name>.path")


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("train.warmup_step=3", "train.warmup_steps"),
        ("lore.r=1", "lora.r"),
        ("budget.hour=1", "budget.hours"),
        SOURCE,
    ],
)
def test_the_nearest_known_key_is_named(typo, meant):
    with pytest.raises(ConfigError, match=f"nearest known key is {meant}$"):
        compose_config([typo])


@pytest.mark.parametrize("content", [b"a: [1,", b"a: b: c", b"\xff\xfe\x00", b"\x00\x00"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml (is damaged: |holds no keys)") as caught:
        load_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_without_keys_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"config\.yaml holds no keys"):
        load_config(tmp_path / "config.yaml")


def test_an_unknown_key_in_a_yaml_file_is_refused(tmp_path):
    cfg_file = tmp_path / "config.yaml"
    save_config(Config(), cfg_file)
    cfg_file.write_text(cfg_file.read_text() + "learning_rate: 1\n")
    with pytest.raises(ConfigError, match="unknown key learning_rate"):
        load_config(cfg_file)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.r=0", r"lora\.r must be at least 1.*lora=none.*got 0"),
        ("lora.r=many", r"lora\.r.*'many'"),
        ("lora.dropout=1.5", r"lora\.dropout must be in \[0, 1\)"),
        ("lora.target_modules=[]", r"lora\.target_modules must be all-linear or a list of names"),
        ("budget.hours=0", r"budget\.hours must be above 0"),
        ("budget.reserve_minutes=1500", r"budget\.reserve_minutes must be below budget\.hours"),
        ("train.lr=0", r"train\.lr must be above 0"),
        ("train.epochs=0", r"train\.epochs must be above 0 and finite, got 0"),
        ("train.epochs=true", r"train\.epochs: .*int, float"),
        ("train.optimizer=sgd", r"train\.optimizer"),
        ("data_mix=limma", r"no data_mix=limma; .*did you mean data_mix=lima\?"),
        ("data_mix.validation_fraction=1", r"data_mix\.validation_fraction must be in \[0, 1\)"),
        ("data_mix.sources.lima.weight=0", r"data_mix\.sources\.lima\.weight must be above 0"),
        ("prompt.user=hello", r"prompt\.user must be a template with one \{content\}"),
        ("model.max_seq_len=2", r"model\.max_seq_len must be at least 8"),
        ("decoding.temperature=0", r"decoding\.temperature must be above 0"),
        ("decoding.top_p=0", r"decoding\.top_p must be in \(0, 1\]"),
        (
            "decoding.method=dola",
            r"decoding\.premature_layers must be low, high or a list.*got None",
        ),
        ("decoding.relative_top=1.5", r"decoding\.relative_top must be in \[0, 1\]"),
        ("decoding.repetition_penalty=0", r"decoding\.repetition_penalty must be in \[0.01, 100\]"),
        (
            "sweep.premature_layers=[low,[2,2]]",
            r"sweep\.premature_layers\[1\] must be low, high or a list of distinct",
        ),
        ("scenario.max_instances=0", r"scenario\.max_instances must be at least 1"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(override, message):
    with pytest.raises(ConfigError, match=message):
        compose_config([override])


def test_what_is_saved_is_what_is_loaded(tmp_path):
    cfg = compose_config(["experiment=reference_2023", "track.wandb=off", "lora.use_dora=true"])
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == cfg
    none = compose_config(["lora=none", "track.wandb=offline", "decoding=sample"])
    save_config(none, tmp_path / "none.yaml")
    loaded = load_config(tmp_path / "none.yaml")
    assert loaded == none
    assert loaded.lora is None
    assert loaded.track.wandb is WandbMode.offline
    loaded.name = "changed"
    assert load_config(tmp_path / "none.yaml") == none  # a change is the caller's alone


@pytest.mark.parametrize("epochs", ["3", "0.5"])
def test_a_whole_number_of_epochs_is_saved_as_such_and_a_fraction_as_it_is(epochs, tmp_path):
    cfg = compose_config([f"train.epochs={epochs}"])
    save_config(cfg, tmp_path / "config.yaml")
    assert f"\n  epochs: {epochs}\n" in (tmp_path / "config.yaml").read_text()
    assert load_config(tmp_path / "config.yaml") == cfg


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"config\.yaml does not exist; is .* a run or bundle folder"
    ):
        load_config(tmp_path / "config.yaml")


def test_overlay_takes_typed_values_and_leaves_the_rest_frozen():
    frozen = compose_config(["decoding=sample", "decoding.top_p=0.5", "lora.r=3", "serve.port=1"])
    typed = ["decoding.temperature=0.2", "serve.port=99"]
    result = overlay(frozen, compose_config(typed), typed, {"decoding", "serve"}, "home")
    assert result.decoding.method is DecodingMethod.sample
    assert (result.decoding.temperature, result.decoding.top_p) == (0.2, 0.5)
    assert (result.serve.port, result.lora.r) == (99, 3)


def test_overlay_of_a_group_replaces_the_whole_node():
    frozen = compose_config(["decoding=sample"])
    typed = ["decoding=greedy"]
    result = overlay(frozen, compose_config(typed), typed, {"decoding"}, "home")
    assert result.decoding == compose_config(["decoding=greedy"]).decoding


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("lora.r=8", "lora.r"),
        ("prompt=chatml", "prompt"),
        ("experiment=quickstart", "model"),
        ("train.lr=1.0", "train.lr"),
    ],
)
def test_overlay_refuses_what_is_frozen(typed, key):
    with pytest.raises(
        ConfigError, match=rf"{key} is frozen in home/config\.yaml.*; only decoding, serve"
    ):
        overlay(Config(), compose_config([typed]), [typed], {"decoding", "serve"}, "home")


def test_overlay_takes_from_an_experiment_what_it_sets():
    typed = ["experiment=premature_layers", "decoding.relative_top=0.2"]
    allowed = {"decoding", "scenario", "name"}
    result = overlay(
        compose_config(["decoding=sample"]), compose_config(typed), typed, allowed, "home"
    )
    assert (
        result.decoding
        == compose_config(["decoding=dola_high", "decoding.relative_top=0.2"]).decoding
    )
    assert result.scenario == compose_config(["scenario=multiple_choice"]).scenario
    assert result.name == "premature_layers"


def test_known_keys_reach_through_optional_nodes_and_free_names():
    keys = known_keys(Config)
    assert {"lora.r", "model.quantization", "data_mix.sources", "resume_from"} <= set(keys)
    assert "data_mix.sources.<name>.path" in keys


def test_auto_falls_back_on_the_texts_of_instruction():
    auto, texts = (compose_config([f"prompt={name}"]).prompt for name in ("auto", "instruction"))
    assert replace(auto, template=texts.template) == texts
    assert auto.template is Template.auto


@pytest.mark.parametrize(
    "words", [["prompt=tokenizer", "prompt.user='Q {content}'"], ["prompt.template=tokenizer"]]
)
def test_texts_and_the_tokenizers_template_exclude_each_other(words):
    with pytest.raises(ConfigError, match=r"prompt\.template=tokenizer takes no prompt\.user"):
        compose_config(words)


def test_every_prompt_template_has_its_content():
    for path in (CONF_DIR / "prompt").glob("*.yaml"):
        assert isinstance(compose_config([f"prompt={path.stem}"]).prompt, PromptConfig)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lora.rank=8"], "error: unknown key lora.rank; here it is lora.r\n"),
        (["--learning_rate", "1"], "error: --learning_rate is no flag, and keys have no dashes; h"),
        (["rules.enforce=true"], "error: a key was given below lora or rules, and that group is"),
        (["lora=none"], "error: lora=none leaves nothing to train"),
        (["lora.r=0"], "error: lora.r must be at least 1"),
    ],
)
def test_the_command_line_ends_with_one_line_and_code_2(arguments, message, tmp_path):
    command = [sys.executable, "-m", "effchal.train", *arguments, f"hydra.run.dir={tmp_path}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[]", "low, high or a list of distinct layers"),
        ("middle", "low, high or a list"),
        ("[1.5]", "low, high or a list"),
        ("[-1]", "low, high or a list"),
        ("[2,4]", r"a list of one layer where decoding\.selector=static"),
    ],
)
def test_layers_that_are_none_are_refused(layers, message):
    with pytest.raises(ConfigError, match=rf"decoding\.premature_layers must be {message}"):
        compose_config(
            [
                "decoding=dola_high",
                f"decoding.premature_layers={layers}",
                "decoding.selector=static",
            ]
        )


@pytest.mark.parametrize("experiment", ["lima_platypus", "reference_2023"])
def test_no_experiment_brings_an_adapter_back(experiment):
    with pytest.raises(ConfigError, match="lora=none does not go with an experiment"):
        compose_config([f"experiment={experiment}", "lora=none"])


@pytest.mark.parametrize("typed", [["lora=none", "lora.r=8"], ["rules.enforce=true"]])
def test_a_key_below_a_group_that_is_none_is_refused(typed):
    with pytest.raises(ConfigError, match="a key was given below lora or rules, and that group is"):
        compose_config(typed)
