"""From the records of an evaluation to results.json, a table and plots."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from effchal.config import EvaluateConfig
from effchal.stats import mean_interval, paired_difference
from effchal.variants import BASELINE

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
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in new))
        self._by_key |= {(record["entry"], record["id"]): record for record in new}


def summarise(records: list[Record], main_metric: str, cfg: EvaluateConfig) -> dict[str, Any]:
    """Means with intervals of one entry, by decoding, and each one's difference to the baseline on the same instances.

    Like HELM, the test split counts where there is one, else the validation split.
    """
    split = "test" if any(record["split"] == "test" for record in records) else "valid"
    counted = [record["decodings"] for record in records if record["split"] == split]
    options = (cfg.resamples, cfg.confidence)
    decodings: dict[str, Any] = {}
    for name in counted[0]:
        values = {metric: [each[name]["metrics"][metric] for each in counted] for metric in counted[0][name]["metrics"]}
        summary = {metric: mean_interval(each, *options).to_dict() for metric, each in values.items()}
        decodings[name] = {"metrics": summary}
        if name != BASELINE and BASELINE in counted[0]:
            base = [each[BASELINE]["metrics"][main_metric] for each in counted]
            decodings[name]["difference"] = paired_difference(values[main_metric], base, *options).to_dict()
            decodings[name]["instances_that_differ"] = sum(
                answer(each[name]) != answer(each[BASELINE]) for each in counted
            )
        layers = Counter()
        for each in counted:
            layers.update(each[name].get("layers", {}))
        if layers:
            decodings[name]["layers"] = dict(sorted(layers.items(), key=lambda item: int(item[0])))
        if "tokens" in counted[0][name]:
            decodings[name]["tokens_per_instance"] = sum(each[name]["tokens"] for each in counted) / len(counted)
    return {"split": split, "instances": len(counted), "main_metric": main_metric, "decodings": decodings}


def answer(decoded: dict[str, Any]) -> Any:
    """What an instance was answered: the text, or the choice that won."""
    if "text" in decoded:
        return decoded["text"]
    return max(range(len(decoded["logprobs"])), key=decoded["logprobs"].__getitem__)


def table(entries: dict[str, Any]) -> str:
    """Markdown: a row for each entry and decoding; differences are in points of the main metric, paired."""
    lines = [
        "| entry | metric | decoding | score | interval | difference to greedy | interval | answers that differ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry, result in entries.items():
        for name, decoded in result["decodings"].items():
            score = decoded["metrics"][result["main_metric"]]
            difference = decoded.get("difference")
            gap = "| | |"
            if difference:
                low, high = difference["low"], difference["high"]
                gap = f"| {difference['mean']:+.3f} | {low:+.3f} to {high:+.3f} |"
            others = f" {decoded['instances_that_differ']} of {result['instances']} |" if difference else " |"
            lines.append(
                f"| {entry} | {result['main_metric']} | {name} | {score['mean']:.3f} "
                f"| {score['low']:.3f} to {score['high']:.3f} {gap}{others}"
            )
    return "\n".join(lines) + "\n"


def plot(entries: dict[str, Any], run_dir: Path) -> None:
    """results.png: differences to the baseline; layers.png: which layer DoLa chose how often."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    differing = {entry: result for entry, result in entries.items() if _with(result, "difference")}
    if differing:
        rows = [len(_with(result, "difference")) for result in differing.values()]
        figure, axes = pyplot.subplots(
            len(differing), 1, figsize=(8, 1 + 0.35 * sum(rows) + 0.9 * len(rows)), squeeze=False, height_ratios=rows
        )
        for axis, (entry, result) in zip(axes[:, 0], differing.items(), strict=True):
            named = _with(result, "difference")
            for row, difference in enumerate(named.values()):
                axis.plot([difference["low"], difference["high"]], [row, row], color="tab:blue")
                axis.plot(difference["mean"], row, "o", color="tab:blue")
            axis.axvline(0, color="grey", linewidth=1)
            axis.set_yticks(range(len(named)), list(named))
            axis.set_ylim(len(named) - 0.5, -0.5)
            axis.set_title(f"{entry}: {result['main_metric']}, difference to greedy", fontsize=9)
        _save(figure, run_dir / "results.png")
    chosen = {
        (entry, name): layers for entry, result in entries.items() for name, layers in _with(result, "layers").items()
    }
    chosen = {key: layers for key, layers in chosen.items() if len(layers) > 1}
    if chosen:
        figure, axes = pyplot.subplots(len(chosen), 1, figsize=(8, 0.6 + 1.5 * len(chosen)), squeeze=False)
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
