"""Evaluations of the contest's scenarios, made without asking any model."""

import json

OPEN = {
    "mmlu:subject=anatomy": "exact_match",
    "truthful_qa:task=mc_single": "exact_match",
    "big_bench:task=snarks,subtask=": "exact_match",
    "gsm": "exact_match_indicator",
    "bbq:subject=Religion": "exact_match",
}
METRICS = OPEN | {"sam_sum": "rouge_2"}


def evaluation(folder, right_of, n=40, decoding="greedy", status="finished"):
    """An evaluation's files, in which the first `right_of[entry]` of n instances are right."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: a\n")
    entries, lines = {}, []
    for entry, right in right_of.items():
        entries[entry] = {"split": "test", "instances": n, "decodings": {decoding: {}}}
        for i in range(n + 3):
            metrics = {METRICS.get(entry, "exact_match"): float(i < right), "other": 1.0}
            line = {"entry": entry, "id": f"id{i}", "split": "test" if i < n else "valid"}
            lines.append(line | {"decodings": {decoding: {"metrics": metrics}}})
    (folder / "results.json").write_text(json.dumps({"status": status, "entries": entries}))
    (folder / "instances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
