"""An evaluation: every instance of every entry answered, scored and summarised in a folder."""

import importlib.util
import json
import logging
import time
from pathlib import Path
from typing import Any

from effchal.config import Config, ConfigError, save_config
from effchal.evaluation.answers import Job, Window, answers, encode
from effchal.evaluation.results import Record, Records, plot, summarise, table, write_tables
from effchal.evaluation.scenarios import Scenario, aggregate_extra, load_scenario
from effchal.evaluation.variants import variants_of
from effchal.model_source import (
    ModelSource,
    check_model_source,
    check_same,
    identity,
    load_source_tokenizer,
)
from effchal.prompts import PromptEncoder
from effchal.runs import device_name, git_commit, versions
from effchal.tracking import peak_memory_gib, progress_bar

POOLED = ("mmlu", "bbq")  # scenarios whose entries are parts, by subject
log = logging.getLogger("effchal.evaluate")


def run(cfg: Config, run_dir: Path) -> str:
    """Evaluate, or go on evaluating, in run_dir; the table of results.

    Raises:
        ConfigError: whatever is wrong with bundle, layers, entries or data, before any weight is read.
    """
    started = time.monotonic()
    if not cfg.scenario.entries:
        raise ConfigError(
            "scenario.entries is empty; give at least one, e.g. scenario.entries=[truthful_qa_mc]"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "evaluation draws its results with matplotlib; pip install 'effchal[evaluate]'"
        )
    subject = check_model_source(cfg)
    variants = variants_of(cfg, subject.shape)
    tokenizer = load_source_tokenizer(subject)
    encoder = PromptEncoder(tokenizer, cfg.prompt)
    path = None if cfg.scenario.path is None else Path(cfg.scenario.path)
    window = Window(tokenizer, encoder)
    scenarios = [
        load_scenario(entry, path, cfg.scenario.max_instances, window)
        for entry in cfg.scenario.entries
    ]
    encoded = [encode(scenario, encoder, subject.shape.max_positions) for scenario in scenarios]
    header = begin(cfg, subject, run_dir)
    job = Job(cfg, subject, variants, Records(run_dir))
    entries: dict[str, Any] = {}
    total = sum(len(scenario.instances) for scenario in scenarios)
    done = 0
    with progress_bar(total, 0, "instances") as advance:
        for scenario, inputs in zip(scenarios, encoded, strict=True):
            for records in answers(job, scenario, inputs):
                job.records.add(records)
                done += len(records)
                advance(done)
            found = [
                job.records.get(scenario.entry, instance.id) for instance in scenario.instances
            ]
            entries[scenario.entry] = summarise(found, scenario.main_metric, cfg.evaluate)
            add_bias(entries[scenario.entry], scenario, found)
            log.info("%s: %d instances", scenario.entry, len(found))
    entries |= pooled(job, scenarios)
    header |= {"status": "finished", "seconds_of_last_process": time.monotonic() - started}
    if job.engine is not None:
        header |= {"peak_memory_gib": peak_memory_gib(job.engine.model.device)}
        header |= {"device": device_name(job.engine.model.device)}
    write_results(run_dir, header | {"entries": entries})
    write_tables(entries, run_dir)
    plot(entries, run_dir)
    log.info("results: %s", run_dir)
    return table(entries)


def begin(cfg: Config, subject: ModelSource, run_dir: Path) -> dict[str, Any]:
    """results.json as it stands at the start; a resumed evaluation must be of the same model.

    Raises:
        ConfigError: it is not.
    """
    model = identity(subject)
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "results.json"
    before = json.loads(path.read_text()) if path.is_file() else {"model": model}
    check_same(before["model"], model, run_dir)
    header = {
        "status": "running",
        "name": cfg.name,
        "model": model,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    header |= {key: before[key] for key in ("device", "peak_memory_gib") if key in before}
    save_config(cfg, run_dir / "config.yaml")
    write_results(run_dir, header)
    return header


def pooled(job: Job, scenarios: list[Scenario]) -> dict[str, Any]:
    """One more result for entries that are parts of one scenario, MMLU's subjects say: every instance counts once."""
    parts: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        name = scenario.entry.partition(":")[0]
        if name in POOLED:
            parts.setdefault(name, []).append(scenario)
    result = {}
    for name, together in parts.items():
        if len(together) > 1:
            found = [
                job.records.get(each.entry, instance.id)
                for each in together
                for instance in each.instances
            ]
            title = f"{name}, {len(together)} entries together"
            result[title] = summarise(found, together[0].main_metric, job.cfg.evaluate)
            log.info("%s: %d instances", title, len(found))
    return result


def write_results(run_dir: Path, results: dict[str, Any]) -> None:
    parts = run_dir / "results.tmp"
    parts.write_text(json.dumps(results, indent=2) + "\n")
    parts.replace(run_dir / "results.json")


def add_bias(result: dict[str, Any], scenario: Scenario, records: list[Record]) -> None:
    """BBQ's scores, which are no mean over instances."""
    for name, decoded in result["decodings"].items():
        pairs = [
            (instance, each["decodings"][name]["text"])
            for instance, each in zip(scenario.instances, records, strict=True)
            if each["split"] == result["split"] and "text" in each["decodings"][name]
        ]
        extra = aggregate_extra(scenario, pairs)
        if extra:
            decoded["of_all_instances"] = extra
