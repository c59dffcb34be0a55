"""A contest's rules, held against a config and the machine."""

import logging
from dataclasses import dataclass
from fnmatch import fnmatch

from effchal.config import (
    BudgetConfig,
    Config,
    ConfigError,
    DataMixConfig,
    ModelConfig,
    RulesConfig,
)
from effchal.config.choices import Origin

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    rule: str
    found: str
    ok: bool
    remedy: str = ""  # where it is not ok


def check_rules(
    rules: RulesConfig,
    model: ModelConfig,
    data_mix: DataMixConfig,
    budget: BudgetConfig,
    gpus: list[str],
) -> list[Finding]:
    """One finding for each rule.

    Args:
        gpus: names of the cards that the run can use.
    """
    return [
        _base_model(rules, model.name),
        _not_tuned(rules, model.name),
        _one_gpu(rules, gpus),
        Finding(
            f"at most {rules.hours:g} hours",
            f"budget.hours={budget.hours:g}",
            budget.hours <= rules.hours,
            f"budget.hours={rules.hours:g}",
        ),
        *_sources(rules, data_mix),
    ]


def enforce_rules(cfg: Config, gpus: list[str]) -> None:
    """Say which rules a run breaks, before work is spent on it.

    Raises:
        ConfigError: rules.enforce=true, and a rule is broken.
    """
    if cfg.rules is None:
        return
    findings = check_rules(cfg.rules, cfg.model, cfg.data_mix, cfg.budget, gpus)
    if not all(finding.ok for finding in findings):
        told = f"{summary(cfg.rules, findings)}; python -m effchal.check says what would pass, rules=none leaves them out"
        if cfg.rules.enforce:
            raise ConfigError(told)
        log.warning(told)


def summary(rules: RulesConfig, findings: list[Finding]) -> str:
    """One line: what fails, or that nothing does."""
    failed = [finding.rule for finding in findings if not finding.ok]
    if not failed:
        return f"{rules.name}: all {len(findings)} rules pass"
    return f"{rules.name}: {len(failed)} of {len(findings)} rules fail ({'; '.join(failed)})"


def _base_model(rules: RulesConfig, name: str) -> Finding:
    approved = any(fnmatch(name, pattern) for pattern in rules.base_models)
    remedy = "model.name=<hub id of an approved family, see conf/rules>; what a local folder holds cannot be told"
    return Finding("approved base model", f"model.name={name}", approved, remedy)


def _not_tuned(rules: RulesConfig, name: str) -> Finding:
    told = [pattern for pattern in rules.tuned_models if fnmatch(name.lower(), pattern.lower())]
    found = f"model.name={name}" + (f" is like {told[0]}" if told else "")
    return Finding("not instruction-tuned", found, not told, "take the base model of that family")


def _one_gpu(rules: RulesConfig, gpus: list[str]) -> Finding:
    allowed = " or ".join(rules.gpus)
    ok = len(gpus) == 1 and any(part in gpus[0] for part in rules.gpus)
    return Finding(
        f"one {allowed}",
        ", ".join(gpus) or "no GPU",
        ok,
        "train on such a card, alone (CUDA_VISIBLE_DEVICES)",
    )


def _sources(rules: RulesConfig, data_mix: DataMixConfig) -> list[Finding]:
    """Licence and origin of every source: what is unknown fails, for nobody could defend it."""
    findings = []
    for name, source in data_mix.sources.items():
        key = f"data_mix.sources.{name}"
        licensed = source.license != "unknown"
        findings.append(
            Finding(
                f"{name}: open, with a licence",
                source.license,
                licensed,
                f"{key}.license=<its licence>",
            )
        )
        permitted = source.origin is Origin.llm and (
            rules.llm_data or source.llm_license is not None
        )
        found = source.origin.value
        if source.origin is Origin.llm:
            found += f", llm_license={source.llm_license}"
        remedy = f"{key}.origin=people if no LLM wrote any of it; if one did, =llm and {key}.llm_license=<what allows it>"
        ok = source.origin is Origin.people or permitted
        findings.append(Finding(f"{name}: no LLM wrote it without permission", found, ok, remedy))
    return findings
