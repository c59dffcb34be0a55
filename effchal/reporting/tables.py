"""The table of runs: its columns, and a row for each run."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from effchal.reporting.collect import Run, number
from effchal.reporting.labels import date_of, source_names

YEAR_S = 365 * 86400
RATE_STEPS = 20  # the last ones, from which the end is estimated


@dataclass(frozen=True)
class Column:
    """A column of the table; `digits` is for numbers only."""

    field: str
    title: str
    kind: str = "text"  # or number
    unit: str = ""
    digits: int | None = None  # after the point; None: as few as needed
    shown: bool = False  # until the reader chooses
    meaning: str = ""


COLUMNS = (
    Column("run", "run", shown=True),
    Column("kind", "kind", shown=True, meaning="the command that made it"),
    Column("sweep", "sweep"),
    Column("status", "status", shown=True),
    Column("differs", "what differs", shown=True, meaning="from the other runs of its sweep"),
    Column("scored", "scores the run", meaning="the training run whose bundle was scored"),
    Column("steps", "steps", "number", digits=0, meaning="optimizer steps that were done"),
    Column("steps_planned", "steps planned", "number", digits=0),
    Column("loss_before", "validation loss before", "number", "nats/token", 4),
    Column("loss_after", "validation loss", "number", "nats/token", 4, True, "after the last step"),
    Column("loss_best", "best validation loss", "number", "nats/token", 4),
    Column("best_step", "best step", "number", digits=0),
    Column("train_loss", "training loss", "number", "nats/token", 4, meaning="recent mean"),
    Column("tokens", "tokens", "number", digits=0, meaning="trained on"),
    Column("tokens_per_s", "tokens/s", "number", digits=0, shown=True),
    Column("memory", "peak memory", "number", "GiB", 2, True),
    Column("memory_plan", "planned memory", "number", "GiB", 2),
    Column("hours", "hours", "number", digits=3, shown=True, meaning="wall clock, all restarts"),
    Column("hours_plan", "planned hours", "number", digits=3),
    Column("hours_budget", "budget", "number", "hours", 3),
    Column("base_model", "base model"),
    Column("data_mix", "data"),
    Column("lora_r", "lora.r", "number", digits=0),
    Column("lora_alpha", "lora.alpha", "number", digits=0),
    Column("lr", "learning rate", "number", meaning="train.lr, the peak of the schedule"),
    Column("decoding", "decoding"),
    Column("device", "device"),
    Column("date", "date", meaning="by the folder's name, else by its files"),
    Column("folder", "folder"),
)


def row_of(run: Run, label: str, differs: str, sweep: str | None) -> dict[str, Any]:
    """What is known of the run; what was not measured is None."""
    plan, config, record = run.record.get("plan"), run.config, run.record
    plan = plan if isinstance(plan, dict) else {}
    row: dict[str, Any] = {
        "run": label,
        "kind": run.kind,
        "sweep": sweep,
        "status": run.status,
        "differs": differs or None,
        "folder": str(run.folder),
        "base_model": model_name(run),
        "data_mix": " + ".join(source_names(run)) or None
        if run.kind in ("train", "data")
        else None,
        "device": record.get("device") if isinstance(record.get("device"), str) else None,
        "date": date_of(run),
        "memory": number(record, "peak_memory_gib"),
        "tokens_per_s": number(plan, "tokens_per_s"),
    }
    if run.kind == "train":
        row |= {
            "steps": number(record, "step"),
            "steps_planned": first(
                number(record, "steps_planned"), number(run.plan, "workload", "steps")
            ),
            "loss_before": number(record, "validation_loss_before"),
            "loss_after": number(record, "validation_loss"),
            "loss_best": number(record, "best_loss"),
            "best_step": number(record, "best_step"),
            "train_loss": number(record, "train_loss"),
            "tokens": number(record, "tokens"),
            "memory_plan": first(number(plan, "memory_gib", "predicted"), needed_gib(run)),
            "hours": hours(number(record, "spent_s")),
            "hours_plan": first(number(plan, "hours", "predicted"), number(run.plan, "hours")),
            "hours_budget": number(config, "budget.hours"),
            "lora_r": number(config, "lora.r"),
            "lora_alpha": number(config, "lora.alpha"),
            "lr": number(config, "train.lr"),
        }
        row = {**row, **progress(run)} if run.status in ("running", "no record") else row
    if run.kind in ("evaluate", "helm"):
        row["decoding"] = config.get("decoding.method")
    return row


def first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600


def needed_gib(run: Run) -> float | None:
    needed = number(run.plan, "memory_needed")
    return None if needed is None else needed / 2**30


def model_name(run: Run) -> str | None:
    """The base model's name; of a path, the last folder."""
    model = run.record.get("model")
    name = model.get("base_model") if isinstance(model, dict) else None
    name = name or run.config.get("model.name")
    if not isinstance(name, str):
        return None
    return Path(name).name if name.startswith(("/", ".", "outputs/")) else name


def progress(run: Run) -> dict[str, Any]:
    """How far a run has come that has no record yet, by its metrics; its estimated end."""
    steps = [each for each in run.metrics if number(each, "loss") is not None]
    losses = [loss for each in run.metrics if (loss := number(each, "validation_loss")) is not None]
    if not steps:
        return {}
    last, step, spent = steps[-1], number(steps[-1], "step"), number(steps[-1], "spent_s")
    found: dict[str, Any] = {
        "steps": step,
        "train_loss": number(last, "loss"),
        "loss_before": losses[0] if losses else None,
        "loss_after": losses[-1] if losses else None,
        "loss_best": min(losses, default=None),
        "tokens_per_s": number(last, "tokens_per_s"),
        "hours": hours(spent),
    }
    planned = first(number(run.record, "steps_planned"), number(run.plan, "workload", "steps"))
    if planned is not None and step is not None and spent is not None and run.status == "running":
        found |= estimate(steps, planned - step)
    return found


def estimate(steps: Sequence[dict[str, Any]], left: float) -> dict[str, Any]:
    """The end of a running run, at the pace of its last steps; {} where that is not known."""
    some = steps[-1 - RATE_STEPS :]
    times = [number(each, "spent_s") for each in (some[0], some[-1])]
    numbers = [number(each, "step") for each in (some[0], some[-1])]
    begun, now = times
    if begun is None or now is None or None in numbers or numbers[0] == numbers[1]:
        return {}
    left_s = left * (now - begun) / (float(numbers[1] or 0) - float(numbers[0] or 0))
    if not 0 <= left_s < YEAR_S:
        return {}
    ends = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left_s))
    return {"left_minutes": left_s / 60, "ends": ends}


def columns_as_json(entries: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The columns, with one for the main score of each entry: (field, title)."""
    columns = [asdict(column) for column in COLUMNS]
    scores = [
        asdict(Column(field, title, "number", digits=3, shown=True, meaning="main score"))
        for field, title in entries
    ]
    place = 1 + [column.field for column in COLUMNS].index("best_step")
    return columns[:place] + scores + columns[place:]
