"""effchal from Python gives what the commands give."""

import json
import subprocess
import sys

import pytest
from support import training_runs

import effchal
from effchal.bundle import sha256, write_bundle
from effchal.config import Config, ConfigError, ModelConfig, PromptConfig
from effchal.config.choices import Dtype
from effchal.decoding.contrast import Dola, Greedy
from effchal.decoding.score import Scorer
from effchal.evaluation.encoding import encode
from effchal.evaluation.run import run as run_evaluation
from effchal.evaluation.scenarios.types import Instance, Scenario, Settings
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder

DOLA = {"method": "dola", "premature_layers": [0, 1]}
PROMPTS = ["What is a budget?", "", "Zwei Wörter: é"]


@pytest.fixture(scope="module")
def model():
    """The tiny model behind the templates of the `client` fixture."""
    base = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
    prompt = PromptConfig(user="Q: {content}\nA:", after_answer="\n")
    return effchal.load(Config(model=base, prompt=prompt, lora=None))


def test_importing_the_package_stays_light():
    code = "import sys, effchal; print([m for m in ('torch', 'hydra') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n"


def test_a_name_is_the_function_even_after_the_command_was_imported():
    from effchal.evaluate import main as evaluate_command
    from effchal.train import main as train_command

    assert callable(evaluate_command)
    assert callable(train_command)
    assert effchal.train.__module__ == effchal.evaluate.__module__ == "effchal.api"
    assert set(effchal.__all__) == {"__version__", "load_config", "train", "load", "evaluate"}
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        effchal.trian  # noqa: B018


def test_load_config_composes_as_a_command_does():
    assert effchal.load_config(["model=tiny", "lora.r=3"]).lora.r == 3
    with pytest.raises(ConfigError, match=r"unknown key lora\.rank"):
        effchal.load_config(["lora.rank=3"])


@pytest.mark.parametrize("decoding", [{}, DOLA])
def test_generate_gives_the_tokens_of_the_server(model, client, service, decoding):
    service.cfg.serve.allow_decoding_override = True
    found = model.generate(PROMPTS, max_new_tokens=8, rows_at_once=2, **decoding)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        body = {"prompt": prompt, "max_new_tokens": 8, "decoding": decoding}
        served = client.post("/process", json=body).get_json()
        assert completion.text == served["text"]
        assert [token.text for token in completion.tokens] == [t["text"] for t in served["tokens"]]
        logprob = sum(token.logprob for token in completion.tokens)
        assert logprob == pytest.approx(served["logprob"], abs=1e-4)


def test_sampling_is_repeated_by_its_seed_and_ends_at_a_stop(model):
    keys = {"method": "sample", "temperature": 1.5, "max_new_tokens": 12}
    first = model.generate(PROMPTS[:1], seed=1, **keys)[0]
    assert model.generate(PROMPTS[0], seed=1, **keys)[0].text == first.text
    assert model.generate(PROMPTS[:1], seed=2, **keys)[0].text != first.text
    stop = first.text[3:5]
    stopped = model.generate(PROMPTS[:1], seed=1, stops=[stop], **keys)[0]
    assert stopped.text == first.text[: first.text.index(stop)]
    assert stopped.finish_reason == "stop"


@pytest.mark.parametrize("prompt", ["The answer is", "", "é "])
def test_score_gives_the_log_probabilities_of_an_evaluation(model, tiny_engine, prompt):
    texts = [" four", " 5 or more", "x", " four"]
    question = Instance("0", prompt, (), choices=tuple(texts))
    scenario = Scenario("entry", (question,), Settings(1, "exact_match"))
    encoder = PromptEncoder(tiny_engine.tokenizer, PromptConfig())
    (each,) = encode(scenario, encoder, tiny_engine.max_positions)
    contrasts = [Greedy(), Dola((0, 1))]
    plain, dola = Scorer(tiny_engine.model).score(each.prompt_ids, each.choice_ids, contrasts)
    assert model.score(prompt, texts) == pytest.approx(plain.logprobs, abs=1e-5)
    assert model.score(prompt, texts, **DOLA) == pytest.approx(dola.logprobs, abs=1e-5)


