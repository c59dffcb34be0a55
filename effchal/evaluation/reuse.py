"""Answers of an earlier evaluation, for one that asks the same model the same."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from effchal.config import Config, ConfigError, TrackConfig, load_config, save_config
from effchal.evaluation.encoding import EncodedInstance
from effchal.evaluation.locate import newest_finished
from effchal.evaluation.names import instance_key
from effchal.evaluation.scored import EVALUATION
from effchal.model_source import check_same
from effchal.runs import read_json_lines, read_record, write_atomic

INSTANCES = "instances.jsonl"
log = logging.getLogger("effchal.evaluate")


def take_over(
    cfg: Config, model: dict[str, Any], encoded: list[list[EncodedInstance]], run_dir: Path
) -> None:
    """Begin run_dir with the answers of the newest evaluation that asked the same.

    A folder in which an evaluation has begun stays as it is.

    Args:
        model: its identity.
    """
    if (run_dir / EVALUATION).is_file():
        return
    prompts = {(each.entry, each.instance.key): each.digest for entry in encoded for each in entry}
    for folder in newest_finished(EVALUATION):
        if asked_the_same(folder, cfg, model) and prompts_of(folder) == prompts:
            shutil.copyfile(folder / INSTANCES, run_dir / INSTANCES)
            save_config(cfg, run_dir / "config.yaml")
            record = read_record(folder / EVALUATION) | {"answers_from": str(folder)}
            write_atomic(run_dir / EVALUATION, json.dumps(record, indent=2) + "\n")
            log.info("answers taken from %s, which asked this model the same", folder)
            return


def asked_the_same(folder: Path, cfg: Config, model: dict[str, Any]) -> bool:
    """Whether an evaluation was of this model, with the same prompts and decodings."""
    try:
        check_same(read_record(folder / EVALUATION)["model"], model, folder)
        before = load_config(folder / "config.yaml")
    except (ConfigError, OSError):
        return False
    return what_is_asked(before) == what_is_asked(cfg)


def what_is_asked(cfg: Config) -> list[Any]:
    """The parts of a config that answers depend on, but for the bits that batches change."""
    same = placeless(cfg)
    variants = (same.sweep.premature_layers, same.sweep.controls, same.evaluate.seeds)
    return [same.model, same.prompt, same.decoding, same.scenario, *variants]


def prompts_of(folder: Path) -> dict[tuple[str, str], str]:
    """Digests of the recorded prompts by entry and key."""
    lines = read_json_lines(folder / INSTANCES)
    return {
        (line.get("entry", ""), instance_key(line)): line.get("prompt_sha256", "") for line in lines
    }


def placeless(cfg: Config) -> Config:
    """The config without where model, data and results lie: digests tell the first two."""
    files = [Path(path).name for path in cfg.scenario.data]
    model = replace(cfg.model, name="", cuda_graphs=True)
    scenario = replace(cfg.scenario, path=None, data=files, skip_missing=False, contest=False)
    evaluate = replace(cfg.evaluate, reuse=False, memory_gib=None, together=True, grader=None)
    lm_eval = replace(cfg.lm_eval, environment="")
    cfg = replace(cfg, model=model, scenario=scenario, evaluate=evaluate, lm_eval=lm_eval)
    cfg = replace(cfg, track=TrackConfig())
    return replace(cfg, bundle=None, base_model=None)
