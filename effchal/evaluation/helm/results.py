"""HELM's output folder: which runs are complete, and their scores."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from effchal.tracking.text_tables import as_markdown

SUITE = "effchal"
FILES = ("run_spec", "scenario", "scenario_state", "stats", "per_instance_stats")  # .json
# The first that a scenario reports is its score.
METRICS = (
    "final_number_exact_match",
    "quasi_exact_match",
    "exact_match",
    "rouge_2",
    "math_equiv_chain_of_thought",
)


@dataclass(frozen=True)
class RunScore:
    """The main metric of a complete run. All None where HELM reports no metric of METRICS."""

    metric: str | None
    score: float | None
    split: str | None
    scored: int  # instances of that split
    requests: int


@dataclass
class HelmRun:
    """One run of HELM, complete with a score or failed with an error."""

    entry: str
    name: str
    score: RunScore | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in scores.json."""
        head = {"entry": self.entry, "name": self.name}
        if self.score is None:
            return head | {"status": "failed", "error": self.error}
        return head | {"status": "finished"} | asdict(self.score)


def run_folder(run_dir: Path, name: str) -> Path:
    return run_dir / "runs" / SUITE / name


def read_run(folder: Path) -> RunScore | None:
    """The score of a complete run, else None: a file is missing or was cut by a kill.

    A run is incomplete, too, if a request failed or has no prompt. HELM sends no prompt where
    the tokenizer did not answer.
    """
    try:
        files = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in FILES}
    except (OSError, ValueError):
        return None
    states = files["scenario_state"]["request_states"]
    if not all(state["result"]["success"] and state["request"]["prompt"] for state in states):
        return None
    return main_score(files["stats"], len(states))


def main_score(stats: list[dict[str, Any]], requests: int) -> RunScore:
    """The mean of the first of METRICS, on the test split where there is one.

    Args:
        stats: the content of HELM's stats.json.
    """
    means = {
        (stat["name"]["split"], stat["name"]["name"]): stat["mean"]
        for stat in stats
        if "split" in stat["name"] and "perturbation" not in stat["name"] and "mean" in stat
    }
    for split in ("test", "valid"):  # TruthfulQA has no test split
        for metric in METRICS:
            if (split, metric) in means:
                scored = round(means[split, "num_instances"])
                return RunScore(metric, means[split, metric], split, scored, requests)
    return RunScore(None, None, None, 0, requests)


def error_of(log: str, name: str) -> str:
    """Why HELM says that a run failed: the last error in its log's traceback of the run."""
    after = log.rpartition(f"Error when running {name}:\n")
    # The traceback goes on to the next line of the log, which begins with a date.
    traceback = re.split(r"^\d{4}-\d\d-\d\d ", after[2] if after[1] else "", flags=re.MULTILINE)[0]
    errors = re.findall(r"^[A-Za-z_][\w.]*(?:Error|Exception)\b.*$", traceback, re.MULTILINE)
    return errors[-1][:300] if errors else "HELM's log does not say why"


def runs_table(runs: list[HelmRun]) -> str:
    """Markdown, a line for each run."""
    rows = [["run", "metric", "score", "split", "scored", "requests"]]
    for run in runs:
        cells = [run.name, "FAILED", "", "", "", ""]
        if run.score is not None:
            found = run.score
            score = "" if found.score is None else f"{found.score:.3f}"
            cells[1:] = [found.metric or "-", score, found.split or "-"]
            cells += [str(found.scored), str(found.requests)]
        rows.append(cells)
    return as_markdown(rows) + "\n"
