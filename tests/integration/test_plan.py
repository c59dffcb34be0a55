"""The run plan of a config, and the command that prints it."""

import dataclasses
import json
import types

import pytest
import torch
from support import forked
from support.configs import compose_config

from effchal.config.choices import Parallel
from effchal.planning import fit
from effchal.planning.candidates import alternatives, plan_with_options
from effchal.planning.fit import make_plan
from effchal.planning.history import Record, keep_record, kind_of
from effchal.planning.machine import Machine
from effchal.planning.meta_model import build_meta_model
from effchal.planning.report import screen
from effchal.planning.sharded import held_weights, layer_weights

GIB = 2**30
CARD = Machine(torch.device("cuda"), "RTX 4090", 24 * GIB, round(0.6 * GIB))


def mistral(*overrides):
    return compose_config(
        ["model=mistral_7b", "data_mix=quickstart", "lora=all_linear", *overrides]
    )


def plan_of(cfg, machine=CARD):
    return plan_with_options(cfg, machine, None)


def test_mistral_fits_a_card_of_24_gib_and_not_one_of_8():
    plan = plan_of(mistral())
    assert plan.fits
    assert (
        3.5 * GIB < plan.memory.parts["weights"] < 4.5 * GIB
    )  # 7.24 billion, nearly all in four bits
    assert not plan_of(mistral("train.compile=true")).memory_fits  # the library's layers
    small = dataclasses.replace(CARD, memory_limit=8 * GIB)
    plan = plan_of(mistral(), small)
    assert not plan.fits
    option = plan.options[0]
    assert option.overrides == ["train.activation_checkpointing=full"]
    again = plan_of(mistral(*option.overrides), small)
    assert again.fits
    assert again.memory_needed == option.memory


def test_full_precision_weights_do_not_fit_and_quantization_is_named():
    cfg = mistral("model.quantization=null", "model.dtype=float32")
    plan = plan_of(cfg)
    assert not plan.memory_fits
    assert ["model.quantization=nf4"] in [option.overrides for option in plan.options]


def test_cards_share_the_packed_bytes_of_four_bit_weights():
    cfg = mistral("model.quantization=nf4", "train.gpus=4", "train.parallel=fsdp")
    packed = (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) // 2
    assert layer_weights(build_meta_model(cfg, torch.device("cpu"), 2)) == 2 * packed
    away = 4 * GIB - held_weights(cfg, 4 * GIB, 32 * packed)
    assert away == pytest.approx(32 * packed * (1 - 1 / 4 - 2 / 32))


@pytest.mark.parametrize("fits", [Parallel.data, Parallel.fsdp])
def test_four_bit_weights_are_spread_over_cards_where_only_that_fits(monkeypatch, fits):
    def planned(cfg, *_):
        return types.SimpleNamespace(memory_fits=cfg.train.parallel is fits)

    monkeypatch.setattr(fit, "make_plan", planned)
    cfg = mistral("train.gpus=4", "model.quantization=nf4")
    fit.choose_parallel(cfg, CARD, None)
    assert cfg.train.parallel is fits


def command(tmp_path, *overrides):
    return forked.run(["plan", f"hydra.run.dir={tmp_path}", *overrides])


def test_the_command_says_whether_it_fits(tmp_path):
    fits = command(tmp_path, "model=mistral_7b", "data_mix=lima_platypus")
    assert fits.returncode == 0, fits.stderr
    assert "fits: memory" in fits.stdout
    assert "hours:" in fits.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["fits"] is True
    wrong = command(tmp_path, "model=mistral_7b", "lora.target_modules=[query]")
    assert (wrong.returncode, "memory" in wrong.stdout) == (2, False)
    assert "lora.target_modules has ['query']" in wrong.stderr


def test_a_probe_is_kept_for_later_plans(tmp_path):
    tiny = [
        "model=tiny",
        "prompt=plain",
        "data_mix=quickstart",
        "rules=none",
        "plan.device=cpu",
        "train.epochs=20",
    ]
    large = command(tmp_path, *tiny, "plan.device=cuda", "budget.memory_gib=0.1")
    assert large.returncode == 1, large.stderr
    assert "does not fit" in large.stdout
    probed = command(tmp_path, *tiny, "plan.probe=true")
    assert probed.returncode == 0, probed.stderr
    after = command(tmp_path, *tiny)
    assert "1 probe of this kind on this machine" in after.stdout


