"""The table of an evaluation: on the screen, as Markdown and as CSV."""

import csv
from pathlib import Path
from typing import Any

from effchal.evaluation.results import EntrySummary
from effchal.tracking.text_tables import as_markdown

COLUMNS = ("entry", "instances", "metric", "decoding", "score", "low", "high")
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high", "answers_that_differ")
SEED_COLUMN = "deviation_over_seeds"


def table_rows(entries: dict[str, EntrySummary]) -> list[dict[str, Any]]:
    """One for each entry, metric and decoding, by column; differences are to the baseline."""
    rows = []
    for entry, result in entries.items():
        for metric in dict.fromkeys(m for each in result.decodings.values() for m in each.metrics):
            for name, decoded in result.decodings.items():
                score = decoded.metrics.get(metric)
                if score is None:
                    continue
                count = (decoded.counts or {}).get(metric, result.instances)
                cells = (entry, count, metric, name, score.mean, score.low, score.high)
                row = dict(zip(COLUMNS, cells, strict=True))
                if decoded.differences is not None and metric in decoded.differences:
                    gap = decoded.differences[metric]
                    others = (gap.mean, gap.low, gap.high, decoded.answers_that_differ)
                    row |= dict(zip(DIFFERENCE_COLUMNS, others, strict=True))
                if decoded.seeds is not None:
                    row[SEED_COLUMN] = decoded.seeds[metric].deviation
                rows.append(row)
    return rows


def results_table(entries: dict[str, EntrySummary], missing: dict[str, str]) -> str:
    """Markdown of the rows; differences are paired, intervals in brackets.

    Args:
        missing: entries that were left out, with the reason.
    """
    rows = [("entry", "metric", "decoding", "score", "difference to greedy", "answers that differ")]
    for row in table_rows(entries):
        score = f"{row['score']:.3f}"
        if row["instances"] > 1:  # one question gives no interval
            score += f" [{row['low']:.3f}, {row['high']:.3f}]"
        if SEED_COLUMN in row:
            score += f", seeds ± {row[SEED_COLUMN]:.3f}"
        is_of_all = row["instances"] == entries[row["entry"]].instances
        difference = others = ""
        if "difference" in row:
            low, high = row["difference_low"], row["difference_high"]
            difference = f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            others = f"{row['answers_that_differ']} of {row['instances']}" if is_of_all else ""
        metric = row["metric"] + ("" if is_of_all else f" (n = {row['instances']})")
        rows.append((row["entry"], metric, row["decoding"], score, difference, others))
    for entry, result in entries.items():
        for decoding, scores in result.having("of_all_instances").items():
            for metric, number in scores.items():
                rows.append((entry, metric, decoding, f"{number:.3f}", "", ""))
    lines = [as_markdown(rows)]
    unmeasured = {entry: each.not_measured for entry, each in entries.items() if each.not_measured}
    if unmeasured:
        lines += ["", "Not measured:", ""]
        lines += [
            f"- {entry}: {metrics}: {reason}"
            for entry, found in unmeasured.items()
            for metrics, reason in found.items()
        ]
    if missing:
        lines += ["", f"Left out for want of data: {len(missing)}", ""]
        lines += [f"- {entry}: {reason}" for entry, reason in missing.items()]
    return "\n".join(lines) + "\n"


def write_tables(entries: dict[str, EntrySummary], run_dir: Path, missing: dict[str, str]) -> None:
    """Write results.md and results.csv."""
    (run_dir / "results.md").write_text(results_table(entries, missing), encoding="utf-8")
    with (run_dir / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *DIFFERENCE_COLUMNS, SEED_COLUMN))
        writer.writeheader()
        writer.writerows(table_rows(entries))
