import logging

import pytest
from support import forked
from support.configs import compose_config

from effchal.config import ConfigError
from effchal.config.choices import Origin
from effchal.rules import check_rules, enforce_rules, summary

CARD = ["NVIDIA GeForce RTX 4090"]
EXPERIMENTS = {"reference_2023": True, "lima_platypus": True, "smollm2_lima_platypus": False}


@pytest.fixture
def cfg():
    return compose_config(["rules=neurips_2023"])


def failing(cfg, gpus=CARD):
    findings = check_rules(cfg.rules, cfg.model, cfg.data_mix, cfg.budget, gpus)
    assert all(finding.remedy for finding in findings if not finding.ok)
    return [finding.rule for finding in findings if not finding.ok]


def test_a_contest_is_asked_for_by_its_name_or_by_an_experiment_of_it():
    assert compose_config([]).rules is None
    for experiment, has_rules in EXPERIMENTS.items():
        assert bool(compose_config([f"experiment={experiment}"]).rules) is has_rules


def test_the_default_run_on_an_rtx_4090_keeps_every_rule(cfg):
    assert failing(cfg) == []
    assert failing(cfg, ["NVIDIA A100-SXM4-40GB"]) == []
    findings = check_rules(cfg.rules, cfg.model, cfg.data_mix, cfg.budget, CARD)
    assert summary(cfg.rules, findings) == "NeurIPS 2023 LLM Efficiency Challenge: all 8 rules pass"


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("meta-llama/Llama-2-7b-hf", []),
        ("EleutherAI/pythia-1.4b", []),
        ("meta-llama/Llama-2-7b-chat-hf", ["not instruction-tuned"]),
        ("mistralai/Mistral-7B-Instruct-v0.1", ["approved base model", "not instruction-tuned"]),
        ("mistralai/Mistral-7B-v0.3", ["approved base model"]),
        ("google/flan-t5-xl", ["approved base model", "not instruction-tuned"]),
        ("outputs/models/mine", ["approved base model"]),
    ],
)
def test_base_models(cfg, name, rules):
    cfg.model.name = name
    assert failing(cfg) == rules


def test_cards_and_hours(cfg):
    assert (
        failing(cfg, [])
        == failing(cfg, CARD * 2)
        == failing(cfg, ["NVIDIA H100 PCIe"])
        == ["one RTX 4090 or A100"]
    )
    cfg.budget.hours = 25
    assert failing(cfg) == ["at most 24 hours"]


def test_sources_need_a_licence_and_an_origin(cfg):
    lima = cfg.data_mix.sources["lima"]
    lima.license = "unknown"
    assert failing(cfg) == ["lima: open, with a licence"]
    lima.license = "MIT"
    for origin in (Origin.unknown, Origin.llm):
        lima.origin = origin
        assert failing(cfg) == ["lima: no LLM wrote it without permission"]
    lima.llm_license = "Apache-2.0, output included"
    assert failing(cfg) == []
    lima.origin = Origin.unknown
    assert failing(cfg) == ["lima: no LLM wrote it without permission"]
    cfg.rules.llm_data = True
    lima.origin, lima.llm_license = Origin.llm, None
    assert failing(cfg) == []


def test_a_broken_rule_warns_or_refuses(cfg, caplog):
    enforce_rules(cfg, CARD)
    assert not caplog.records
    enforce_rules(cfg, [])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "1 of 8 rules fail (one RTX 4090 or A100); effchal check" in caplog.text
    cfg.rules.enforce = True
    with pytest.raises(ConfigError, match="1 of 8 rules fail"):
        enforce_rules(cfg, [])
    cfg.rules = None
    enforce_rules(cfg, [])


@pytest.mark.integration
def test_the_command_prints_each_rule_and_exits_1(tmp_path):
    command = ["check", "rules=neurips_2023", "budget.hours=30", f"hydra.run.dir={tmp_path}"]
    result = forked.run(command)
    assert result.returncode == 1
    assert "FAIL  at most 24 hours: budget.hours=30\n      budget.hours=24\n" in result.stdout
    assert "pass  approved base model: model.name=mistralai/Mistral-7B-v0.1" in result.stdout


@pytest.mark.integration
def test_a_check_without_rules_says_what_to_type(tmp_path):
    typed = [f"hydra.run.dir={tmp_path}/a b", "name=it is"]
    result = forked.run(["check", *typed])
    told = "error: no rules to check; type: effchal check rules=neurips_2023 'name=it is'\n"
    assert (result.returncode, result.stderr) == (2, told)
