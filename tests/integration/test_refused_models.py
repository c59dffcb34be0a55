"""A model that cannot be right is refused by every command, for one reason, before any work."""

import time

import pytest
import torch
import transformers
from support import forked
from support.architectures import write_folder
from support.own_questions import write_questions

from effchal.serving.ready import free_port

COMMANDS = {
    "plan": ["data_mix=quickstart", "budget=smoke"],
    "train": ["data_mix=quickstart", "budget=smoke"],
    "serve": ["lora=none", "prompt=plain", f"serve.port={free_port()}"],
    "evaluate": ["lora=none", "prompt=plain", "scenario.entries=[]", "data=texts.jsonl"],
}


@pytest.fixture(scope="module", autouse=True)
def warm():
    """The process that commands are forked from has imported torch."""
    forked.run(["plan", "--help"])


def draw_logits_anew():
    """A model whose own code never gives the same logits twice, so no way can be right."""
    forward = transformers.LlamaForCausalLM.forward

    def noisy(*arguments, **options):
        output = forward(*arguments, **options)
        output.logits = output.logits + torch.randn_like(output.logits)
        return output

    transformers.LlamaForCausalLM.forward = noisy


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "before", "reason"),
    [
        ("qwen2.5-vl", None, "a qwen2_5_vl, which transformers knows no causal language model of"),
        ("llama-3.1", draw_logits_anew, "LlamaForCausalLM: the logits of its states are not those"),
    ],
    ids=["no text model", "logits of its own"],
)
def test_every_command_refuses_a_model_for_the_same_reason(name, before, reason, command, tmp_path):
    folder, run_dir = write_folder(name, tmp_path / "model"), tmp_path / "run"
    write_questions(tmp_path)
    settings = ["model=tiny", f"model.name={folder}", *COMMANDS[command]]
    start = time.monotonic()
    refused = forked.run(
        [command, *settings, f"hydra.run.dir={run_dir}"], cwd=tmp_path, before=before
    )
    assert time.monotonic() - start < 20
    assert refused.returncode not in (0, None)
    told = [line for line in refused.stderr.splitlines() if reason in line]
    assert len(told) == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert "data mix" not in refused.stderr  # its data was not encoded
    assert not run_dir.exists()
