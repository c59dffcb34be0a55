"""From the records of an evaluation to summaries, tables and plots."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from effchal.config import EvaluateConfig
from effchal.evaluation.stats import mean_interval, paired_difference
from effchal.evaluation.variants import BASELINE

Record = dict[str, Any]  # a line of instances.jsonl


class Records:
    """instances.jsonl: one line an instance, written as soon as it is known; the last one may be cut by a kill."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "instances.jsonl"
        self._by_key: dict[tuple[str, str], Record] = {}
        if self._path.is_file():
            kept = []
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self._by_key[record["entry"], record["id"]] = record
                kept.append(line + "\n")
            parts = self._path.with_suffix(".tmp")
            parts.write_text("".join(kept), encoding="utf-8")
            parts.replace(self._path)

    def get(self, entry: str, instance_id: str) -> Record | None:
        return self._by_key.get((entry, instance_id))

    def add(self, records: list[Record]) -> None:
        """Append those that are not there yet."""
        new = [record for record in records if (record["entry"], record["id"]) not in self._by_key]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in new))
        self._by_key |= {(record["entry"], record["id"]): record for record in new}


def summarise(records: list[Record], main_metric: str, cfg: EvaluateConfig) -> dict[str, Any]:
    """Means with intervals of one entry, by decoding, and each one's difference to the baseline on the same instances.

    Like HELM, the test split counts where there is one, else the validation split.
    """
    split = "test" if any(record["split"] == "test" for record in records) else "valid"
    counted = [record["decodings"] for record in records if record["split"] == split]
    decodings = {name: summary_of([each[name] for each in counted], cfg) for name in counted[0]}
    if BASELINE in decodings:
        baseline = [each[BASELINE] for each in counted]
        for name, summary in decodings.items():
            if name != BASELINE:
                compare([each[name] for each in counted], baseline, summary, cfg)
    return {
        "split": split,
        "instances": len(counted),
        "main_metric": main_metric,
        "decodings": decodings,
    }


def summary_of(decoded: list[dict[str, Any]], cfg: EvaluateConfig) -> dict[str, Any]:
    """Metrics, layers and length of one decoding over its instances."""
    summary: dict[str, Any] = {"metrics": {}}
    for metric in decoded[0]["metrics"]:
        values = [each["metrics"][metric] for each in decoded]
        summary["metrics"][metric] = mean_interval(values, cfg.resamples, cfg.confidence).to_dict()
    layers: Counter = Counter()
    for each in decoded:
        layers.update(each.get("layers", {}))
    if layers:
        summary["layers"] = dict(sorted(layers.items(), key=lambda item: int(item[0])))
    if "tokens" in decoded[0]:
        summary["tokens_per_instance"] = sum(each["tokens"] for each in decoded) / len(decoded)
    return summary


def compare(
    decoded: list[dict[str, Any]],
    baseline: list[dict[str, Any]],
    summary: dict[str, Any],
    cfg: EvaluateConfig,
) -> None:
    """Add paired differences to the baseline, and how many answers are not the baseline's."""
    summary["differences"] = {}
    for metric in decoded[0]["metrics"]:
        pairs = [
            (a["metrics"][metric], b["metrics"][metric])
            for a, b in zip(decoded, baseline, strict=True)
        ]
        difference = paired_difference(*zip(*pairs, strict=True), cfg.resamples, cfg.confidence)
        summary["differences"][metric] = difference.to_dict()
    summary["answers_that_differ"] = sum(
        answer(a) != answer(b) for a, b in zip(decoded, baseline, strict=True)
    )


def answer(decoded: dict[str, Any]) -> Any:
    """What an instance was answered: the text, or the choice that won."""
    if "text" in decoded:
        return decoded["text"]
    return max(range(len(decoded["logprobs"])), key=decoded["logprobs"].__getitem__)


COLUMNS = ("entry", "instances", "metric", "decoding", "score", "low", "high")
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high", "answers_that_differ")


def rows(entries: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each entry, metric and decoding, with the difference to greedy; for a CSV file."""
    found = []
    for entry, result in entries.items():
        for metric in next(iter(result["decodings"].values()))["metrics"]:
            for name, decoded in result["decodings"].items():
                score = decoded["metrics"][metric].values()
                row = dict(
                    zip(COLUMNS, (entry, result["instances"], metric, name, *score), strict=True)
                )
                if "differences" in decoded:
                    values = (
                        *decoded["differences"][metric].values(),
                        decoded["answers_that_differ"],
                    )
                    row |= dict(zip(DIFFERENCE_COLUMNS, values, strict=True))
                found.append(row)
    return found


def table(entries: dict[str, Any]) -> str:
    """Markdown of the rows; differences are paired, intervals in brackets."""
    lines = [
        "| entry | metric | decoding | score | difference to greedy | answers that differ |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows(entries):
        score = f"{row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        difference = others = ""
        if "difference" in row:
            low, high = row["difference_low"], row["difference_high"]
            difference = f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            others = f"{row['answers_that_differ']} of {row['instances']}"
        cells = (row["entry"], row["metric"], row["decoding"], score, difference, others)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_tables(entries: dict[str, Any], run_dir: Path) -> None:
    """results.md and results.csv."""
    (run_dir / "results.md").write_text(table(entries), encoding="utf-8")
    with (run_dir / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *DIFFERENCE_COLUMNS))
        writer.writeheader()
        writer.writerows(rows(entries))


def plot(entries: dict[str, Any], run_dir: Path) -> None:
    """results.png: differences to the baseline; layers.png: which layer DoLa chose how often."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    differing = {entry: result for entry, result in entries.items() if _with(result, "differences")}
    if differing:
        counts = [len(_with(result, "differences")) for result in differing.values()]
        figure, axes = pyplot.subplots(
            len(differing),
            1,
            figsize=(8, 1 + 0.35 * sum(counts) + 0.9 * len(counts)),
            squeeze=False,
            height_ratios=counts,
        )
        for axis, (entry, result) in zip(axes[:, 0], differing.items(), strict=True):
            named = _with(result, "differences")
            for row, differences in enumerate(named.values()):
                difference = differences[result["main_metric"]]
                axis.plot([difference["low"], difference["high"]], [row, row], color="tab:blue")
                axis.plot(difference["mean"], row, "o", color="tab:blue")
            axis.axvline(0, color="grey", linewidth=1)
            axis.set_yticks(range(len(named)), list(named))
            axis.set_ylim(len(named) - 0.5, -0.5)
            axis.set_title(f"{entry}: {result['main_metric']}, difference to greedy", fontsize=9)
        _save(figure, run_dir / "results.png")
    chosen = {
        (entry, name): layers
        for entry, result in entries.items()
        for name, layers in _with(result, "layers").items()
    }
    chosen = {key: layers for key, layers in chosen.items() if len(layers) > 1}
    if chosen:
        figure, axes = pyplot.subplots(
            len(chosen), 1, figsize=(8, 0.6 + 1.5 * len(chosen)), squeeze=False
        )
        for axis, ((entry, name), layers) in zip(axes[:, 0], chosen.items(), strict=True):
            axis.bar([int(layer) for layer in layers], list(layers.values()))
            axis.set_xticks([int(layer) for layer in layers])
            axis.set_title(f"{entry}, {name}: positions by premature layer", fontsize=9)
        _save(figure, run_dir / "layers.png")


def _with(result: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: decoded[key] for name, decoded in result["decodings"].items() if key in decoded}


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
