"""An evaluation: every instance of every entry answered, scored and summarised in a folder."""

import importlib.util
import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

from effchal.config import Config, ConfigError, load_config, save_config
from effchal.evaluation.answers import (
    EncodedInstance,
    EvaluationTask,
    TokenizerWindow,
    answers,
    encode,
)
from effchal.evaluation.names import POOLED, pooled_name
from effchal.evaluation.plots import plot
from effchal.evaluation.results import (
    EntrySummary,
    Record,
    Records,
    TextAnswer,
    as_plain,
    summarise,
)
from effchal.evaluation.reuse import placeless, take_over
from effchal.evaluation.scenarios import (
    MissingDataError,
    Scenario,
    aggregate_extra,
    expanded,
    load_scenario,
)
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
from effchal.prompts import PromptEncoder
from effchal.runs import device_name, git_commit, read_record, run_lock, versions, write_atomic
from effchal.tracking.terminal import progress

log = logging.getLogger("effchal.evaluate")


def run(cfg: Config, run_dir: Path) -> str:
    """Evaluate, or go on evaluating, in run_dir.

    Returns:
        the table of results, as in results.md.

    Raises:
        ConfigError: a bad bundle, layer, entry or data file, or another process works in the
            folder; before any weight is read.
        FloatingPointError: the model's logits are not finite; earlier records are kept.
    """
    started = time.monotonic()
    check_config(cfg)
    source = check_model_source(cfg)
    variants = variants_of(cfg, source.shape)
    encoder = PromptEncoder(load_source_tokenizer(source), cfg.prompt)
    scenarios, missing = load_scenarios(cfg, encoder)
    encoded = [encode(scenario, encoder, source.shape.max_positions) for scenario in scenarios]
    with run_lock(run_dir):
        if cfg.evaluate.reuse:
            take_over(cfg, identity(source), encoded, run_dir)
        header = begin(cfg, source, run_dir) | {"missing": missing}
        task = EvaluationTask(cfg, source, variants, Records(run_dir))
        answer_all(task, scenarios, encoded)
        header |= {"status": "finished", "seconds_of_last_process": time.monotonic() - started}
        return finish(task, scenarios, header, run_dir)


def finish(
    task: EvaluationTask, scenarios: list[Scenario], header: dict[str, Any], run_dir: Path
) -> str:
    """Summarise the answers, write what results.json holds, and return the table."""
    entries = {each.entry: summarise_entry(task, each) for each in scenarios}
    entries |= pooled(task, scenarios)
    if task.is_loaded:
        device = task.engine.model.device
        header |= {"peak_memory_gib": peak_memory_gib(device), "device": device_name(device)}
    plain = {entry: as_plain(summary) for entry, summary in entries.items()}
    write_results(run_dir, header | {"entries": plain})
    figures = partial(plot, confidence=task.cfg.evaluate.confidence)
    tables = partial(write_tables, missing=header["missing"])
    for name, write in (("tables", tables), ("figures", figures)):
        try:
            write(entries, run_dir)
        except Exception as error:  # results.json is complete without them
            log.warning("%s: no %s (%s)", run_dir, name, error)
    log.info("results: %s", run_dir)
    return results_table(entries, header["missing"])


def check_config(cfg: Config) -> None:
    """Raises ConfigError if there is nothing to evaluate, or nothing to draw results with."""
    if not cfg.scenario.entries:
        raise ConfigError(
            "scenario.entries is empty; give at least one, e.g. scenario.entries=[truthful_qa_mc]"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "evaluation draws its results with matplotlib; pip install 'effchal[evaluate]'"
        )


def load_scenarios(cfg: Config, encoder: PromptEncoder) -> tuple[list[Scenario], dict[str, str]]:
    """The scenarios of all entries, and by entry what is missing of the others' data.

    Raises:
        ConfigError: data are missing, unless scenario.skip_missing allows it; it names all that
            are missing.
    """
    path = None if cfg.scenario.path is None else Path(cfg.scenario.path)
    window, most = TokenizerWindow(encoder), cfg.scenario.max_instances
    found: list[Scenario] = []
    missing: dict[str, MissingDataError] = {}
    for entry in cfg.scenario.entries:
        try:
            found += [load_scenario(each, path, most, window) for each in expanded(entry)]
        except MissingDataError as error:
            missing[entry] = error
    if missing and (not found or not cfg.scenario.skip_missing):
        raise missing_data(missing, len(cfg.scenario.entries))
    for entry, reason in missing.items():
        log.warning("left out: %s: %s", entry, reason.what)
    return found, {entry: reason.what for entry, reason in missing.items()}


def missing_data(missing: dict[str, MissingDataError], entries: int) -> ConfigError:
    """One error of several, each remedy once."""
    if entries == 1:
        (error,) = missing.values()
        return error
    lines = [f"{entry}: {error.what}" for entry, error in missing.items()]
    remedies = dict.fromkeys(error.remedy for error in missing.values())
    skip = "scenario.skip_missing=true goes on without them, and names them in the results"
    return ConfigError(
        "\n  ".join([f"no data for {len(missing)} of {entries} entries:", *lines, *remedies, skip])
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


def answer_all(
    task: EvaluationTask, scenarios: list[Scenario], encoded: list[list[EncodedInstance]]
) -> None:
    """Answer every instance that has no record yet."""
    total, done = sum(len(scenario.instances) for scenario in scenarios), 0
    with progress("answering instances", total, "instances") as advance:
        for scenario, inputs in zip(scenarios, encoded, strict=True):
            for records in answers(task, scenario, inputs):
                task.records.add(records)
                done += len(records)
                advance(done)
            log.info("%s: %d instances", scenario.entry, len(scenario.instances))


def summarise_entry(task: EvaluationTask, scenario: Scenario) -> EntrySummary:
    """Summary of one entry, with the scores that are not a mean over instances."""
    records = task.records.of(scenario)
    summary = summarise(records, scenario.settings.main_metric, task.cfg.evaluate)
    for name, decoded in summary.decodings.items():
        texts = []
        for instance, record in zip(scenario.instances, records, strict=True):
            answer = record.decodings[name]
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
