"""A step without the memory for a micro-batch learns from the same examples in smaller ones."""

import dataclasses
import types

import pytest
import torch
from support.training_runs import Stop, metrics, record, run, same_weights
from torch._subclasses.fake_tensor import FakeTensor

from effchal.mixing.packing import capacity_of, pack
from effchal.runs import checkpoints
from effchal.training import build, step
from effchal.training.fitting import smaller_divisor


@pytest.fixture
def card(monkeypatch):
    """A card that takes micro-batches of so many tokens; lists the sizes that it was asked for."""
    found = types.SimpleNamespace(tokens=10**9, after_backward=False, asked=[], emptied=0)
    found.validates = 10**9  # tokens of a micro-batch of validation
    target_loss = step.target_loss

    class TooMuch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def limited(model, micro_batch):
        planned = isinstance(micro_batch.input_ids, FakeTensor)
        if planned:
            return target_loss(model, micro_batch)
        if not torch.is_grad_enabled():
            if micro_batch.tokens <= found.validates:
                return target_loss(model, micro_batch)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        found.asked.append(micro_batch.tokens)
        if micro_batch.tokens <= found.tokens:
            return target_loss(model, micro_batch)
        if found.after_backward:
            return TooMuch.apply(target_loss(model, micro_batch))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def empty():
        found.emptied += 1

    monkeypatch.setattr(step, "target_loss", limited)
    monkeypatch.setattr("effchal.training.fitting.release_memory", empty)
    return found


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.train.max_steps = 4
    tiny_cfg.train.examples_per_step = 8
    tiny_cfg.train.micro_batch_size = 4  # 2,048 tokens
    tiny_cfg.train.checkpoint_every = 1
    tiny_cfg.lora.dropout = 0.2
    return tiny_cfg


def losses(folder):
    return [each["loss"] for each in metrics(folder) if "loss" in each]


@pytest.mark.integration
@pytest.mark.parametrize("after_backward", [False, True])
def test_a_run_without_the_memory_ends_with_the_same_losses(
    after_backward, cfg, card, tmp_path, caplog
):
    cfg.lora.dropout = 0.0  # whose mask depends on the micro-batches
    assert run(cfg, tmp_path / "whole") == 0
    largest = max(card.asked)
    card.tokens, card.after_backward, card.asked = 700, after_backward, []
    assert run(cfg, tmp_path / "small") == 0
    assert largest > 1400
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "whole"), rel=2e-4)
    divisor = record(tmp_path / "small")["micro_batch_divisor"]
    assert 2048 // divisor <= 700
    assert record(tmp_path / "whole")["micro_batch_divisor"] == 1
    steps = [each for each in metrics(tmp_path / "small") if "loss" in each]
    assert [each["micro_batch_divisor"] for each in steps] == [divisor] * 4
    told = [line for line in caplog.messages if line.startswith("out of memory")]
    assert len(told) == card.emptied == sum(tokens > 700 for tokens in card.asked)
    assert told[-1].endswith(
        f"has at most {2048 // divisor} tokens, and each step the same examples"
    )


@pytest.mark.integration
def test_a_resumed_run_knows_the_size_and_repeats_every_bit(cfg, card, tmp_path):
    card.tokens = 700
    assert run(cfg, tmp_path / "whole") == 0
    assert run(cfg, tmp_path / "parts", Stop(after_steps=2)) != 0
    card.asked = []
    assert run(cfg, tmp_path / "parts") == 0
    assert max(card.asked) <= 700  # it does not try the large size again
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.integration
def test_the_step_that_is_done_again_uses_its_random_numbers_again(
    cfg, card, tmp_path, monkeypatch
):
    card.tokens, card.after_backward = 700, True
    assert run(cfg, tmp_path / "again") == 0
    divisor = record(tmp_path / "again")["micro_batch_divisor"]
    card.asked = []
    known = dataclasses.make_dataclass(
        "Known", [("micro_batch_divisor", int, divisor)], bases=(build.RunState,)
    )
    monkeypatch.setattr(build, "RunState", known)
    assert run(cfg, tmp_path / "known") == 0
    assert max(card.asked) <= 700
    assert losses(tmp_path / "again") == losses(tmp_path / "known")


@pytest.mark.integration
def test_an_example_that_does_not_fit_alone_ends_the_run_with_a_checkpoint(
    cfg, card, tmp_path, caplog, monkeypatch
):
    updated, update = [], step.update

    def shrink(*outcome):
        updated.append(1)
        card.tokens = 0 if len(updated) == 2 else card.tokens
        return update(*outcome)

    monkeypatch.setattr(step, "update", shrink)
    assert run(cfg, tmp_path) == 1
    found = record(tmp_path)
    assert (found["status"], found["step"]) == ("failed", 2)
    assert "does not fit alone" in found["error"]
    assert "train.activation_checkpointing=full" in found["error"]
    assert found["error"] in caplog.text
    assert checkpoints(tmp_path / "checkpoint")[0].stem == "step_0000002"
    assert (tmp_path / "bundle" / "manifest.json").is_file()


@pytest.mark.integration
def test_a_validation_without_the_memory_takes_fewer_examples_at_a_time(cfg, card, tmp_path):
    cfg.train.max_steps, cfg.data_mix.validation_fraction = 1, 0.3
    assert run(cfg, tmp_path / "whole") == 0
    card.validates = 600
    assert run(cfg, tmp_path / "small") == 0
    whole, small = (
        [each["validation_loss"] for each in metrics(tmp_path / name) if "validation_loss" in each]
        for name in ("whole", "small")
    )
    assert len(whole) == 2
    assert small == pytest.approx(whole, rel=1e-5)


@pytest.mark.integration
def test_an_example_too_long_to_validate_ends_the_run_with_the_remedy(cfg, card, tmp_path):
    card.validates = 0
    assert run(cfg, tmp_path) == 1
    assert "does not fit alone" in record(tmp_path)["error"]


def micro_batch(*lengths):
    return types.SimpleNamespace(tokens=sum(lengths), lengths=lengths)


def test_the_next_size_is_at_most_half_of_what_failed(cfg):
    assert smaller_divisor(cfg, 1, micro_batch(1500, 500)) == 4  # 512 of at most 1,000
    assert smaller_divisor(cfg, 1, micro_batch(1024, 1024)) == 2
    assert smaller_divisor(cfg, 4, micro_batch(20, 10)) == 256
    cfg.train.packing = False
    assert [capacity_of(cfg, divisor) for divisor in (1, 2, 4, 8)] == [4, 2, 1, 1]
    assert smaller_divisor(cfg, 1, micro_batch(9, 9, 9, 9)) == 2
    assert smaller_divisor(cfg, 1, micro_batch(9, 9, 9)) == 4
    assert smaller_divisor(cfg, 2, micro_batch(9, 9)) == 4


def test_smaller_micro_batches_hold_every_example_once():
    import numpy as np

    from effchal.mixing.encode import EncodedExample

    examples = [
        EncodedExample(str(i), np.arange(n), np.arange(n), False)
        for i, n in enumerate([90, 5, 60, 30, 41, 12])
    ]
    for divisor, most in ((1, 200), (2, 100), (4, 50), (64, 3)):
        packed = pack(examples, 200 // divisor, True)
        names = [name for each in packed for name in each.example_ids]
        assert sorted(names) == [str(i) for i in range(6)]
        assert all(each.tokens <= most or len(each.lengths) == 1 for each in packed)
    assert [len(each.lengths) for each in pack(examples, 2, False)] == [2, 2, 2]
