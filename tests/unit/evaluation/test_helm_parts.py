"""What a HELM run does without HELM: files for it, files of it, and what is refused."""

import dataclasses
import json

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.configs import compose_config

from effchal.bundle import write_bundle
from effchal.config import (
    Config,
    ConfigError,
    HelmConfig,
    ModelConfig,
    ScenarioConfig,
    save_config,
    to_config,
)
from effchal.evaluation.helm.deployment import (
    max_sequence_length,
    model_name,
    place_data,
    write_deployment,
)
from effchal.evaluation.helm.processes import server_command
from effchal.evaluation.helm.results import (
    HelmRun,
    RunScore,
    error_of,
    main_score,
    read_run,
    runs_table,
)
from effchal.evaluation.helm.run import check, resumed
from effchal.model.tokenizer import load_tokenizer
from effchal.model_source import check_model_source, check_same, identity, inference_config

TINY = ["model=tiny", "prompt=plain", "lora=none", "scenario=smoke"]


@pytest.fixture
def tiny_bundle(tmp_path):
    cfg = compose_config(["model=tiny", "prompt=chatml", "lora=none", 'name="my run: 2"'])
    write_bundle(tmp_path / "bundle", cfg, None, load_tokenizer(cfg.model))
    return tmp_path / "bundle"


def of_bundle(bundle, *typed):
    typed = [f"bundle='{bundle}'", *typed]
    return inference_config(compose_config(typed), typed, {"scenario", "serve", "helm", "name"})


@pytest.mark.integration
def test_helm_shows_the_name_of_the_bundle_or_of_the_base_model(tiny_bundle):
    assert model_name(of_bundle(tiny_bundle)) == "effchal/my-run-2"
    assert model_name(of_bundle(tiny_bundle, "name=other")) == "effchal/other"
    assert model_name(of_bundle(tiny_bundle, "helm.name=neurips/local")) == "neurips/local"
    hub = Config(model=ModelConfig(name="mistralai/Mistral-7B-v0.1"), lora=None)
    assert model_name(hub) == "effchal/Mistral-7B-v0.1"
    with pytest.raises(ConfigError, match=r"helm.name must be <organisation>/<model> .* 'a,b'"):
        HelmConfig(name="a,b")


def test_the_window_is_the_contests_or_what_the_template_leaves_of_a_smaller_model(tiny_bundle):
    cfg = of_bundle(tiny_bundle)
    source = check_model_source(cfg)
    assert max_sequence_length(cfg, source) == 2048
    small = dataclasses.replace(source, shape=dataclasses.replace(source.shape, max_positions=512))
    template = len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")  # a token a byte
    assert max_sequence_length(cfg, small) == 512 - template - 8
    cfg.serve.max_prompt_tokens = 100
    with pytest.raises(ConfigError, match=r"raise serve\.max_prompt_tokens"):
        max_sequence_length(cfg, source)


def test_helm_is_told_where_the_model_answers_and_how_long_to_wait(tmp_path, tiny_bundle):
    cfg = of_bundle(tiny_bundle, "helm.timeout_s=77")
    write_deployment(tmp_path / "prod_env", cfg, check_model_source(cfg), "http://127.0.0.1:1234")
    files = {path.stem: OmegaConf.load(path) for path in (tmp_path / "prod_env").iterdir()}
    deployment = files["model_deployments"].model_deployments[0]
    assert deployment.name == deployment.tokenizer_name == "effchal/my-run-2"
    assert deployment.client_spec.args == {
        "base_url": "http://127.0.0.1:1234",
        "do_cache": True,
        "timeout": 77,
    }
    assert (
        files["tokenizer_configs"].tokenizer_configs[0].tokenizer_spec.args.base_url
        == "http://127.0.0.1:1234"
    )
    assert files["model_metadata"].models[0].display_name == "my-run-2"


