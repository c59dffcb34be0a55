"""train.samples: the model in training answers, and trains on as if it never had."""

import dataclasses

import pytest
import torch
from support.training_runs import metrics, run, same_weights

from effchal.api import load
from effchal.config import ConfigError, TrainConfig
from effchal.config.choices import ActivationCheckpointing
from effchal.training import validation
from effchal.training.budget import WallClock
from effchal.training.samples import Sampler, check_samples

PROMPTS = ["What is a budget?", "Count to ten, please."]


def with_samples(cfg, **train):
    return dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, samples=PROMPTS, **train))


def cut_no_validation(cfg, monkeypatch):
    """However slow this machine is now."""
    cfg.budget.periodic_work_share = 1.0
    monkeypatch.setattr(validation, "LAST_FACTOR", 1000)


@pytest.mark.parametrize(
    ("dropout", "keep"),
    [
        (0.0, ActivationCheckpointing.none),
        (0.1, ActivationCheckpointing.none),  # random numbers
        (0.1, ActivationCheckpointing.full),
        (0.1, ActivationCheckpointing.selective),
    ],
)
def test_losses_and_weights_are_the_same_to_the_bit(tiny_cfg, tmp_path, monkeypatch, dropout, keep):
    cut_no_validation(tiny_cfg, monkeypatch)
    tiny_cfg.lora.dropout, tiny_cfg.train.activation_checkpointing = dropout, keep
    run(tiny_cfg, tmp_path / "without")
    run(with_samples(tiny_cfg, sample_tokens=8), tmp_path / "with")
    assert same_weights(tmp_path / "without", tmp_path / "with")
    names = ("loss", "grad_norm", "validation_loss")
    without, with_ = (
        [{name: line[name] for name in names if name in line} for line in metrics(tmp_path / each)]
        for each in ("without", "with")
    )
    assert [line for line in without if line] == [line for line in with_ if line]


def test_each_validation_leaves_answers_which_the_bundle_gives_too(
    tiny_cfg, tmp_path, caplog, monkeypatch
):
    cut_no_validation(tiny_cfg, monkeypatch)
    run(with_samples(tiny_cfg, sample_tokens=8), tmp_path)
    found = [line for line in metrics(tmp_path) if "samples" in line]
    assert [line["step"] for line in found] == [0, 3, 6]
    assert [each["prompt"] for each in found[-1]["samples"]] == PROMPTS
    answers = load(tmp_path / "bundle").generate(PROMPTS, method="greedy", max_new_tokens=8)
    assert [each["completion"] for each in found[-1]["samples"]] == [each.text for each in answers]
    assert found[0]["samples"] != found[-1]["samples"]
    assert "What is a budget? -> " in caplog.text


def test_step_records_have_epoch_and_memory(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path)
    steps = [line for line in metrics(tmp_path) if "loss" in line]
    epochs = [line["epoch"] for line in steps]
    assert epochs == pytest.approx([n * epochs[0] for n in range(1, 7)])
    assert 0 < steps[0]["memory_gib"] <= steps[-1]["memory_gib"]


def test_no_time_is_no_sample_and_the_time_counts(tiny_cfg, tmp_path, monkeypatch):
    affords = WallClock.affords

    def no_samples(clock, what, share):
        return what != "samples" and affords(clock, what, share)

    monkeypatch.setattr(WallClock, "affords", no_samples)
    run(with_samples(tiny_cfg, sample_tokens=4), tmp_path)
    found = [line["step"] for line in metrics(tmp_path) if "samples" in line]
    assert found == [0, 6]  # not the one between steps


def test_answers_end_when_their_time_is_over(tiny_cfg, tmp_path, monkeypatch):
    answer = Sampler.answer
    monkeypatch.setattr(Sampler, "answer", lambda sampler, _: answer(sampler, lambda: True))
    run(with_samples(tiny_cfg, sample_tokens=50), tmp_path)
    found = [line for line in metrics(tmp_path) if "samples" in line]
    assert found
    # A prompt's first token comes with its prefill; no step follows.
    assert all(len(each["completion"]) <= 1 for line in found for each in line["samples"])


def test_a_fault_of_decoding_is_told_and_the_run_goes_on(tiny_cfg, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise torch.OutOfMemoryError("no memory is left\nand more")

    monkeypatch.setattr(Sampler, "_answers", fail)
    assert run(with_samples(tiny_cfg), tmp_path) == 0
    assert caplog.text.count("no samples: no memory is left\n") == 3


def test_what_cannot_be_answered_is_refused(tiny_cfg):
    with pytest.raises(ConfigError, match=r"train.samples.*none of them empty"):
        TrainConfig(samples=["a prompt", " "])
    with pytest.raises(ConfigError, match=r"train.sample_tokens"):
        TrainConfig(sample_tokens=0)
    long = with_samples(tiny_cfg, sample_tokens=100_000)
    with pytest.raises(ConfigError, match=r"train.samples\[0\] has \d+ tokens, which with"):
        check_samples(long)
