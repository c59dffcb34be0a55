"""An evaluation: every instance of every entry answered, scored and summarised in a folder."""

import contextlib
import importlib.util
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from effchal.config import Config, ConfigError, load_config, save_config
from effchal.evaluation.answers import EvaluatedModel, EvaluationTask, TaskBatch
from effchal.evaluation.batches import answers
from effchal.evaluation.encoding import EncodedInstance, encode
from effchal.evaluation.load import load_scenarios
from effchal.evaluation.names import POOLED, pooled_name
from effchal.evaluation.plots import plot
from effchal.evaluation.questions.files import OwnFiles, own_files
from effchal.evaluation.questions.regrade import grade_again
from effchal.evaluation.results import (
    EntrySummary,
    Record,
    Records,
    TextAnswer,
    as_plain,
    summarise,
)
from effchal.evaluation.reuse import placeless, take_over
from effchal.evaluation.scenarios.metrics import aggregate_extra
from effchal.evaluation.scenarios.types import Scenario
from effchal.evaluation.shared_engine import SharedEngine, base_of, can_share
from effchal.evaluation.tables import results_table, write_tables
from effchal.evaluation.variants import variants_of
from effchal.model.device import peak_memory_gib
from effchal.model_source import (
    ModelSource,
    check_model_source,
    check_same,
    identity,
    load_source_tokenizer,
)
from effchal.prompts.encoder import PromptEncoder
from effchal.runs import device_name, git_commit, read_record, run_lock, versions, write_atomic
from effchal.tracking.terminal import progress

log = logging.getLogger("effchal.evaluate")


@dataclass
class Prepared:
    """An evaluation whose config and data are checked, and whose folder is locked."""

    task: EvaluationTask
    run_dir: Path
    scenarios: list[Scenario]
    encoded: list[list[EncodedInstance]]
    own: OwnFiles
    header: dict[str, Any]


def run(cfg: Config, run_dir: Path, others: Sequence[tuple[Config, Path]] = ()) -> str:
    """Evaluate, or go on evaluating, in run_dir.

    Args:
        others: further models with their folders. Those on the same base model are asked together
            with this one, and their answers are kept for their own evaluations.

    Returns:
        the table of results, as in results.md.

    Raises:
        ConfigError: a bad bundle, layer, entry or data file, or another process works in the
            folder; before any weight is read.
        FloatingPointError: the model's logits are not finite; earlier records are kept.
        GraderError: the user's function failed; the answers are kept.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as locks:
        this = prepare(cfg, run_dir, locks)
        beside = prepare_others(this, others, locks)
        answer_all([this, *beside])
        for each in beside:
            write_results(each.run_dir, each.header | on_device(each.task))
        grade_again(this.task, this.own.scenarios)
        end = {"status": "finished", "seconds_of_last_process": time.monotonic() - started}
        return finish(this.task, this.scenarios, this.header | end, run_dir)


def prepare(cfg: Config, run_dir: Path, locks: contextlib.ExitStack) -> Prepared:
    check_config(cfg)
    source = check_model_source(cfg)
    variants = variants_of(cfg, source.shape)
    encoder = PromptEncoder(load_source_tokenizer(source), cfg.prompt)
    own = own_files(cfg)
    with progress("reading the instances"):
        found, missing = load_scenarios(cfg, encoder)
    scenarios = [*found, *own.scenarios]
    encoded = [encode(scenario, encoder, source.shape.max_positions) for scenario in scenarios]
    locks.enter_context(run_lock(run_dir))
    if cfg.evaluate.reuse:
        take_over(cfg, identity(source), encoded, run_dir)
    header = begin(cfg, source, run_dir) | own.record | {"missing": missing}
    ends = frozenset(encoder.end_ids)
    task = EvaluationTask(cfg, source, variants, Records(run_dir), ends)
    return Prepared(task, run_dir, scenarios, encoded, own, header)


def prepare_others(
    this: Prepared, others: Sequence[tuple[Config, Path]], locks: contextlib.ExitStack
) -> list[Prepared]:
    """Those that one engine can ask together with this one. What is wrong is theirs to tell."""
    found: list[Prepared] = []
    base = base_of(this.task.source)
    if not others or not can_share(this.task.source, base):
        return found
    for cfg, run_dir in others:
        with contextlib.suppress(ConfigError):
            if can_share(check_model_source(cfg), base):
                found.append(prepare(cfg, run_dir, locks))
    if found:
        shared = SharedEngine(this.task.source, this.task.cfg.evaluate.memory_gib)
        for each in (this, *found):
            each.task.shared = shared
    return found


def finish(
    task: EvaluationTask, scenarios: list[Scenario], header: dict[str, Any], run_dir: Path
) -> str:
    """Summarise the answers and publish them; the table."""
    entries = {each.entry: summarise_entry(task, each) for each in scenarios}
    entries |= pooled(task, scenarios)
    header |= on_device(task)
    return publish(entries, header, run_dir, task.cfg.evaluate.confidence)


def publish(
    entries: dict[str, EntrySummary], header: dict[str, Any], run_dir: Path, confidence: float
) -> str:
    """Write results.json, tables and figures, and return the table."""
    plain = {entry: as_plain(summary) for entry, summary in entries.items()}
    write_results(run_dir, header | {"entries": plain})
    figures, missing = partial(plot, confidence=confidence), header.get("missing", {})
    tables = partial(write_tables, missing=missing)
    for name, write in (("tables", tables), ("figures", figures)):
        try:
            write(entries, run_dir)
        except Exception as error:  # results.json is complete without them
            log.warning("%s: no %s (%s)", run_dir, name, error)
    log.info("results: %s", run_dir)
    return results_table(entries, missing)


def on_device(task: EvaluatedModel) -> dict[str, Any]:
    """Where the model answered; nothing where every answer was known."""
    if not task.is_loaded:
        return {}
    device = task.engine.model.device
    return {"peak_memory_gib": peak_memory_gib(device), "device": device_name(device)}


def check_config(cfg: Config) -> None:
    """Raises ConfigError if there is nothing to evaluate, or results cannot be drawn."""
    if not cfg.scenario.entries and not cfg.scenario.data:
        raise ConfigError(
            "scenario.entries is empty; give at least one, e.g. scenario.entries=[truthful_qa_mc], "
            "or questions of your own: data=<file>"
        )
    check_plots()


def check_plots() -> None:
    """Raises ConfigError if there is nothing to draw results with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "evaluation draws its results with matplotlib; pip install 'effchal[evaluate]'"
        )


