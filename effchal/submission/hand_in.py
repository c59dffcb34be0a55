"""A hand-in from beginning to end: rules, run, code, server, conformance, scores, folder."""

import json
import logging
import shutil
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from effchal.bundle import check_bundle, replace_text
from effchal.cli.compose import overlay
from effchal.cli.overrides import key_of
from effchal.config import Config, ConfigError, load_config
from effchal.config.io import as_yaml
from effchal.conformance_checks.run import CHECKS
from effchal.conformance_checks.verdict import Status, Verdict
from effchal.evaluation.load import load_scenarios
from effchal.evaluation.questions.files import own_files
from effchal.evaluation.run import check_config
from effchal.evaluation.variants import variants_of
from effchal.exporting.folder import check_free, written_whole
from effchal.model.device import gpu_names
from effchal.model_source import bundle_folder, check_model_source, load_source_tokenizer
from effchal.prompts.encoder import PromptEncoder
from effchal.rules import Finding, check_rules, summary
from effchal.runs import git_commit, read_record, versions
from effchal.submission import stages
from effchal.submission.context import project_root, write_checksums, write_context
from effchal.submission.facts import (
    BUNDLE,
    conformance_facts,
    evaluation_facts,
    model_facts,
    training_facts,
    write_facts,
)
from effchal.submission.included import check_included, included_data
from effchal.submission.questions import check_names, paths_of, take_questions
from effchal.submission.readme import readme
from effchal.submission.stages import Code, StageError

OF_RUN = ("config.yaml", "run.json", "plan.json", "metrics.jsonl", "mix.json", "mix.md", "mix.png")
OF_EVALUATION = ("results.json", "results.md", "results.csv", "results.png", "instances.jsonl")
FREE = {"decoding", "bundle", "base_model", "scenario", "sweep", "evaluate", "submit", "name"}
FREE |= {"rules"}
log = logging.getLogger("effchal.submit")


def submit(cfg: Config, overrides: list[str], output_dir: Path) -> Path:
    """Train where no bundle is given, then serve, check and score, and write the folder.

    Args:
        overrides: what was typed, for the training.

    Raises:
        ConfigError: something that cannot be handed in; before any hour is spent on it.
        StageError: a step failed, or the server breaks a rule. No folder is left.
    """
    folder = Path(cfg.submit.folder or output_dir / "submission")
    check_free(folder, "submit.folder")
    output_dir.mkdir(parents=True, exist_ok=True)
    project_root()
    check_patterns(cfg.submit.allow_broken)
    if cfg.bundle is None:
        check_questions(cfg)
        check_included(cfg)
        enforced(cfg, gpu_names())
        run_dir = output_dir / "train"
        with written_whole(folder) as partial:
            write_context(partial)
            train_first(partial, run_dir, overrides)
            fill(partial, cfg_of(cfg, overrides, run_dir), run_dir, output_dir)
        return folder
    run_dir = run_of(bundle_folder(cfg.bundle))
    cfg = cfg_of(cfg, overrides, run_dir)
    check_questions(cfg)
    check_included(cfg)
    with written_whole(folder) as partial:
        write_context(partial)
        fill(partial, cfg, run_dir, output_dir)
    return folder


def train_first(partial: Path, run_dir: Path, overrides: list[str]) -> None:
    own = ("submit.", "hydra.")
    words = [word for word in overrides if not word.lstrip("+").startswith(own)]
    stages.train(Code(partial, git_commit()), run_dir, words)
    run_of(run_dir / "bundle")


def run_of(bundle: Path) -> Path:
    """The folder of the run that a bundle lies in, and that has ended as planned.

    Raises:
        ConfigError: it lies in none, or the run was cut off.
    """
    folder = bundle.absolute().parent
    missing = [
        name for name in ("run.json", "config.yaml", "mix.json") if not (folder / name).is_file()
    ]
    if missing:
        raise ConfigError(
            f"{bundle} lies in no run of effchal train ({folder} has no {missing[0]}), and a "
            "hand-in holds the run's config, hours and data report; give the run's own folder"
        )
    if not (bundle / "adapter").is_dir():
        raise ConfigError(f"{bundle} has no adapter, so there is no training to hand in")
    status = read_record(folder / "run.json").get("status")
    if status not in ("finished", "stopped_by_budget"):
        raise ConfigError(
            f"{folder} is {status}, not finished; end it with: effchal train {folder}"
        )
    return folder


def cfg_of(cfg: Config, overrides: list[str], run_dir: Path) -> Config:
    """The config of a run's bundle, with what was typed for serving and scoring on top."""
    bundle = run_dir / "bundle"
    frozen = load_config(bundle / "config.yaml")
    if cfg.bundle is None:  # all that was typed is in the run already
        return replace(frozen, bundle=str(bundle), submit=cfg.submit)
    return replace(overlay(frozen, cfg, overrides, FREE, str(bundle)), bundle=str(bundle))


def check_patterns(allowed: list[str]) -> None:
    """Raises ConfigError for a pattern of submit.allow_broken that names no check."""
    for pattern in allowed:
        if not any(fnmatchcase(check.name, pattern) for check in CHECKS):
            raise ConfigError(
                f"submit.allow_broken has {pattern}, which names no check; "
                "effchal conformance list shows all"
            )


