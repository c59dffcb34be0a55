"""The sides of a comparison that a sweep stands for: each of its models under each decoding."""

import json
from pathlib import Path

from effchal.config import Config, DecodingConfig, load_config
from effchal.evaluation.results import BASELINE, LONGEST
from effchal.evaluation.scored import EVALUATION, decodings_of
from effchal.evaluation.seeds import MEAN, SEEDED
from effchal.runs import read_record


def ask_different_things(jobs: list[Path]) -> bool:
    """Whether no two jobs have the same model, prompt template and decoding."""
    asked = []
    for job in jobs:
        cfg = load_config(job / "config.yaml")
        asked.append((model_in(job, cfg), repr(cfg.decoding), repr(cfg.sweep)))
    return len(set(asked)) == len(jobs)


def sides(jobs: list[Path]) -> list[tuple[Path, str]]:
    """Jobs with their decodings, in order: none twice for a model, and seeds by their mean alone.

    Args:
        jobs: finished evaluations.
    """
    found: dict[tuple[str, str, str], tuple[Path, str]] = {}
    for job in jobs:
        cfg = load_config(job / "config.yaml")
        own_model, names = model_in(job, cfg), decodings_of(job)
        for name in names:
            if name.startswith(SEEDED) and MEAN in names:
                continue
            model = "" if name == LONGEST else own_model
            settings = "" if name == LONGEST else settings_of(name, cfg.decoding)
            found.setdefault((model, name, settings), (job, name))
    return list(found.values())


def settings_of(name: str, decoding: DecodingConfig) -> str:
    """What answers depend on beside the decoding's name, which says all of greedy but limits."""
    limits = (decoding.max_new_tokens, decoding.end_at_first_line)
    return repr(limits if name.startswith(BASELINE) else decoding)


def model_in(job: Path, cfg: Config) -> str:
    """What tells the model of an evaluation, with its prompt template, from another one."""
    model = read_record(job / EVALUATION)["model"] | {"bundle": ""}
    return json.dumps([model, repr(cfg.prompt)])
