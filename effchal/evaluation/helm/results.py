"""What HELM left in its output folder: which runs are complete, and their scores."""

import json
import re
from pathlib import Path
from typing import Any

SUITE = "effchal"
FILES = (
    "run_spec.json",
    "scenario.json",
    "scenario_state.json",
    "stats.json",
    "per_instance_stats.json",
)
# The first that a scenario reports is shown.
METRICS = (
    "final_number_exact_match",
    "quasi_exact_match",
    "exact_match",
    "rouge_2",
    "math_equiv_chain_of_thought",
)


def run_folder(run_dir: Path, name: str) -> Path:
    return run_dir / "runs" / SUITE / name


def read_run(folder: Path) -> dict[str, Any] | None:
    """Scores of a complete run; None where a file is missing or was cut off by a kill.

    A request that failed, or that HELM sent without a prompt because no tokenizer answered it, makes a run incomplete.
    """
    try:
        files = {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in FILES}
    except (OSError, ValueError):
        return None
    states = files["scenario_state.json"]["request_states"]
    if not all(state["result"]["success"] and state["request"]["prompt"] for state in states):
        return None
    split, metric, score, scored = main_metric(files["stats.json"])
    result = {
        "status": "finished",
        "metric": metric,
        "score": score,
        "split": split,
        "scored": scored,
        "requests": len(states),
    }
    return result


def main_metric(stats: list[dict[str, Any]]) -> tuple[str | None, str | None, float | None, int]:
    """Split, metric, mean, and the instances of that split; None and 0 where no metric of METRICS is reported."""
    means = {
        (stat["name"]["split"], stat["name"]["name"]): stat["mean"]
        for stat in stats
        if "split" in stat["name"] and "perturbation" not in stat["name"] and "mean" in stat
    }
    for split in ("test", "valid"):  # TruthfulQA has no test split
        for metric in METRICS:
            if (split, metric) in means:
                return split, metric, means[split, metric], round(means[split, "num_instances"])
    return None, None, None, 0


def error_of(log: str, name: str) -> str:
    """Why HELM says that a run failed: the end of the last traceback that its log has of it."""
    after = (
        log.rpartition(f"Error when running {name}:\n")[2]
        if f"Error when running {name}:\n" in log
        else ""
    )
    traceback = re.split(r"^\d{4}-\d\d-\d\d ", after, maxsplit=1, flags=re.MULTILINE)[
        0
    ]  # to the next log line
    errors = re.findall(r"^[A-Za-z_][\w.]*(?:Error|Exception)\b.*$", traceback, re.MULTILINE)
    return errors[-1][:300] if errors else "HELM's log does not say why"


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown, a line a run."""
    lines = ["| run | metric | score | split | scored | requests |", "|---|---|---|---|---|---|"]
    for run in runs:
        if run["status"] == "failed":
            cells = (run["name"], "FAILED", "", "", "", "")
        else:
            score = "" if run["score"] is None else f"{run['score']:.3f}"
            cells = (
                run["name"],
                run["metric"] or "-",
                score,
                run["split"] or "-",
                run["scored"],
                run["requests"],
            )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