def begin(cfg: Config, source: ModelSource, run_dir: Path) -> dict[str, Any]:
    """results.json as it stands at the start.

    Raises:
        ConfigError: the folder has an evaluation of another model or with another config.
    """
    model = identity(source)
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "results.json"
    before = read_record(path) if path.is_file() else {"model": model}
    check_same(before["model"], model, run_dir)
    if path.is_file() and placeless(load_config(run_dir / "config.yaml")) != placeless(cfg):
        raise ConfigError(f"{run_dir} holds an evaluation with another config; take another folder")
    header = {
        "status": "running",
        "name": cfg.name,
        "model": model,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    kept = ("device", "peak_memory_gib", "answers_from")
    header |= {key: before[key] for key in kept if key in before}
    save_config(cfg, run_dir / "config.yaml")
    write_results(run_dir, header)
    return header


def is_answered(evaluation: Prepared) -> bool:
    records = evaluation.task.records
    keys = [(each.entry, each.instance.key) for part in evaluation.encoded for each in part]
    return all(records.get(*key) for key in keys)


def with_adapters(evaluations: list[Prepared]) -> list[Prepared]:
    """Those whose adapter can be loaded; the first one's must be. Loads nothing without need."""
    if all(map(is_answered, evaluations)):
        return evaluations
    first, *others = evaluations
    kept = [first]
    for each in others:
        try:
            _ = each.task.adapter
            kept.append(each)
        except ConfigError as error:
            log.warning("%s; left to its own evaluation", error)
    return kept


def answer_all(evaluations: list[Prepared]) -> None:
    """Answer every instance that has no record yet, of all models entry by entry."""
    evaluations = with_adapters(evaluations)
    total = sum(len(scenario.instances) for each in evaluations for scenario in each.scenarios)
    done = 0
    with progress("answering instances", total, "instances") as advance:
        for number, scenario in enumerate(evaluations[0].scenarios):
            asked = [
                TaskBatch(each.task, each.scenarios[number], each.encoded[number])
                for each in evaluations
            ]
            for task, records in answers(asked):
                task.records.add(records)
                done += len(records)
                advance(done)
            log.info("%s: %d instances", scenario.entry, len(scenario.instances))


def summarise_entry(task: EvaluationTask, scenario: Scenario) -> EntrySummary:
    """Summary of one entry, with the scores that are not a mean over instances."""
    records = task.records.of(scenario)
    summary = summarise(records, scenario.settings.main_metric, task.cfg.evaluate)
    summary.not_measured = scenario.not_measured or None
    for name, decoded in summary.decodings.items():
        texts = []
        for instance, record in zip(scenario.instances, records, strict=True):
            answer = record.decodings.get(name)  # a mean over seeds has none
            is_counted = record.split == summary.split and record.perturbation is None
            if is_counted and isinstance(answer, TextAnswer):
                texts.append((instance, answer.text))
        decoded.of_all_instances = aggregate_extra(scenario, texts) or None
    return summary


def pooled(task: EvaluationTask, scenarios: list[Scenario]) -> dict[str, EntrySummary]:
    """One more summary where several entries are parts of one scenario, such as MMLU's subjects.

    Every instance counts once.
    """
    result = {}
    for name in dict.fromkeys(each.entry.partition(":")[0] for each in scenarios):
        parts = [each for each in scenarios if each.entry.partition(":")[0] == name]
        if name in POOLED and len(parts) > 1:
            records: list[Record] = [record for each in parts for record in task.records.of(each)]
            title = pooled_name(name, len(parts))
            main_metric = parts[0].settings.main_metric
            result[title] = summarise(records, main_metric, task.cfg.evaluate)
            log.info("%s: %d instances", title, len(records))
    return result


def write_results(run_dir: Path, results: dict[str, Any]) -> None:
    write_atomic(run_dir / "results.json", json.dumps(results, indent=2) + "\n")
