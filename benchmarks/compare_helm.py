"""HELM's scores against ours, instance by instance.

python benchmarks/compare_helm.py <HELM's folder> <ours>

The first comes from scripts/helm.sh: outputs/helm/<time>. The second comes from
python -m effchal.evaluate with decoding=greedy and the same model, scenario.entries and
scenario.max_instances. Exits with 1 where a score differs.
"""

import json
import sys
from pathlib import Path

METRICS = ("exact_match", "quasi_exact_match", "final_number_exact_match")


def main() -> None:
    helm, ours = (Path(argument) for argument in sys.argv[1:])
    records = [
        json.loads(line)
        for line in (ours / "instances.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    all_same = True
    for entry in dict.fromkeys(record["entry"] for record in records):
        found = {
            record["id"]: record["decodings"]["greedy"]
            for record in records
            if record["entry"] == entry
        }
        result = compare(helm_run(helm, entry), found)
        all_same &= result["same_scores"] == result["scores"] > 0 and not result["only_in_one"]
        print("RESULT", json.dumps({"entry": entry} | result))
    sys.exit(not all_same)


def helm_run(helm: Path, entry: str) -> Path:
    """HELM's folder of one entry. HELM orders the arguments in its name in its own way."""
    name, _, arguments = entry.partition(":")
    wanted = [argument for argument in arguments.split(",") if argument]
    for folder in sorted(helm.glob("runs/*/*")):
        parts = folder.name.replace(":", ",").split(",")
        if parts[0] == name and set(wanted) <= set(parts):
            return folder
    sys.exit(f"error: no run of {entry} in {helm}")


def compare(folder: Path, ours: dict[str, dict]) -> dict:
    """Counts of equal texts and equal scores."""
    states = json.loads((folder / "scenario_state.json").read_text(encoding="utf-8"))[
        "request_states"
    ]
    texts = {state["instance"]["id"]: state["result"]["completions"][0]["text"] for state in states}
    scores: dict[str, dict[str, float]] = {}
    for each in json.loads((folder / "per_instance_stats.json").read_text(encoding="utf-8")):
        named = {
            stat["name"]["name"]: stat["mean"]
            for stat in each["stats"]
            if stat["name"]["name"] in METRICS
        }
        scores.setdefault(each["instance_id"], {}).update(named)
    both = texts.keys() & ours.keys()
    pairs = [
        (value, ours[key]["metrics"][metric])
        for key in both
        for metric, value in scores[key].items()
        if metric in ours[key]["metrics"]
    ]
    return {
        "instances": len(both),
        "only_in_one": len(texts.keys() ^ ours.keys()),
        "same_text": sum(texts[key] == ours[key]["text"] for key in both),
        "scores": len(pairs),
        "same_scores": sum(a == b for a, b in pairs),
    }


if __name__ == "__main__":
    main()
