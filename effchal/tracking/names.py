"""Names of metrics in wandb and TensorBoard: the part before the slash is a section of charts.

metrics.jsonl keeps plain names.
"""

import math
from typing import Any, TypeGuard

STEP, TOKENS, HOURS = "train/step", "train/tokens_seen", "train/hours"  # the three x-axes
SAMPLES = "samples/completions"  # a table
SAMPLE_COLUMNS = ("step", "prompt", "completion")
RESULTS = "evaluation/results"  # a table
RESULT_COLUMNS = ("entry", "metric", "decoding", "score", "low", "high")
KNOWN = {
    "step": STEP,
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens": "train/tokens",  # of the step
    "target_tokens": "train/target_tokens",
    "validation_loss": "validation/loss",
    "validation_loss_before": "validation/loss_before",
    "tokens_per_s": "speed/tokens_per_s",
}


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def chart_name(key: str) -> str:
    """Where a metric of metrics.jsonl is shown."""
    if key in KNOWN:
        return KNOWN[key]
    is_memory = "memory" in key or key.endswith(("_gib", "_mib", "_bytes"))
    return f"memory/{key}" if is_memory else f"train/{key}"


def figure_name(stem: str) -> str:
    """Of an evaluation's figure <stem>.png."""
    return f"evaluation/{stem}_figure"


class ChartRows:
    """Turns records of metrics.jsonl into rows of charts. Feed it every record, in order."""

    def __init__(self) -> None:
        self._tokens = 0
        self.samples: list[list[Any]] = []  # of all records so far, by SAMPLE_COLUMNS

    def row(self, record: dict[str, Any]) -> dict[str, float]:
        """The record's numbers by their names in charts, with its place on the three x-axes."""
        self._tokens += record.get("tokens", 0)
        for sample in record.get("samples", []):
            self.samples.append([record["step"], sample["prompt"], sample["completion"]])
        numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
        spent_s = numbers.pop("spent_s", None)
        row = {chart_name(key): value for key, value in numbers.items()} | {TOKENS: self._tokens}
        return row if spent_s is None else row | {HOURS: spent_s / 3600}


def run_summary(record: dict[str, Any]) -> dict[str, Any]:
    """What a dashboard shows of a whole run, from its run.json: result, plan and actual.

    What was not measured says so, or else the last value of an earlier step would stand there.
    """
    shown = {"status": record.get("status"), "steps": record.get("step")}
    for key in ("validation_loss", "validation_loss_before", "peak_memory_gib"):
        shown[chart_name(key)] = record.get(key)
    for name, part in (record.get("plan") or {}).items():
        shown |= plan_summary(name, part)
    return {key: "not measured" if value is None else value for key, value in shown.items()}


def plan_summary(name: str, part: Any) -> dict[str, Any]:
    """plan/<name>/predicted, if there was a forecast, and plan/<name>/actual.

    Hours are predicted with low and high.
    """
    if not isinstance(part, dict):
        return {f"plan/{name}": part}
    told = {key: value for key, value in part.items() if value is not None or key == "actual"}
    shown = {f"plan/{name}/{key}": value for key, value in told.items()}
    predicted = part.get("predicted")
    if isinstance(predicted, list):
        names = ("predicted_low", "predicted", "predicted_high")
        shown |= {f"plan/{name}/{key}": each for key, each in zip(names, predicted, strict=True)}
    return shown


def result_rows(entries: dict[str, Any]) -> list[list[Any]]:
    """Rows of results.json's entries, by RESULT_COLUMNS."""
    return [
        [entry, metric, decoding, score["mean"], score["low"], score["high"]]
        for entry, result in entries.items()
        for decoding, decoded in result["decodings"].items()
        for metric, score in decoded["metrics"].items()
    ]


def result_summary(entries: dict[str, Any]) -> dict[str, float]:
    """evaluation/<entry>/<decoding>: the mean of the entry's main metric."""
    return {
        f"evaluation/{entry}/{decoding}": decoded["metrics"][result["main_metric"]]["mean"]
        for entry, result in entries.items()
        for decoding, decoded in result["decodings"].items()
        if result["main_metric"] in decoded["metrics"]
    }