def check_questions(cfg: Config) -> None:
    """Raises ConfigError for questions, data or a model that are not there."""
    check_config(cfg)
    check_names(cfg)
    source = check_model_source(cfg)
    own_files(cfg)
    load_scenarios(cfg, PromptEncoder(load_source_tokenizer(source), source.prompt))


def enforced(cfg: Config, gpus: list[str]) -> list[Finding]:
    """What each rule of a contest finds; [] without a contest.

    Raises:
        ConfigError: rules.enforce=true, and a rule is broken.
    """
    if cfg.rules is None:
        return []
    findings = check_rules(cfg.rules, cfg.model, cfg.data_mix, cfg.budget, gpus)
    if not all(each.ok for each in findings):
        if cfg.rules.enforce:
            raise ConfigError(f"{summary(cfg.rules, findings)}; rules=none leaves them out")
        log.warning("%s", summary(cfg.rules, findings))
    return findings


def fill(folder: Path, cfg: Config, run_dir: Path, output_dir: Path) -> None:
    """Everything beside the code: what was trained, and what is measured of it here and now."""
    code = Code(folder, git_commit())
    run = read_record(run_dir / "run.json")
    findings = enforced(cfg, cards_of(run, cfg.train.gpus or 1))
    bundle = take_bundle(folder, cfg, run_dir)
    take_files(run_dir, folder / "training", OF_RUN)
    data = included_data(folder, cfg) if cfg.submit.include_data else {}
    places = paths_of(cfg)
    base = [word for word in places if key_of(word) == "base_model"]
    log.info("conformance: a server on the folder's own code")
    record, server_log = folder / "conformance.json", output_dir / "server.log"
    verdicts = stages.conform(code, BUNDLE, base, record, server_log)
    check_broken(verdicts, cfg.submit.allow_broken)
    log.info("scores: %d entries", len(cfg.scenario.entries) + len(cfg.scenario.data))
    questions = take_questions(cfg, folder)
    evaluated = output_dir / "evaluate"
    results = stages.evaluate(code, BUNDLE, evaluated, questions.overrides(places))
    take_files(evaluated, folder / "evaluation", OF_EVALUATION)
    facts: dict[str, Any] = {
        "name": cfg.name,
        "git_commit": code.git_commit,
        "base_model": model_facts(bundle),
        "decoding": served_decoding(cfg),
        "training": training_facts(run, bundle),
        "rules": {"name": cfg.rules and cfg.rules.name, "findings": list(map(asdict, findings))},
        "included_data": data,
        "conformance": conformance_facts(verdicts),
        "questions": asdict(questions),
        "evaluation": evaluation_facts(results),
        "versions": versions(),
    }
    write_facts(folder, facts)
    place = place_of(evaluated, cfg, facts["decoding"])
    mix = json.loads((folder / "training" / "mix.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(readme(facts, mix, place), encoding="utf-8")
    write_checksums(folder)


def cards_of(run: dict[str, Any], gpus: int) -> list[str]:
    """The names of the cards that a run was trained on."""
    device = str(run.get("device"))
    return [] if "CPU" in device else [device] * gpus


def take_bundle(folder: Path, cfg: Config, run_dir: Path) -> Path:
    """Copy the bundle; where another decoding was typed, its config says so from now on."""
    bundle = folder / BUNDLE
    check_bundle(run_dir / "bundle")
    shutil.copytree(run_dir / "bundle", bundle, copy_function=shutil.copyfile)
    own = load_config(bundle / "config.yaml")
    if own.decoding != cfg.decoding:
        replace_text(bundle, "config.yaml", as_yaml(replace(own, decoding=cfg.decoding)))
    return bundle


def take_files(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def check_broken(verdicts: list[Verdict], patterns: list[str]) -> None:
    """Raises StageError if the server breaks a rule that submit.allow_broken does not allow."""
    broken = {each.name: each for each in verdicts if each.status is Status.broken}
    refused = [n for n in broken if not any(fnmatchcase(n, each) for each in patterns)]
    if refused:
        lines = [f"{name}: {broken[name].rule} ({broken[name].reason.strip()})" for name in refused]
        found = "\n  ".join(lines)
        raise StageError(
            f"the server breaks {len(refused)} of {len(verdicts)} rules; repair them, or hand in "
            f"all the same with 'allow_broken=[{','.join(refused)}]'\n  {found}"
        )


def served_decoding(cfg: Config) -> str:
    """What an evaluation calls the decoding that the bundle is served with."""
    alone = replace(cfg, sweep=replace(cfg.sweep, premature_layers=[]))
    return variants_of(alone, check_model_source(cfg).shape)[-1].name


def place_of(evaluated: Path, cfg: Config, decoding: str) -> str | None:
    """Where the scores stand among the contest's finalists; None for other questions."""
    from effchal.reporting.challenge import challenge_report

    if not (cfg.scenario.contest and cfg.scenario.entries):
        return None
    try:
        return challenge_report([evaluated], decoding=decoding).places()
    except ConfigError:
        return None
