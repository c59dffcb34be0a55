"""Several sources -> training and validation examples, and the order of training."""

import hashlib
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effchal.config import DataMixConfig
from effchal.mixing.locate import is_local
from effchal.mixing.sources import DataError, Example, load_source
from effchal.runs import write_atomic


@dataclass
class Mix:
    train: list[Example]
    validation: list[Example]
    weights: dict[str, float]  # by source name
    seed: int
    report: list[dict[str, Any]] = field(default_factory=list)  # one row a source

    def epoch_order(self, epoch: int) -> list[int]:
        """Indices into `train` in the order of one epoch; the same for the same seed and epoch.

        A weight of 2.5 gives two copies of each example of the source, and a third copy of
        a half that is drawn anew in each epoch.
        """
        draw = random.Random(f"{self.seed}:{epoch}")
        by_source: dict[str, list[int]] = {}
        for index, example in enumerate(self.train):
            by_source.setdefault(source_of(example), []).append(index)
        order: list[int] = []
        for name, indices in by_source.items():
            copies, fraction = divmod(self.weights[name], 1)
            order += indices * int(copies)
            order += draw.sample(indices, round(fraction * len(indices)))
        draw.shuffle(order)
        return order


def source_of(example: Example) -> str:
    return example.id.rpartition(":")[0]


def load_mix(cfg: DataMixConfig) -> Mix:
    """Load every source, and choose validation examples from each by their first prompts.

    Raises:
        DataError: no source, or a source that cannot be used.
    """
    if not cfg.sources:
        raise DataError("data_mix.sources is empty; choose a data_mix, e.g. data_mix=quickstart")
    mix = Mix([], [], {name: source.weight for name, source in cfg.sources.items()}, cfg.seed)
    loaded = {name: load_source(name, source) for name, source in cfg.sources.items()}
    # By prompt and over all sources at once: the same prompt may stand in two of them.
    validation_keys = set().union(*(_validation_keys(one, cfg) for one in loaded.values()))
    for name, examples in loaded.items():
        source = cfg.sources[name]
        validation = [example for example in examples if example.prompt_key in validation_keys]
        mix.validation += validation
        mix.train += [example for example in examples if example.prompt_key not in validation_keys]
        mix.report.append(
            {
                "source": name,
                "path": source.path,
                "revision": None if is_local(source) else source.revision,
                "license": source.license,
                "weight": source.weight,
                "examples": len(examples),
                "validation": len(validation),
                "multi_turn": sum(example.questions > 1 for example in examples),
                "sha256": _digest(examples),
            }
        )
    if not mix.train:
        raise DataError(
            "the data mix has no training example left; lower data_mix.validation_fraction"
        )
    return mix


def _validation_keys(examples: list[Example], cfg: DataMixConfig) -> set[str]:
    """The prompts with the smallest seeded digests: stable when rows are added or reordered."""
    keys = {example.prompt_key for example in examples}
    ranked = sorted(keys, key=lambda key: hashlib.sha256(f"{cfg.seed}:{key}".encode()).digest())
    count = round(cfg.validation_fraction * len(keys))
    return set(ranked[: max(count, 1) if cfg.validation_fraction else 0])


def _digest(examples: list[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([[turn.role, turn.content] for turn in example.turns]).encode())
    return digest.hexdigest()


def write_report(mix: Mix, totals: dict[str, int], folder: Path) -> None:
    """mix.json and mix.md: what went into the run, by source; `totals` counts tokens."""
    report = {"sources": mix.report, "totals": totals}
    write_atomic(folder / "mix.json", json.dumps(report, indent=2) + "\n")
    columns = [name for name in mix.report[0] if name != "sha256"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[name]) for name in columns) + " |" for row in mix.report]
    lines += ["", *(f"- {name}: {count:,}" for name, count in totals.items())]
    write_atomic(folder / "mix.md", "# Data mix\n\n" + "\n".join(lines) + "\n")
