"""submission.json: what a hand-in states, and what a reproduction of it measures."""

import json
from pathlib import Path
from typing import Any

from effchal.bundle import sha256
from effchal.config import ConfigError
from effchal.conformance_checks.verdict import Status, Verdict
from effchal.model.tokenizer import is_hub_id

FORMAT = 1
RECORD = "submission.json"
BUNDLE = "bundle"  # its folder in the hand-in
ADAPTER = "adapter/adapter_model.safetensors"  # of a bundle
OF_RUN = (
    *("status", "step", "steps_planned", "tokens", "data_sha256", "limit_s", "spent_s"),
    *("train_loss", "validation_loss_before", "validation_loss", "device", "made_with"),
    *("peak_memory_gib", "command"),
)


def training_facts(run: dict[str, Any], bundle: Path) -> dict[str, Any]:
    """What a run and its bundle say of the training. Seconds, tokens, nats, GiB.

    Args:
        run: the content of run.json.
    """
    found = {key: run.get(key) for key in OF_RUN}
    return found | {"adapter_sha256": sha256(bundle / ADAPTER)}


def model_facts(bundle: Path) -> dict[str, Any]:
    """The base model: its name without the folders of this machine, and its digest."""
    found = dict(json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["base_model"])
    is_folder = not (is_hub_id(found["name"]) or found["name"].startswith("builtin:"))
    if is_folder:
        found["name"] = Path(found["name"]).name
    return found | {"is_folder": is_folder}


def conformance_facts(verdicts: list[Verdict]) -> dict[str, Any]:
    """How many rules the server keeps, and the names of the others."""
    by_status = {
        status.name: [each.name for each in verdicts if each.status is status] for status in Status
    }
    kept = len(by_status.pop(Status.kept.name))
    return {"kept": kept, **by_status}


def evaluation_facts(results: dict[str, Any]) -> dict[str, Any]:
    """Scores with intervals, by entry, decoding and metric, and how long they took."""
    entries = {
        name: {
            "instances": entry["instances"],
            "main_metric": entry["main_metric"],
            "decodings": {
                decoding: {"metrics": found["metrics"], "counts": found.get("counts") or {}}
                for decoding, found in entry["decodings"].items()
            },
        }
        for name, entry in results["entries"].items()
    }
    return {
        "entries": entries,
        "missing": results.get("missing", {}),
        "device": results.get("device"),
        "seconds": results.get("seconds_of_last_process"),
    }


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    text = json.dumps({"format": FORMAT} | facts, indent=1, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of submission.json.

    Raises:
        ConfigError: damaged, or of another format.
    """
    path = folder / RECORD
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        found = facts["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a record of effchal submit ({error})") from error
    if found != FORMAT:
        raise ConfigError(f"{path} has format {found}; this version reads {FORMAT}")
    return facts
