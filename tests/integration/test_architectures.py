"""Small random models of many architectures against transformers alone.

Here stand those that take each of the ways through training and decoding.
`python benchmarks/architectures.py` tries all that tests/support knows.
"""

import json
import urllib.request

import pytest
from support import forked
from support.architecture_checks import CHECKS, Subject, outcome
from support.architectures import write_folder
from support.paths import ROOT
from support.servers import Server

WAYS = [
    "llama-3.1",  # fused layers
    "phi-4-mini",  # a rope that switches
    "gemma-3",  # windows in some layers
    "cohere2",  # a scale after the head
    "qwen3.5",  # linear attention
    "falcon",  # masks of its own
    "ministral-3",  # queries that grow far into a text
    "mistral-3, multimodal",
]
NUMBERS = [name for name in CHECKS if name != "commands"]


@pytest.fixture(scope="module", params=WAYS)
def subject(request, tmp_path_factory):
    return Subject(request.param, tmp_path_factory.mktemp("architecture") / "model")


@pytest.mark.parametrize("check", NUMBERS)
def test_an_architecture_gives_what_transformers_gives(subject, check):
    assert outcome(check, subject) == "right"


def test_layers_that_a_model_hides_are_refused_for_dola_alone(tmp_path):
    subject = Subject("falcon-mamba", tmp_path)
    assert [outcome(check, subject) for check in ("greedy", "echo", "scoring")] == ["right"] * 3
    assert outcome("dola", subject).startswith(
        "refused: FalconMambaForCausalLM does not show the states"
    )


@pytest.mark.parametrize("name", ["phi-4-mini"])
def test_the_commands_train_bundle_and_serve_it(name, tmp_path):
    folder, run_dir = write_folder(name, tmp_path / "model"), tmp_path / "run"
    train = ["model=tiny", f"model.name={folder}", "data_mix=quickstart", "budget=smoke"]
    train += ["model.max_seq_len=128", "train.max_steps=2", "train.examples_per_step=4"]
    trained = forked.run(["train", *train, f"hydra.run.dir={run_dir}"])
    assert trained.returncode == 0, trained.stderr[-2000:]
    settings = [f"bundle={run_dir}", "serve.port=PORT", f"hydra.run.dir={tmp_path}/log"]
    with Server(["serve", *settings], cwd=ROOT) as server:
        body = json.dumps({"prompt": "Once", "max_tokens": 5}).encode()
        request = urllib.request.Request(
            f"{server.url}/v1/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] >= 1
