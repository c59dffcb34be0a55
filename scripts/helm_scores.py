"""Print the scores of a HELM output folder: python scripts/helm_scores.py outputs/helm/<time>"""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

# The main metric of each scenario in HELM's own schema, first one present wins.
METRICS = ("final_number_exact_match", "quasi_exact_match", "exact_match", "rouge_2")


def main() -> None:
    runs = sorted(Path(sys.argv[1]).glob("runs/*/*/stats.json"))
    if not runs:
        sys.exit(f"error: no finished run in {sys.argv[1]}")
    table = Table("run", "metric", "score", "instances", "failed requests")
    for path in runs:
        name, score = main_metric(json.loads(path.read_text()))
        states = json.loads((path.parent / "scenario_state.json").read_text())["request_states"]
        failed = sum(not state["result"]["success"] for state in states)
        table.add_row(path.parent.name.split(",model=")[0], name, f"{score:.3f}", str(len(states)), str(failed))
    Console(width=140).print(table)


def main_metric(stats: list[dict]) -> tuple[str, float]:
    plain = {
        s["name"]["name"]: s["mean"]
        for s in stats
        if s["name"]["split"] == "test" and "perturbation" not in s["name"] and "mean" in s
    }
    found = next((metric for metric in METRICS if metric in plain), None)
    if found is None:
        sys.exit(f"error: none of {', '.join(METRICS)} among HELM's metrics: {', '.join(sorted(plain))}")
    return found, plain[found]


if __name__ == "__main__":
    main()
