"""Finished evaluations and HELM runs with scores of one's choice, without any model."""

import hashlib
import json
from functools import cache

from effchal.config.io import as_yaml
from support.configs import compose_config


@cache
def tiny_yaml():
    return as_yaml(compose_config(["model=tiny"]))


def write_bundle_files(folder, text="{}"):
    """A folder that is known as a bundle, and its digest."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    (folder / "config.yaml").write_text(tiny_yaml())
    return hashlib.sha256(text.encode()).hexdigest()


def write_evaluation(
    folder,
    scores,
    metric="exact_match",
    status="finished",
    digest=None,
    prompts=None,
    decoding="greedy",
):
    """An evaluation.

    Args:
        scores: by entry, one number for each instance, or by decoding and entry.
        digest: of the bundle's manifest.
        prompts: what is asked, by entry and position; for one that asked something else.
    """
    folder.mkdir(parents=True)
    by_decoding = scores if isinstance(next(iter(scores.values())), dict) else {decoding: scores}
    first = next(iter(by_decoding.values()))
    summaries, lines = {}, []
    for entry, values in first.items():
        summaries[entry] = {
            "split": "test",
            "instances": len(values),
            "main_metric": metric,
            "decodings": {name: {} for name in by_decoding},
        }
        for number in range(len(values)):
            prompt = (prompts or {}).get((entry, number), f"{entry} {number}")
            decodings = {
                name: {"text": "x", "metrics": {metric: found[entry][number]}}
                for name, found in by_decoding.items()
            }
            line = {"entry": entry, "id": f"id{number}", "split": "test"}
            lines.append(line | {"prompt_sha256": prompt, "decodings": decodings})
    model = {"bundle": None, "base_model": "org/base", "manifest_sha256": digest}
    model |= {"bundle": f"{folder.name}/bundle"} if digest else {}
    results = {"status": status, "name": "dev", "model": model, "entries": summaries}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "instances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_helm_run(folder, entry, scores, prompts):
    """A HELM run of one entry, with HELM's own files of single instances."""
    name = f"{entry},model=effchal_x"
    inside = folder / "runs" / "effchal" / name
    inside.mkdir(parents=True)
    references = [{"output": {"text": "Paris"}, "tags": ["correct"]}]
    references.append({"output": {"text": "Rome"}, "tags": []})
    states = [
        {
            "instance": {"id": f"id{i}", "split": "test", "references": references},
            "request": {"prompt": prompt},
            "result": {"completions": [{"text": f" answer {i}"}]},
        }
        for i, prompt in enumerate(prompts)
    ]
    rows = [
        {
            "instance_id": f"id{i}",
            "stats": [{"name": {"name": "exact_match", "split": "test"}, "mean": score}],
        }
        for i, score in enumerate(scores)
    ]
    (inside / "scenario_state.json").write_text(json.dumps({"request_states": states}))
    (inside / "per_instance_stats.json").write_text(json.dumps(rows))
    run = {"entry": entry, "name": name, "status": "finished", "metric": "exact_match"}
    run |= {"score": sum(scores) / len(scores), "split": "test", "scored": len(scores)}
    model = {"bundle": None, "base_model": "org/base", "manifest_sha256": None}
    record = {"status": "finished", "model": model, "runs": [run]}
    (folder / "scores.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(tiny_yaml())
    return folder
