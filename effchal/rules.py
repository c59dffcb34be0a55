"""A contest's rules, checked against a config and the machine."""

import logging
import re
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

OTHER_CARDS = {"laptop", "max", "mig", "d"}  # Max-Q; RTX 4090 D
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
        gpus: names of the GPUs that the run can use.
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
    """Log which rules a run breaks, before work is spent on it.

    Raises:
        ConfigError: rules.enforce=true, and a rule is broken.
    """
    if cfg.rules is None:
        return
    findings = check_rules(cfg.rules, cfg.model, cfg.data_mix, cfg.budget, gpus)
    if not all(finding.ok for finding in findings):
        message = (
            f"{summary(cfg.rules, findings)}; effchal check says what would pass, "
            "rules=none leaves them out"
        )
        if cfg.rules.enforce:
            raise ConfigError(message)
        log.warning(message)


def summary(rules: RulesConfig, findings: list[Finding]) -> str:
    """One line: what fails, or that nothing does."""
    failed = [finding.rule for finding in findings if not finding.ok]
    if not failed:
        return f"{rules.name}: all {len(findings)} rules pass"
    return f"{rules.name}: {len(failed)} of {len(findings)} rules fail ({'; '.join(failed)})"


def _base_model(rules: RulesConfig, name: str) -> Finding:
    approved = any(fnmatch(name, pattern) for pattern in rules.base_models)
    remedy = (
        "model.name=<hub id of an approved family, see conf/rules>; "
        "a local folder does not say what it holds"
    )
    return Finding("approved base model", f"model.name={name}", approved, remedy)


def _not_tuned(rules: RulesConfig, name: str) -> Finding:
    like = [pattern for pattern in rules.tuned_models if fnmatch(name.lower(), pattern.lower())]
    found = f"model.name={name}" + (f" is like {like[0]}" if like else "")
    return Finding("not instruction-tuned", found, not like, "take the base model of that family")


def _one_gpu(rules: RulesConfig, gpus: list[str]) -> Finding:
    allowed = " or ".join(rules.gpus)
    ok = len(gpus) == 1 and any(is_card(gpus[0], wanted) for wanted in rules.gpus)
    remedy = "train on such a card, alone (CUDA_VISIBLE_DEVICES)"
    return Finding(f"one {allowed}", ", ".join(gpus) or "no GPU", ok, remedy)


def card_words(name: str) -> list[str]:
    """A card's name as words: "NVIDIA A100-SXM4-80GB" has nvidia, a100, sxm4 and 80gb."""
    return re.findall(r"[a-z0-9.]+", name.lower())


def is_card(name: str, wanted: str) -> bool:
    """Whether the words of `wanted` follow each other in a card's name.

    A laptop's card, a part of a card and a cut-down edition are other cards.
    """
    words, part = card_words(name), card_words(wanted)
    found = any(words[i : i + len(part)] == part for i in range(len(words)))
    return found and not OTHER_CARDS & (set(words) - set(part))


def _sources(rules: RulesConfig, data_mix: DataMixConfig) -> list[Finding]:
    """Licence and origin of every source. What is unknown fails: nobody could defend it."""
    findings = []
    for name, source in data_mix.sources.items():
        key = f"data_mix.sources.{name}"
        is_open = Finding(
            f"{name}: open, with a licence",
            source.license,
            source.license != "unknown",
            f"{key}.license=<its licence>",
        )
        by_llm = source.origin is Origin.llm
        permitted = by_llm and (rules.llm_data or source.llm_license is not None)
        by_people = Finding(
            f"{name}: no LLM wrote it without permission",
            source.origin.value + (f", llm_license={source.llm_license}" if by_llm else ""),
            source.origin is Origin.people or permitted,
            f"{key}.origin=people if no LLM wrote any of it; if one did, =llm and "
            f"{key}.llm_license=<what allows it>",
        )
        findings += [is_open, by_people]
    return findings
