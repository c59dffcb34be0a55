"""What training runs were made of, and what was planned against what came."""

from collections.abc import Sequence
from typing import Any

from effchal.reporting.collect import Run, number
from effchal.reporting.curves import dicts, rounded
from effchal.reporting.scores import mapping

QUANTITIES = {"memory_gib": "memory, GiB", "hours": "hours", "tokens": "tokens"}


def plans_of(run: Run, label: str) -> list[dict[str, Any]]:
    """Planned and actual amounts with their ratio, where both are known."""
    found = []
    for key, name in QUANTITIES.items():
        planned = number(run.record, "plan", key, "predicted")
        actual = number(run.record, "plan", key, "actual")
        if planned and actual is not None:
            ratio = rounded(actual / planned)
            found.append(
                {
                    "run": label,
                    "quantity": name,
                    "planned": planned,
                    "actual": actual,
                    "ratio": ratio,
                }
            )
    return found


def mixes_of(runs: Sequence[tuple[str, Run]]) -> list[dict[str, Any]]:
    """Each mix once, with the runs that it is of, its sources and what was dropped."""
    found: dict[str, dict[str, Any]] = {}
    for label, run in runs:
        sources = [source for source in dicts(run.mix.get("sources")) if source.get("source")]
        if not sources:
            continue
        key = str(run.mix.get("sha256") or run.folder)
        mix = found.setdefault(key, {"runs": [], "sources": [source_of(each) for each in sources]})
        mix["runs"].append(label)
    for index, mix in enumerate(found.values()):
        names = " + ".join(source["source"] for source in mix["sources"])
        mix["mix"] = f"{chr(ord('A') + index % 26)}{index // 26 or ''}: {names}"
    return list(found.values())


def source_of(source: dict[str, Any]) -> dict[str, Any]:
    dropped = mapping(source.get("dropped"))
    counts = {rule: number(dropped, rule, "count") or number(dropped, rule) for rule in dropped}
    names = ("rows", "kept", "validation", "tokens", "target_tokens", "share_rows", "share_tokens")
    return {
        "source": str(source["source"]),
        "license": str(source.get("license") or "unknown"),
        "copies": number(source, "copies"),
        **{name: number(source, name) for name in names},
        "dropped": {rule: count for rule, count in counts.items() if count},
    }


def configs_of(runs: Sequence[tuple[str, Run]]) -> dict[str, Any]:
    """The configs of all runs: the first as it is, the others by what differs from it."""
    with_config = [(label, run.config) for label, run in runs if run.config]
    if not with_config:
        return {"base": {}, "runs": {}}
    base = with_config[0][1]
    changes = {
        label: {
            "set": {key: value for key, value in config.items() if base.get(key, ...) != value},
            "without": [key for key in base if key not in config],
        }
        for label, config in with_config
    }
    return {"base": base, "runs": changes}
