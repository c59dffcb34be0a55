"""What a run says at its end: what it reached, and the commands that come next."""

import shlex
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.runs import read_record
from effchal.tracking.words import duration, per_second

NOT_MEASURED = "not measured"


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder; None where there is none that can be read."""
    try:
        return read_record(folder / "run.json")
    except (OSError, ConfigError):
        return None


def as_typed(folder: Path) -> str:
    """A path as short as it can be typed from here."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def ending(folder: Path, record: dict[str, Any], in_sweep: bool = False) -> str:
    """The lines for the screen.

    Args:
        record: the folder's run.json.
        in_sweep: the sweep's table will say what comes next.
    """
    status = record["status"]
    of = f" of {record['steps_planned']}" if status != "finished" else ""
    spent, limit = duration(record["spent_s"]), duration(record["limit_s"])
    rows = [(status.replace("_", " "), f"{record['step']}{of} steps in {spent} of {limit}")]
    if record.get("error"):
        rows.append(("error", record["error"]))
    rows.append(("validation loss", _losses(record)))
    unit = "" if speed(record) == NOT_MEASURED else " tokens/s"
    rows.append(("speed", f"{speed(record)}{unit}, peak memory {memory(record)}"))
    commands = [] if in_sweep else next_commands(folder, record)
    rows += [("" if number else "next", line) for number, line in enumerate(commands)]
    return "\n".join(f"{label:18}{text}" for label, text in rows)


def _losses(record: dict[str, Any]) -> str:
    before, after = loss(record, "validation_loss_before"), loss(record, "validation_loss")
    if record.get("best_loss") is None:
        return f"{before} before, {after} after"
    best = f"{record['best_loss']:.3f} at step {record['best_step']}"
    return f"{before} before, {after} after; best {best}"


def loss(record: dict[str, Any], key: str) -> str:
    return NOT_MEASURED if record.get(key) is None else f"{record[key]:.3f}"


def speed(record: dict[str, Any]) -> str:
    found = (record.get("plan") or {}).get("tokens_per_s")
    return NOT_MEASURED if found is None else per_second(found)


def memory(record: dict[str, Any]) -> str:
    found = record.get("peak_memory_gib")
    return NOT_MEASURED if found is None else f"{found:.1f} GiB"


def next_commands(folder: Path, record: dict[str, Any]) -> list[str]:
    """What to type after a run, without the bundle's commands where there is no bundle."""
    path = shlex.quote(as_typed(folder))
    commands = []
    if (folder / "bundle" / "manifest.json").is_file():
        commands.append(f"effchal serve {path}")
        commands.append(f"effchal evaluate {path} 'scenario.entries=[truthful_qa_mc]'")
    commands.append(f"effchal report {path}")
    if record["status"] == "stopped_by_budget":
        commands.append(f"effchal train {path} budget.hours={hours_for_the_rest(record):.2g}")
    elif record["status"] == "interrupted":
        commands.append(f"effchal train {path}")
    return commands


def hours_for_the_rest(record: dict[str, Any]) -> float:
    """A budget in which a run that its budget ended can do its other steps.

    It adds the start once more, the steps that are left at the speed so far, and a half of both
    for what is not foreseen. Without a step done, it is three times what was spent.
    """
    spent_s, start_s = record["spent_s"], record.get("first_step_s") or 0.0
    done, planned = record["step"], record["steps_planned"]
    if not done:
        return max(2 * record["limit_s"], 3 * spent_s) / 3600
    steps_s = (spent_s - start_s) / done * (planned - done)
    return (spent_s + 1.5 * (start_s + steps_s)) / 3600
