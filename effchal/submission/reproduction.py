"""A hand-in done again from scratch with its own code, and compared with what it states."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effchal.bundle import base_of_bundle, sha256
from effchal.cli.overrides import key_of, parse_override, quote
from effchal.config import Config, ConfigError, load_config
from effchal.mixing.prepare import prepare_data
from effchal.runs import read_record, versions, write_atomic
from effchal.submission import stages
from effchal.submission.context import check_checksums
from effchal.submission.facts import (
    ADAPTER,
    BUNDLE,
    conformance_facts,
    evaluation_facts,
    model_facts,
    read_facts,
    training_facts,
)
from effchal.submission.questions import Questions
from effchal.submission.stages import Code
from effchal.submission.verdicts import (
    Finding,
    of_adapter,
    of_answers,
    of_base_model,
    of_conformance,
    of_scores,
    of_training,
    of_versions,
)
from effchal.tracking.text_tables import as_text

# Keys that may be typed: where things lie on this machine, and what it may spend.
OF_TRAINING = ("base_model", "budget.hours", "train.gpus", "train.parallel", "data_mix.sources.")
OF_EVALUATION = ("scenario.path", "evaluate.memory_gib")
RECORD = "reproduction.json"
INSTANCES = "instances.jsonl"


def reproduce(cfg: Config, overrides: list[str], output_dir: Path) -> list[Finding]:
    """Check the files, train, serve, check the rules and score; what each comparison found.

    Everything is written into `output_dir`; the hand-in stays as it is.

    Args:
        overrides: what was typed.

    Raises:
        ConfigError: not a hand-in, a file of it was changed, or something it needs is not here.
        StageError: a step failed.
    """
    if cfg.reproduce.folder is None:
        raise ConfigError("reproduce takes a folder of effchal submit: effchal reproduce <folder>")
    folder = Path(cfg.reproduce.folder).absolute()
    typed = checked_words(overrides)
    files = check_checksums(folder)
    facts = read_facts(folder)
    there = facts["training"]
    base = base_words(folder, cfg.base_model)
    words = Questions(**facts["questions"]).overrides([*words_of(typed, OF_EVALUATION), *base])
    if cfg.reproduce.retrain:
        check_data(folder, facts, cfg.base_model, typed)
    output_dir.mkdir(parents=True, exist_ok=True)
    code = Code(folder, facts["git_commit"])
    findings = [
        Finding("files", f"{files}", f"{files}", True),
        of_adapter(there["adapter_sha256"], sha256(folder / BUNDLE / ADAPTER)),
        of_versions(facts["versions"], versions()),
    ]
    bundle = folder / BUNDLE
    if cfg.reproduce.retrain:
        run = trained_again(code, facts, output_dir / "train", words_of(typed, OF_TRAINING))
        bundle = output_dir / "train" / "bundle"
        here = training_facts(run, bundle)
        findings.append(of_base_model(facts["base_model"], model_facts(bundle)))
        findings += of_training(there, here, run["limit_s"])
    decoding = decoding_words(folder)
    record, log = output_dir / "conformance.json", output_dir / "server.log"
    verdicts = stages.conform(code, str(bundle), [*base, *decoding], record, log)
    findings.append(of_conformance(facts["conformance"], conformance_facts(verdicts)))
    evaluated = output_dir / "evaluate"
    results = stages.evaluate(code, str(bundle), evaluated, [*words, *decoding])
    findings += of_scores(facts["evaluation"], evaluation_facts(results))
    findings.append(of_answers(folder / "evaluation" / INSTANCES, evaluated / INSTANCES))
    kept = {"folder": str(folder), "findings": list(map(asdict, findings)), "versions": versions()}
    write_atomic(output_dir / RECORD, json.dumps(kept, indent=1) + "\n")
    return findings


def base_words(folder: Path, base_model: str | None) -> list[str]:
    """Where the base model lies, for a command that runs in the hand-in's folder.

    Raises:
        ConfigError: it is not here, or is another one.
    """
    name = base_of_bundle(folder / BUNDLE, base_model).name
    return [f"base_model={quote(os.path.abspath(name))}"] if Path(name).is_dir() else []


def check_data(folder: Path, facts: dict[str, Any], base: str | None, typed: list[str]) -> None:
    """Raises ConfigError if the data of the training is not here, before hours are spent on it."""
    cfg = load_config(folder / "training" / "config.yaml")
    cfg.model.name = base or cfg.model.name
    paths = {
        f"data_mix.sources.{k}.path": str(folder / v) for k, v in facts["included_data"].items()
    }
    paths |= {key_of(word): str(parse_override(word).value()) for word in typed}
    for name, source in cfg.data_mix.sources.items():
        source.path = paths.get(f"data_mix.sources.{name}.path", source.path)
    found, stated = prepare_data(cfg, None).sha256, facts["training"]["data_sha256"]
    if found != stated:
        raise ConfigError(
            f"the data here is not that of {folder}: digest {found}, handed in {stated}. Build it "
            f"with effchal data, and compare: effchal data diff {folder / 'training'} <its folder>"
        )


def trained_again(
    code: Code, facts: dict[str, Any], run_dir: Path, typed: list[str]
) -> dict[str, Any]:
    """Train by the hand-in's config, as a new run; the content of its run.json.

    Raises:
        ConfigError: it left no bundle.
        StageError: it failed.
    """
    run_dir.mkdir(parents=True)
    shutil.copyfile(code.folder / "training" / "config.yaml", run_dir / "config.yaml")
    words = [f"resume_from={quote(str(run_dir))}", "track.wandb=off", "track.tensorboard=false"]
    words += [
        f"data_mix.sources.{name}.path={quote(str(code.folder / path))}"
        for name, path in facts["included_data"].items()
    ]
    stages.train(code, run_dir, [*words, *typed])
    if not (run_dir / BUNDLE / "manifest.json").is_file():
        raise ConfigError(f"{run_dir} has no bundle; what it says stands above")
    return read_record(run_dir / "run.json")


def decoding_words(folder: Path) -> list[str]:
    """The decoding that was handed in, which may be another one than that of the training."""
    plain = asdict(load_config(folder / BUNDLE / "config.yaml").decoding)
    found = {key: getattr(value, "value", value) for key, value in plain.items()}
    return [f"decoding.{key}={json.dumps(value)}" for key, value in found.items()]


def checked_words(overrides: list[str]) -> list[str]:
    """What was typed of places and budget, with paths that hold in any folder.

    Raises:
        ConfigError: another key; the hand-in's own config says it.
    """
    words = []
    for word in overrides:
        key = key_of(word)
        if key.startswith(("reproduce.", "hydra.")) or key == "name":
            continue
        if not key.startswith((*OF_TRAINING, *OF_EVALUATION)):
            may = ", ".join(dict.fromkeys([*OF_TRAINING, *OF_EVALUATION]))
            raise ConfigError(f"{key} is what the hand-in says; only {may} may be given here")
        value = parse_override(word).value()
        is_path = key == "base_model" or key.endswith(".path")
        if is_path and isinstance(value, str) and Path(value).expanduser().exists():
            word = f"{key}={quote(os.path.abspath(os.path.expanduser(value)))}"
        words.append(word)
    return words


def words_of(words: list[str], keys: tuple[str, ...]) -> list[str]:
    return [word for word in words if key_of(word).startswith(keys)]


def findings_table(findings: list[Finding]) -> str:
    """What was compared, for the screen."""
    marks = {True: "pass", False: "FAIL", None: ""}
    rows = [("", "compared", "handed in", "here")]
    rows += [(marks[each.ok], each.what, each.there, each.here) for each in findings]
    return as_text(rows)
