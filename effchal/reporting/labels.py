"""Short names of runs and entries, and what tells a run from the others of its sweep."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effchal.reporting.collect import Run, what_differs

TIME = re.compile(r"^\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_")  # in front of the name of an output folder
# Keys that say where a run lies or how it is watched, not what it computes.
WITHOUT_EFFECT = ("name", "resume_from", "bundle", "base_model", "track.", "show.", "serve.")
MOST_KEYS = 3  # of one group; more are said by the group's headline
HEADLINES = {"model": "model.name", "decoding": "decoding.method", "prompt": "prompt.template"}
HEADLINES |= {"lora": "lora.r"}


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each run, the config keys that differ among the runs of its sweep, with its values.

    Runs outside of sweeps are compared with one another, by kind.
    """
    groups: dict[tuple[Any, str], list[int]] = {}
    for index, run in enumerate(runs):
        if run.config:
            groups.setdefault((run.sweep, run.kind), []).append(index)
    found: list[dict[str, Any]] = [{} for _ in runs]
    for members in groups.values():
        differing = what_differs([runs[index] for index in members])
        differing = {key: each for key, each in differing.items() if has_effect(key)}
        for place, index in enumerate(members):
            found[index] = {key: values[place] for key, values in differing.items()}
    return found


def has_effect(key: str) -> bool:
    return not any(
        key == each or (each[-1] == "." and key.startswith(each)) for each in WITHOUT_EFFECT
    )


def in_words(run: Run, differing: dict[str, Any]) -> str:
    """The differing keys as overrides; a group with many of them by its headline alone."""
    sizes = Counter(key.partition(".")[0] for key in differing)
    words: dict[str, str] = {}
    for key, value in differing.items():
        group = key.partition(".")[0]
        if key.startswith("data_mix.sources"):
            words["data_mix"] = f"data_mix={'+'.join(source_names(run)) or 'none'}"
        elif sizes[group] > MOST_KEYS and group in HEADLINES:
            head = HEADLINES[group]
            there = run.config.get(head) is not None
            words[group] = f"{head}={shown(run.config[head])}, …" if there else f"{group}=none"
        else:
            words[key] = f"{key}={shown(value)}"
    return ", ".join(words.values())


def source_names(run: Run) -> list[str]:
    keys = (key.split(".") for key in run.config if key.startswith("data_mix.sources."))
    return list(dict.fromkeys(key[2] for key in keys))


def shown(value: Any) -> str:
    """A value of a config as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def run_labels(runs: Sequence[Run], words: Sequence[str]) -> list[str]:
    """A short name for each run, unlike any other's: its sweep and what differs, or its folder."""
    short = [_label(run, differing) for run, differing in zip(runs, words, strict=True)]
    twice = {name for name, count in Counter(short).items() if count > 1}
    labels: dict[str, None] = {}  # in their order
    for run, name in zip(runs, short, strict=True):
        label = f"{run.folder.parent.name}/{run.folder.name}" if name in twice else name
        number = 1
        while label in labels:
            number += 1
            label = f"{name} ({number})"
        labels[label] = None
    return list(labels)


def sweep_names(runs: Sequence[Run]) -> list[str | None]:
    """The name of each run's sweep, with as much of its path as tells it from other sweeps."""
    paths = {run.sweep: run.sweep.parts for run in runs if run.sweep}
    names: dict[Path, str] = {}
    for sweep, parts in paths.items():
        others = [each for each in paths.values() if each != parts]
        length = 1
        while length < len(parts) and any(each[-length:] == parts[-length:] for each in others):
            length += 1
        names[sweep] = "/".join(parts[-length:])
    return [names[run.sweep] if run.sweep else None for run in runs]


def _label(run: Run, differing: str) -> str:
    if run.sweep is None:
        return TIME.sub("", run.folder.name) or run.folder.name
    sweep = TIME.sub("", run.sweep.name) or run.sweep.name
    few = differing if len(differing) <= 40 else ""
    return f"{sweep}/{run.folder.name}{f' {few}' if few else ''}"


def date_of(run: Run) -> str | None:
    """When the run was begun, by its folder's name or its sweep's; else its config's file time."""
    for name in (run.folder.name, run.sweep.name if run.sweep else ""):
        if TIME.match(name):
            return f"{name[:10]} {name[11:16].replace('-', ':')}"
    return file_time(run.folder / "config.yaml")


def file_time(path: Path) -> str | None:
    from datetime import datetime

    try:
        return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    except OSError:
        return None
