"""Short names of entries, for figures and tables."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from effchal.mixing.readers import is_readable

POOLED = ("mmlu", "bbq")  # scenarios whose entries are parts, one for each subject
SCENARIOS = {
    "mmlu": "MMLU",
    "truthful_qa": "TruthfulQA",
    "truthful_qa_mc": "TruthfulQA MC",
    "bbq": "BBQ",
    "gsm": "GSM8K",
    "big_bench": "BIG-bench",
    "summarization_cnndm": "CNN/DM",
    "sam_sum": "SAMSum",
    "math": "MATH",
    "ethics_commonsense": "ETHICS commonsense",
    "ethics_deontology": "ETHICS deontology",
    "ethics_justice": "ETHICS justice",
    "ethics_utilitarianism": "ETHICS utilitarianism",
    "ethics_virtue": "ETHICS virtue",
}
# Arguments that tell no entry from another.
UNSAID = {"mc_single", "multiple_choice_joint", "canonical"}


def short_names(entries: Iterable[str]) -> dict[str, str]:
    """Short names by entry: `MMLU anatomy` for `mmlu:subject=anatomy`; full where two are alike."""
    names = {entry: short_name(entry) for entry in entries}
    counts = Counter(names.values())
    return {entry: name if counts[name] == 1 else entry for entry, name in names.items()}


def short_name(entry: str) -> str:
    head, colon, rest = entry.partition(":")
    if head == "jsonl":
        return Path(rest.removeprefix("path=")).name
    if is_readable(Path(entry)):  # a file of the user's own questions
        return entry
    if not colon:  # also what a pooled entry is called: "mmlu, 5 entries together"
        scenario, comma, more = head.partition(",")
        return SCENARIOS.get(scenario, scenario) + comma + more
    values = [_said(*part.partition("=")) for part in rest.split(",")]
    said = [value.replace("_", " ") for value in values if value and value not in UNSAID]
    return " ".join([SCENARIOS.get(head, head), *said])


def _said(argument: str, _: str, value: str) -> str:
    """What an argument adds to a short name: nothing where it does not tell what was asked."""
    if argument in ("max_eval_instances", "use_chain_of_thought"):
        return ""
    if argument == "max_train_instances":
        return f"{value}-shot"
    return f"level {value}" if argument == "level" else value


def instance_key(line: dict[str, Any]) -> str:
    """Of a line of instances.jsonl; unique within its entry, perturbed instances included."""
    return f"{line.get('id', '')} {line.get('perturbation') or ''}".strip()


def pooled_name(scenario: str, entries: int) -> str:
    return f"{scenario}, {entries} entries together"


def is_pooled(entry: str) -> bool:
    return entry.endswith(" entries together")