@pytest.mark.integration
@pytest.mark.parametrize(
    "typed", [["decoding=dola_low", "decoding.relative_top=0.25"], ["serve.max_waiting=9"]]
)
def test_the_server_gets_the_model_of_the_run_whatever_was_typed(tmp_path, tiny_bundle, typed):
    base = compose_config([*TINY, *typed, "prompt=chatml"])
    for cfg in (of_bundle(tiny_bundle, *typed), base):
        (tmp_path / "server").mkdir(exist_ok=True)
        command = server_command(cfg, tmp_path / "server", 1234)
        assert command[3:7] == ["-cp", str(tmp_path / "server"), "-cn", "config"]
        overrides = [part for part in command[7:] if not part.startswith("hydra")]
        with initialize_config_dir(str(tmp_path / "server"), version_base="1.3"):
            served = inference_config(to_config(compose("config", overrides)), overrides, {"serve"})
        assert served.serve == dataclasses.replace(cfg.serve, port=1234)
        assert (served.decoding, served.prompt, served.model) == (
            cfg.decoding,
            cfg.prompt,
            cfg.model,
        )
        assert (served.bundle, served.lora) == (cfg.bundle, cfg.lora)


def stat(name, split, mean, **more):
    return {"name": {"name": name, "split": split, **more}, "mean": mean}


def test_a_score_is_counted_on_its_own_split():
    stats = [
        *(
            stat("num_instances", "test", 9),
            stat("num_instances", "valid", 1),
            stat("exact_match", "valid", 0.0),
        ),
        *(stat("exact_match", "test", 0.2), stat("quasi_exact_match", "test", 0.3)),
        stat("quasi_exact_match", "test", 0.9, perturbation={"name": "robustness"}),
        {"name": {"name": "num_train_trials"}, "mean": 1},
    ]
    assert main_score(stats, 8) == RunScore("quasi_exact_match", 0.3, "test", 9, requests=8)


def test_a_scenario_with_no_test_split_is_scored_on_valid():
    stats = [stat("num_instances", "valid", 10), stat("exact_match", "valid", 0.5)]
    assert main_score(stats, 8) == RunScore("exact_match", 0.5, "valid", 10, requests=8)
    none = RunScore(None, None, None, 0, requests=8)
    assert main_score([stat("latency", "test", 1.0)], 8) == none


def test_a_run_that_was_cut_off_or_not_answered_is_not_complete(tmp_path):
    def write(success=True, prompt="Say yes."):
        state = {"result": {"success": success}, "request": {"prompt": prompt}}
        stats = [stat("exact_match", "test", 1.0), stat("num_instances", "test", 1)]
        for name in ("run_spec", "scenario", "per_instance_stats"):
            (tmp_path / f"{name}.json").write_text("{}")
        (tmp_path / "scenario_state.json").write_text(json.dumps({"request_states": [state]}))
        (tmp_path / "stats.json").write_text(json.dumps(stats))

    write()
    run = HelmRun("x", "x", read_run(tmp_path))
    assert run.to_dict() == {
        "entry": "x",
        "name": "x",
        "status": "finished",
        "metric": "exact_match",
        "score": 1.0,
        "split": "test",
        "scored": 1,
        "requests": 1,
    }
    assert runs_table([run]).endswith("| x | exact_match | 1.000 | test | 1 | 1 |\n")
    failed = HelmRun("x", "x", error="ValueError: no")
    assert failed.to_dict()["status"] == "failed"
    assert runs_table([failed]).endswith("| x | FAILED |  |  |  |  |\n")
    write(success=False)
    assert read_run(tmp_path) is None
    write(prompt="")  # what HELM sends after a tokenizer request that failed
    assert read_run(tmp_path) is None
    write()
    (tmp_path / "per_instance_stats.json").write_text('[{"half')
    assert read_run(tmp_path) is None
    (tmp_path / "per_instance_stats.json").unlink()
    assert read_run(tmp_path) is None


def test_the_error_of_a_run_is_the_last_that_helm_logged_of_it():
    log = """2026-11-24 10:08:30,113 INFO   Error when running gsm:model=a_b:
Traceback (most recent call last):
  File "x.py", line 1, in f
KeyError: 'logprob'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
helm.benchmark.executor.ExecutorError: 'logprob' Request: Request()

2026-11-24 10:08:30,113 INFO   Error when running bbq:model=a_b:
Traceback (most recent call last):
ValueError: another
"""
    assert (
        error_of(log, "gsm:model=a_b")
        == "helm.benchmark.executor.ExecutorError: 'logprob' Request: Request()"
    )
    assert error_of(log, "bbq:model=a_b") == "ValueError: another"
    assert "does not say" in error_of(log, "mmlu:model=a_b")