def test_rules_that_are_enforced_refuse_a_plan_that_fits(tmp_path):
    tiny = ["model=tiny", "data_mix=quickstart", "plan.device=cpu", "train.max_steps=2"]
    tiny += ["rules=neurips_2023"]
    warned, refused = command(tmp_path, *tiny), command(tmp_path, *tiny, "rules.enforce=true")
    assert (warned.returncode, refused.returncode) == (0, 1)
    assert "rules fail" in refused.stdout


def test_a_probe_of_a_card_that_is_not_here_is_refused(tmp_path):
    tiny = [
        "model=tiny",
        "prompt=plain",
        "data_mix=quickstart",
        "rules=none",
        "plan.device=cuda",
        "plan.probe=true",
    ]
    result = command(tmp_path, *tiny)
    assert result.returncode == 2
    assert "add plan.device=cpu" in result.stderr


LEARNED = ["model=tiny", "data_mix=quickstart", "train.max_steps=2"]


def plan_after(machine, factor, **changes):
    """The plan of a small run after one that took `factor` times what was planned."""
    cfg = compose_config(LEARNED)
    before = make_plan(cfg, machine, None)
    record = Record(
        source="run",
        kind=kind_of(cfg, machine.name, before.model),
        tokens_per_s=100.0,
        spread=0.01,
        start_s=1.0,
        validation_tokens_per_s=None,
        save_s=1.0,
        memory=round(factor * before.memory_planned),
        memory_planned=before.memory_planned,
    )
    keep_record(dataclasses.replace(record, **changes))
    return before, make_plan(cfg, machine, None)


def test_a_gpu_plan_learns_of_its_tensors_alone():
    before, after = plan_after(CARD, 2.0)
    peak = before.memory.peak
    assert before.memory_planned == peak
    assert before.memory_needed == peak + before.memory_beside
    assert after.memory_needed == 2 * peak + before.memory_beside


def test_a_cpu_plan_learns_of_its_whole_process():
    machine = Machine(torch.device("cpu"), "a CPU", 24 * GIB, GIB)
    before, after = plan_after(machine, 1.5)
    assert after.memory_needed == pytest.approx(1.5 * before.memory_needed)


@pytest.mark.parametrize(
    ("limit_then", "fits"), [(1.0, True), (0.9, True), (1.1, False), (None, False)]
)
def test_a_kind_that_has_finished_is_not_refused_by_what_was_learned(limit_then, fits):
    """It took twice the plan, by whatever measure, and went through with `limit_then`."""
    bare = dataclasses.replace(CARD, memory_beside=0)
    needed = make_plan(compose_config(LEARNED), bare, None).memory_needed
    machine = dataclasses.replace(bare, memory_limit=round(1.05 * needed))
    then = limit_then and round(limit_then * machine.memory_limit)
    _, after = plan_after(machine, 2.0, memory_limit=then)
    assert after.memory_factor == 2.0
    assert after.memory_fits is fits


def test_errors_of_our_own_preparation_are_not_swallowed(monkeypatch):
    def broken(model):
        raise AttributeError("'LlamaForCausalLM' object has no attribute 'some_checkpointing'")

    monkeypatch.setattr("effchal.training.layers.checkpoint_layers", broken)
    keys = ["lora.use_dora=true", "train.activation_checkpointing=full"]  # the library's layers
    with pytest.raises(AttributeError, match="some_checkpointing"):
        make_plan(compose_config([*LEARNED, *keys]), CARD, None)


def test_an_architecture_that_looks_at_its_data_is_not_planned(monkeypatch, caplog):
    def looks(*_):
        raise TypeError("a value of a fake tensor")

    monkeypatch.setattr("effchal.planning.memory.target_loss", looks)
    plan = make_plan(compose_config(LEARNED), CARD, None)
    assert plan.memory is None
    assert "memory cannot be planned for builtin:tiny: TypeError: a value" in caplog.text


def test_the_ways_to_keep_a_model_are_compared_fastest_first():
    cfg = compose_config([*LEARNED, "model.dtype=auto"])
    machine = dataclasses.replace(CARD, memory_beside=0)
    ways = alternatives(cfg, machine, None)
    assert len(ways) == 6
    assert [way.chosen for way in ways].count(True) == 1
    assert all(way.fits for way in ways)
    hours = [way.hours.expected for way in ways]
    assert hours == sorted(hours)
    middle = sorted(way.memory for way in ways)[2]
    tight = alternatives(cfg, dataclasses.replace(machine, memory_limit=middle), None)
    assert [way.fits for way in tight] == [True] * 3 + [False] * 3
    plan = make_plan(cfg, machine, None)
    plan.alternatives = ways
    fastest = "fastest that fits: model.quantization=null train.activation_checkpointing=none"
    assert screen(plan, cfg, None).endswith(fastest)
