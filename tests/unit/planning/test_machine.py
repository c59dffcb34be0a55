"""The card that a plan is made for, and what is free of it."""

import pytest
import torch
from support.configs import compose_config
from support.pretended_card import GIB, pretend_card

from effchal.config import ConfigError
from effchal.config.choices import Dtype
from effchal.model.device import CUDA_CONTEXT, pick_device
from effchal.planning import probe as probing
from effchal.planning.fit import make_plan
from effchal.planning.machine import Machine, memory_used, planned_machine
from effchal.planning.probe import probe

TINY = ["model=tiny", "model.dtype=auto", "data_mix=quickstart", "train.max_steps=2"]


def config(*overrides):
    return compose_config([*TINY, *overrides])


def here(*overrides):
    return Machine.here(config(*overrides), pick_device())


def test_a_run_may_take_what_is_free_of_this_card(monkeypatch):
    pretend_card(monkeypatch, total_gib=23.64, free_gib=20.0)  # a desktop has the rest
    machine = here("budget.memory_gib=23.5")
    assert machine.memory_limit == machine.memory_free == 20 * GIB + CUDA_CONTEXT
    assert here("budget.memory_gib=12").memory_limit == 12 * GIB


def test_what_this_process_holds_counts_as_free(monkeypatch):
    pretend_card(monkeypatch, total_gib=23.64, free_gib=12.0, reserved_gib=8.0)
    assert here("budget.memory_gib=null").memory_limit == 20 * GIB + CUDA_CONTEXT


def test_no_card_has_more_free_than_it_has(monkeypatch):
    pretend_card(monkeypatch, total_gib=23.64, free_gib=23.6)
    assert here("budget.memory_gib=null").memory_limit == round(23.64 * GIB)


def test_the_plan_tells_what_is_free_now(monkeypatch):
    pretend_card(monkeypatch, free_gib=20.0)
    free = make_plan(config(), here(), None).as_dict()["memory_free_now"]
    assert free == 20 * GIB + CUDA_CONTEXT
    absent = Machine.of_budget(config())
    assert make_plan(config(), absent, None).as_dict()["memory_free_now"] is None


def test_a_named_card_is_planned_whole_whatever_is_here(monkeypatch):
    pretend_card(monkeypatch)
    for budget in ("budget.memory_gib=23.5", "budget.memory_gib=null"):
        machine = planned_machine(config("plan.device=h100", budget))
        assert (machine.name, machine.memory_limit) == ("H100", round(79.1 * GIB))
        assert machine.memory_free is None


def test_the_budget_names_a_card_of_the_table_or_its_size():
    machine = planned_machine(
        config("plan.device=cuda", "budget.gpu=L40S", "budget.memory_gib=null")
    )
    assert (machine.name, machine.memory_limit) == ("L40S", round(44.4 * GIB))
    machine = planned_machine(config("budget.gpu=L40S", "budget.memory_gib=20"))
    assert machine.memory_limit == 20 * GIB
    with pytest.raises(ConfigError, match=r"budget\.memory_gib=<GiB of the card>"):
        planned_machine(config("plan.device=cuda", "budget.gpu=B200", "budget.memory_gib=null"))


def test_the_current_card_is_planned_for(monkeypatch):
    pretend_card(monkeypatch, count=2, current=1)
    assert planned_machine(config()).device == torch.device("cuda", 1)


def test_auto_means_float32_on_a_card_without_bfloat16():
    t4, h100 = (planned_machine(config(f"plan.device={name}")) for name in ("t4", "h100"))
    assert t4.resolved(config()).model.dtype is Dtype.float32
    assert h100.resolved(config()).model.dtype is Dtype.bfloat16
    planned = {each: make_plan(config(), each, None).memory.parts["weights"] for each in (t4, h100)}
    assert planned[t4] == pytest.approx(2 * planned[h100], rel=0.01)
    with pytest.raises(ConfigError, match=r"T4 has no bfloat16 arithmetic"):
        make_plan(config("model.dtype=bfloat16"), t4, None)


def test_what_the_allocator_keeps_is_not_what_a_run_took(monkeypatch):
    pretend_card(monkeypatch, allocated_gib=3.0, reserved_gib=5.0)
    assert memory_used(torch.device("cuda", 0)) == 3 * GIB


@pytest.mark.integration
def test_a_probe_stays_within_the_budget(monkeypatch, tiny_cfg, tmp_path):
    told = []
    monkeypatch.setattr(probing, "limit_gpu_memory", lambda *given: told.append(given))
    tiny_cfg.budget.memory_gib, cpu = 7.0, torch.device("cpu")
    data = probing.known_data(tiny_cfg, tmp_path)
    probe(tiny_cfg, Machine.here(tiny_cfg, cpu), data, tmp_path, 0.0)
    assert told == [(7.0, cpu)]


def test_a_probe_of_another_card_than_this_machines_is_refused(monkeypatch, tmp_path):
    pretend_card(monkeypatch)
    cfg = config("plan.device=h100", "plan.probe=true")
    with pytest.raises(ConfigError, match=r"plan\.device=h100 is not this machine"):
        probe(cfg, planned_machine(cfg), None, tmp_path, 0.0)


def test_a_file_that_is_not_there_is_told_unless_its_size_is_stated(tmp_path):
    missing = ["data=nowhere.jsonl", "model=tiny"]
    with pytest.raises(ConfigError, match=r"no file nowhere\.jsonl"):
        probing.known_data(compose_config(missing), tmp_path)
    stated = "data_mix.sources.nowhere.examples=500"
    assert probing.known_data(compose_config([*missing, stated]), tmp_path) is None
