"""The table at the end of a sweep of trainings: what each job changed, and what it came to."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.tracking.ending import (
    NOT_MEASURED,
    as_typed,
    loss,
    memory,
    next_commands,
    read_run,
    speed,
)
from effchal.tracking.words import one_line

IN_A_FILE, LONGEST_REASON = 160, 120  # columns; characters
COLUMNS = ("", "job", "what differs", "status", "steps", "validation loss", "tokens/s", "memory")


@dataclass
class SweepJob:
    """One job of a sweep."""

    overrides: list[str]
    error: str | None = None  # why it failed


def changes_of(jobs: dict[Path, SweepJob]) -> dict[Path, list[str]]:
    """The overrides of each job that not all jobs have."""
    shared = set.intersection(*(set(job.overrides) for job in jobs.values()))
    return {
        folder: [word for word in job.overrides if word not in shared]
        for folder, job in jobs.items()
    }


def failures_of(jobs: dict[Path, SweepJob]) -> str:
    """What to say of the jobs that failed; empty if none did."""
    lines = [
        f"\n  {folder} ({' '.join(changes_of(jobs)[folder])}): {job.error}"
        for folder, job in jobs.items()
        if job.error is not None
    ]
    if not lines:
        return ""
    count = "1 job" if len(lines) == 1 else f"{len(lines)} jobs"
    again = "the same command with hydra.sweep.dir=<its folder> does what is not done"
    return f"{count} of the sweep failed; {again}{''.join(lines)}"


def best_of(records: dict[Path, dict[str, Any] | None]) -> Path | None:
    """The run with the lowest validation loss; None where none was measured."""
    losses = {
        folder: record["validation_loss"]
        for folder, record in records.items()
        if record is not None and record.get("validation_loss") is not None
    }
    return min(losses, key=lambda folder: losses[folder], default=None)


def row_of(
    name: str, changes: list[str], error: str | None, record: dict[str, Any] | None
) -> list[str]:
    """A row of the table, from COLUMNS[1] on to the hours. A refused job has no record."""
    first, reason = [name, "\n".join(changes)], error or (record or {}).get("error") or ""
    reason = one_line(reason, LONGEST_REASON)
    if record is None:
        return [*first, f"refused: {reason}" if reason else "no run.json", "", "", "", "", ""]
    status = record["status"].replace("_", " ") + (f": {reason}" if reason else "")
    steps = f"{record['step']}/{record['steps_planned']}"
    hours = f"{record['spent_s'] / 3600:.3f}"
    loss_after = loss(record, "validation_loss")
    return [*first, status, steps, loss_after, speed(record), memory(record), hours]


def print_sweep(jobs: dict[Path, SweepJob]) -> None:
    """Print the table, and the commands that come next for the best run."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    records = {folder: read_run(folder) for folder in jobs}
    best, changes = best_of(records), changes_of(jobs)
    table = Table(*COLUMNS, "hours", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[4:]:
        column.justify = "right"
    for folder, job in jobs.items():
        is_best = folder == best
        style = "bold" if is_best else None
        row = row_of(folder.name, changes[folder], job.error, records[folder])
        table.add_row("*" if is_best else "", *row, style=style)
    console = Console(
        highlight=False, markup=False, width=None if sys.stdout.isatty() else IN_A_FILE
    )
    console.print(table)
    if best is None:
        print(f"* no best run: the validation loss was {NOT_MEASURED}")
        return
    record = records[best]
    assert record is not None
    print(f"* lowest validation loss, in {as_typed(best)}; next")
    print("\n".join(f"  {command}" for command in next_commands(best, record)))
