"""lm-eval's own `hf` model against `effchal lm_eval`, document by document, and the time of both.

python benchmarks/lm_eval_parity.py --theirs <python of lm-eval[hf]> --data <scenarios of HELM>

Tasks from local files (local_tasks.py), the small model in float32 on this machine's CPU. With
--server, lm-eval's `local-completions` client asks our server the same as well, and a RESULT line
tells after how many of its requests the model ended. Exit code 1 where a score differs, or a
log-likelihood by more than TOLERANCE.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, SMOLLM2, print_result
from local_tasks import write_tasks
from server_process import ServerProcess

TOLERANCE = 1e-3  # nats, of a whole continuation
OURS = "effchal lm_eval"
Samples = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--theirs", required=True, help="python of an environment with lm_eval[hf]")
    parser.add_argument("--data", type=Path, required=True, help="HELM's scenarios folder")
    parser.add_argument("--limit", type=int, default=200, help="documents of each task")
    parser.add_argument("--tasks", nargs="+", help="some of local_tasks.py; by default all")
    parser.add_argument("--server", action="store_true", help="ask through our server as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        known = write_tasks(options.data, place / "tasks")
        names = options.tasks or known
        if unknown := set(names) - set(known):
            parser.error(f"no task {unknown}; there are {known}")
        found = {OURS: run_ours(names, place, options.limit, options.theirs)}
        asked = [options.theirs, place, names, options.limit]
        if options.server:
            log = place / "server.log"
            with ServerProcess("smollm2_135m", 8531, "model.dtype=float32", log=log) as server:
                found["local-completions"] = run_theirs(*asked, "--url", server.url)
            print_result(ends(log))
        theirs = run_theirs(*asked)
    equal = [report(name, each, theirs) for name, each in found.items()]
    print_result({"model": "hf", **times(theirs)})
    sys.exit(0 if all(equal) else 1)


def run_ours(names: list[str], place: Path, limit: int, python: str) -> dict[str, Any]:
    """`effchal lm_eval` on the tasks, in the form of what lm-eval's own model leaves."""
    folder = place / "ours"
    command = [sys.executable, "-m", "effchal.lm_eval", "model=smollm2_135m", "prompt=plain"]
    command += ["model.dtype=float32", "lora=none", f"tasks=[{','.join(names)}]"]
    command += [f"include_path={place / 'tasks'}", f"limit={limit}", f"hydra.run.dir={folder}"]
    command += [f"lm_eval.environment={Path(python).parents[1]}"]
    subprocess.run(command, check=True, cwd=ROOT)
    results = json.loads((folder / "results.json").read_text())
    own = next((folder / "lm_eval" / "greedy").rglob("results_*.json"))
    samples = {}
    for name in names:
        (path,) = own.parent.glob(f"samples_{name}_*.jsonl")
        samples[name] = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        "results": json.loads(own.read_text())["results"],
        "samples": samples,
        "seconds": results["seconds_of_last_process"],
        "seconds_of_answers": results["seconds_of_answers"],
    }


def run_theirs(
    python: str, place: Path, names: list[str], limit: int, *more: str
) -> dict[str, Any]:
    """One of lm-eval's own models on the tasks; see peers/lm_eval_model.py."""
    output = place / "theirs.json"
    program = str(ROOT / "benchmarks" / "peers" / "lm_eval_model.py")
    command = [python, program, str(SMOLLM2), str(place / "tasks"), ",".join(names), str(output)]
    subprocess.run([*command, "--limit", str(limit), *more], check=True)
    return json.loads(output.read_text())


def ends(log: Path) -> dict[str, Any]:
    """Of the scoring requests in a server's log: how many, and after how many the model ended."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    scored = [line for line in lines if line.get("new_tokens") == 1]
    ended = sum(line["finish_reasons"] == ["stop"] for line in scored)
    return {"model": "local-completions", "scoring_requests": len(scored), "ended": ended}


def report(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Print how far apart a model's answers are from those of `hf`; whether they are equal."""
    equal = True
    for task in theirs["results"]:
        pair = (ours["samples"][task], theirs["samples"][task])
        result = {"model": name, "task": task} | compare(*pair)
        scores = [scores_of(each["results"][task]) for each in (ours, theirs)]
        result |= {"scores": scores[0], "scores_of_hf": scores[1]}
        print_result(result)
        equal = equal and scores[0] == scores[1] and result.get("largest", 0.0) <= TOLERANCE
    ratio = theirs["seconds"] / ours["seconds"]
    print_result({"model": name, **times(ours), "times_faster_than_hf": ratio})
    return equal


def times(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("seconds", "seconds_of_answers")}


def scores_of(metrics: dict[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in metrics.items() if "," in name and "_stderr," not in name
    }


def compare(ours: Samples, theirs: Samples) -> dict[str, Any]:
    """Documents, and equal texts or the largest difference of log-likelihoods."""
    # A task with several filters tells each document once for each.
    pairs = [
        (a, b) for a, b in zip(ours, theirs, strict=True) if b["filter"] == theirs[0]["filter"]
    ]
    result: dict[str, Any] = {"documents": len(pairs)}
    for a, b in pairs:
        for key in ("doc_hash", "prompt_hash", "target_hash"):
            if a[key] != b[key]:
                sys.exit(f"error: document {b['doc_id']} was asked differently")
        for (mine,), (other,) in zip(a["resps"], b["resps"], strict=True):
            if isinstance(other, str):
                result["same_text"] = result.get("same_text", 0) + (mine == other)
                continue
            gap = abs(float(mine[0]) - float(other[0]))
            result["continuations"] = result.get("continuations", 0) + 1
            result["largest"] = max(result.get("largest", 0.0), gap)
            same = str(mine[1]) == str(other[1])
            result["same_greedy_flag"] = result.get("same_greedy_flag", 0) + same
    return result


if __name__ == "__main__":
    main()