def test_what_cannot_be_done_is_an_error(model):
    with pytest.raises(ConfigError, match=r"unknown key temprature; .* temperature"):
        model.generate(["x"], temprature=1)
    with pytest.raises(ConfigError, match=r"premature_layers has .9."):
        model.score("x", ["y"], method="dola", premature_layers=[9])
    with pytest.raises(ValueError, match="this model holds"):
        model.generate(["x"], max_new_tokens=100_000)
    for bad in ([], [""]):
        with pytest.raises(ValueError, match="at least one continuation"):
            model.score("x", bad)


def test_a_base_model_takes_overrides_of_model_prompt_and_decoding():
    model = effchal.load("builtin:tiny", ["decoding.max_new_tokens=3", "prompt=chatml"])
    assert model.config.decoding.max_new_tokens == 3
    assert "<|im_start|>" in model.config.prompt.user
    assert len(model.generate(["x"])[0].ids) <= 3
    with pytest.raises(ConfigError, match=r"train\.lr is frozen in builtin:tiny"):
        effchal.load("builtin:tiny", ["train.lr=1"])


def test_train_gives_the_weights_of_the_command_and_load_finds_its_bundle(tiny_cfg, tmp_path):
    run = effchal.train(tiny_cfg, tmp_path / "api")
    training_runs.run(tiny_cfg, tmp_path / "command")
    assert training_runs.same_weights(run.folder, tmp_path / "command")
    assert (run.status, run.record["step"]) == ("finished", 6)
    with pytest.raises(ConfigError, match="holds a run already"):
        effchal.train(tiny_cfg, tmp_path / "api")
    from_run = effchal.load(run.folder, ["decoding.max_new_tokens=4"])
    from_bundle = effchal.load(str(run.bundle))
    assert from_run.config.decoding.max_new_tokens == 4
    assert from_run.score("a", [" b", "c"]) == from_bundle.score("a", [" b", "c"])


def test_train_goes_on_with_a_run_under_its_own_config(tiny_cfg, tmp_path):
    tiny_cfg.train.max_steps = 2
    run = effchal.train(tiny_cfg, tmp_path)
    longer = effchal.load_config([f"resume_from={tmp_path}"])
    assert effchal.train(longer).record["step"] == run.record["step"] == 2


def test_a_bundle_with_keys_of_an_earlier_version_still_loads(tmp_path):
    cfg = effchal.load_config(["model=tiny", "lora=none", "budget.periodic_work_share=0.5"])
    write_bundle(tmp_path / "bundle", cfg, None, load_tokenizer(cfg.model))
    path, manifest = tmp_path / "bundle" / "config.yaml", tmp_path / "bundle" / "manifest.json"
    before = sha256(path)
    text = path.read_text().replace("validation_fraction", "heldout_fraction")
    path.write_text(text.replace("periodic_work_share", "side_work_share"))
    manifest.write_text(manifest.read_text().replace(before, sha256(path)))
    assert effchal.load(tmp_path).config.budget == cfg.budget


def test_evaluate_gives_the_results_of_the_command(tmp_path):
    path = tmp_path / "choices.jsonl"
    rows = [
        {"prompt": f"Q{i}:", "choices": [" a", " b or", " c"], "correct": [i % 3]} for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    typed = [f"scenario.entries=['jsonl:path={path}']", "evaluate.resamples=200"]
    found = effchal.evaluate("builtin:tiny", [*typed, "model.dtype=float32"], tmp_path / "api")
    cfg = effchal.load_config(["model=tiny", "prompt=plain", "lora=none", *typed])
    table = run_evaluation(cfg, tmp_path / "command")
    expected = json.loads((tmp_path / "command" / "results.json").read_text())
    assert found.table == table
    assert found.results["entries"] == expected["entries"]
    assert (found.folder / "instances.jsonl").is_file()
