"""Print the scores of a HELM output folder: python scripts/helm_scores.py outputs/helm/<time>"""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

# The first that a scenario reports is shown.
METRICS = ("final_number_exact_match", "quasi_exact_match", "exact_match", "rouge_2")


def main() -> None:
    runs = sorted(Path(sys.argv[1]).glob("runs/*/*/stats.json"))
    if not runs:
        sys.exit(f"error: no finished run in {sys.argv[1]}")
    table = Table("run", "metric", "score", "split", "scored", "requests", "failed requests")
    for path in runs:
        split, name, score, scored = main_metric(json.loads(path.read_text()))
        states = json.loads((path.parent / "scenario_state.json").read_text())["request_states"]
        failed = sum(not state["result"]["success"] for state in states)
        table.add_row(
            path.parent.name.split(",model=")[0],
            name,
            f"{score:.3f}",
            split,
            str(scored),
            str(len(states)),
            str(failed),
        )
    Console(width=140).print(table)


def main_metric(stats: list[dict]) -> tuple[str, str, float, int]:
    """Split, metric, mean, and the instances of that split."""
    means = {
        (stat["name"]["split"], stat["name"]["name"]): stat["mean"]
        for stat in stats
        if "split" in stat["name"] and "perturbation" not in stat["name"] and "mean" in stat
    }
    for split in ("test", "valid"):  # TruthfulQA has no test split
        for metric in METRICS:
            if (split, metric) in means:
                return split, metric, means[split, metric], round(means[split, "num_instances"])
    sys.exit(f"error: none of {', '.join(METRICS)} among HELM's metrics: {sorted(means)}")


if __name__ == "__main__":
    main()