def test_data_are_linked_into_folders_that_helm_may_write_in(tmp_path):
    source = tmp_path / "data" / "mmlu" / "test"
    source.mkdir(parents=True)
    (source / "a.csv").write_text("text")
    (source / "a.csv.lock").touch()
    for _ in range(2):
        place_data(tmp_path / "data", tmp_path / "scenarios")
    assert (tmp_path / "scenarios" / "mmlu" / "test" / "a.csv").read_text() == "text"
    assert [path.name for path in (tmp_path / "scenarios").rglob("*.*")] == ["a.csv"]
    (tmp_path / "scenarios" / "mmlu" / "test" / "b.lock").touch()
    assert sorted(path.name for path in source.iterdir()) == ["a.csv", "a.csv.lock"]


def test_what_is_wrong_is_said_before_any_process_starts(tmp_path, tiny_bundle):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "helm-run").touch()
    good = of_bundle(tiny_bundle, "scenario=smoke")
    good.helm.environment = str(tmp_path / "venv")
    assert check(good).bundle == tiny_bundle

    def refused(match, **changes):
        with pytest.raises(ConfigError, match=match):
            check(dataclasses.replace(good, **changes))

    refused("scenario.entries is empty", scenario=ScenarioConfig())
    refused(
        "scenario.path: no folder nowhere",
        scenario=dataclasses.replace(good.scenario, path="nowhere"),
    )
    refused(
        r"helm.environment=no has no bin/helm-run .*scripts/helm.sh",
        helm=HelmConfig(environment="no"),
    )
    refused("raise that, too", helm=dataclasses.replace(good.helm, threads=65))
    refused(
        "GET /ready is not answered", helm=dataclasses.replace(good.helm, url="http://127.0.0.1:9")
    )
    (tiny_bundle / "tokenizer" / "tokenizer.json").write_text("{}")
    refused("has changed since the bundle was written")
    for key, value in {
        "threads": 0,
        "timeout_s": 0,
        "max_sequence_length": 1,
        "url": "localhost:80",
    }.items():
        with pytest.raises(ConfigError, match=f"helm.{key} must be"):
            HelmConfig(**{key: value})


@pytest.mark.integration
def test_a_resumed_run_keeps_what_its_scores_depend_on(tmp_path):
    def resume(*typed):
        typed = [f"resume_from='{tmp_path}'", *typed]
        return resumed(compose_config(typed), typed, tmp_path)

    with pytest.raises(ConfigError, match=r"no run of effchal helm: it has no scores\.json"):
        resume()
    save_config(compose_config([*TINY, "helm.threads=2"]), tmp_path / "config.yaml")
    (tmp_path / "scores.json").write_text("{}")
    again = resume("helm.url=http://127.0.0.1:8080")
    assert (again.helm.threads, again.helm.url, again.resume_from) == (
        2,
        "http://127.0.0.1:8080",
        None,
    )
    assert again.scenario.entries == ["simple_mcqa", "synthetic_reasoning:mode=pattern_match"]
    assert resume("bundle=elsewhere").bundle == "elsewhere"  # its digest decides
    assert resume("bundle=base:elsewhere").bundle is None
    for typed in ("scenario.max_instances=3", "decoding=sample"):
        with pytest.raises(ConfigError, match="is frozen in"):
            resume(typed)
    for typed in ("helm.name=a/b", "helm.max_sequence_length=512"):
        with pytest.raises(ConfigError, match=rf"{typed.partition('=')[0]} is frozen in"):
            resume(typed)


def test_another_model_under_the_same_name_is_not_gone_on_with(tmp_path, tiny_bundle):
    before = identity(check_model_source(of_bundle(tiny_bundle)))
    check_same(before, before, tmp_path)
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest | {"more": 1}))
    now = identity(check_model_source(of_bundle(tiny_bundle)))
    with pytest.raises(ConfigError, match=r"begun with another model \(manifest_sha256 differ\)"):
        check_same(before, now, tmp_path)


def test_a_digest_that_was_not_known_yet_is_no_other_model(tmp_path):
    hub = {"bundle": None, "manifest_sha256": None, "base_model": "org/tiny", "revision": "aa"}
    before, now = hub | {"fingerprint": None}, hub | {"fingerprint": "0123"}
    check_same(before, now, tmp_path)
    check_same(now, before, tmp_path)
    with pytest.raises(ConfigError, match=r"begun with another model \(revision differ\)"):
        check_same(before, now | {"revision": "bb"}, tmp_path)
    with pytest.raises(ConfigError, match=r"begun with another model \(fingerprint differ\)"):
        check_same(now, now | {"fingerprint": "4567"}, tmp_path)
