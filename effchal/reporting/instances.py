"""What was asked and answered, instance by instance, for those that go into the page."""

import hashlib
from collections.abc import Sequence
from typing import Any

from effchal.evaluation.names import instance_key
from effchal.reporting.collect import Run, number
from effchal.reporting.curves import cut, dicts, is_finite, rounded
from effchal.reporting.scores import mapping


def instances_of(
    runs: Sequence[tuple[str, Run]], most: int, longest: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Instances with the answers of all evaluations, and how many of each were left out.

    The drawing is by the digest of entry and id, so that evaluations of the same entries keep
    the same instances.

    Args:
        runs: evaluations with their labels.
        most: instances of one evaluation.
        longest: characters of a text; longer ones lack their middle.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    counts = []
    for label, run in runs:
        whole = [each for each in run.instances if isinstance(each.get("decodings"), dict)]
        kept = sorted(whole, key=drawing)[:most]
        if whole:
            counts.append({"run": label, "shown": len(kept), "of": len(whole)})
        for record in kept:
            key = str(record.get("entry")), instance_key(record)
            instance = found.setdefault(key, {"entry": key[0], "id": key[1], "answers": []})
            for name in ("prompt", "references"):
                if name not in instance and record.get(name) is not None:
                    instance[name] = plain(record[name], longest)
            instance["answers"] += answers_of(record, label, main_metric(run, key[0]), longest)
    return list(found.values()), counts


def drawing(record: dict[str, Any]) -> str:
    return hashlib.sha256(f"{record.get('entry')}\n{instance_key(record)}".encode()).hexdigest()


def main_metric(run: Run, entry: str) -> str | None:
    name = mapping(mapping(run.record.get("entries")).get(entry)).get("main_metric")
    return name if isinstance(name, str) else None


def plain(value: Any, longest: int) -> Any:
    """A prompt as text, references as {text, correct}."""
    if not isinstance(value, list):
        return cut(str(value), longest)
    return [
        {"text": cut(str(each.get("text", "")), longest), "correct": bool(each.get("correct"))}
        for each in dicts(value)
    ]


def answers_of(
    record: dict[str, Any], label: str, metric: str | None, longest: int
) -> list[dict[str, Any]]:
    """One for each decoding: its text, or the log-probabilities of the choices; its score."""
    found = []
    for decoding, answer in record["decodings"].items():
        answer = mapping(answer)
        metrics = mapping(answer.get("metrics"))
        name = metric or next(iter(metrics), "")
        score = number(metrics, name)
        each: dict[str, Any] = {"run": label, "decoding": decoding}
        if score is not None:
            each |= {"score": rounded(score), "metric": name}
        logprobs = answer.get("logprobs")
        if isinstance(logprobs, list) and all(map(is_finite, logprobs)):
            each["logprobs"] = [rounded(x) for x in logprobs]
        else:
            each["text"] = cut(str(answer.get("text", "")), longest)
        found.append(each)
    return found
