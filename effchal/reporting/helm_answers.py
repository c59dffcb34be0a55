"""What HELM asked and got, in the form of instances.jsonl."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effchal.evaluation.helm.results import run_folder

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def helm_instances(
    folder: Path, record: dict[str, Any], decoding: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The instances of a HELM run's split, without perturbed ones, and what cannot be read.

    Args:
        record: scores.json.
        decoding: what the server did, as the answers have no name of their own.
    """
    instances: list[dict[str, Any]] = []
    problems = []
    for run in record.get("runs") or []:
        try:
            if run["status"] == "finished" and run["metric"] is not None:
                instances += _of_run(run_folder(folder, run["name"]), run, decoding)
        except DAMAGE as error:
            name = run.get("name") if isinstance(run, dict) else run
            problems.append(f"HELM's answers to {name} cannot be read ({type(error).__name__})")
    return instances, problems


def _of_run(folder: Path, run: dict[str, Any], decoding: str) -> Iterator[dict[str, Any]]:
    rows = json.loads((folder / "per_instance_stats.json").read_text("utf-8"))
    scores = {
        row["instance_id"]: stat["mean"]
        for row in rows
        for stat in row["stats"]
        if stat["name"]["name"] == run["metric"]
        and stat["name"].get("split") == run["split"]
        and "perturbation" not in stat["name"]
        and "mean" in stat
    }
    for state in json.loads((folder / "scenario_state.json").read_text("utf-8"))["request_states"]:
        instance = state["instance"]
        if "perturbation" not in instance and instance["id"] in scores:
            answer = {
                "text": state["result"]["completions"][0]["text"],
                "metrics": {run["metric"]: scores[instance["id"]]},
            }
            yield {
                "entry": run["entry"],
                "id": instance["id"],
                "prompt": state["request"]["prompt"],
                "references": [
                    {"text": each["output"]["text"], "correct": "correct" in each["tags"]}
                    for each in instance["references"]
                ],
                "decodings": {decoding: answer},
            }
