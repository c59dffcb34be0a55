"""A run of lm-eval's tasks: lm-eval asks and scores, our engine answers, and both keep results."""

import json
import time
from pathlib import Path
from typing import Any

from effchal.config import Config, to_plain
from effchal.evaluation.lm_eval.answers import Answerer
from effchal.evaluation.lm_eval.conversation import Chat, Conversation
from effchal.evaluation.lm_eval.process import MARK, lm_eval_process
from effchal.evaluation.lm_eval.results import others_table, records_of, summary_of
from effchal.evaluation.run import begin, check_plots, on_device, publish
from effchal.model_source import check_model_source, load_source_tokenizer
from effchal.prompts.encoder import PromptEncoder
from effchal.runs import run_lock, write_atomic

OWN_FOLDER = "lm_eval"  # of lm-eval's own files
# Of LmEvalConfig: what lm-eval's simple_evaluate takes by the same name.
OPTIONS = (
    "num_fewshot",
    "limit",
    "apply_chat_template",
    "fewshot_as_multiturn",
    "system_instruction",
    "gen_kwargs",
    "confirm_run_unsafe_code",
)
SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")


def run(cfg: Config, run_dir: Path, variables: dict[str, str]) -> str:
    """Run the tasks, or go on with them, in run_dir.

    Args:
        variables: of lm-eval's process, as `made_ready` returns them.

    Returns:
        the table of results, as in results.md.

    Raises:
        ConfigError: a bad task, bundle or layer; before any weight is read.
        LmEvalError: lm-eval failed, or a task asks for what we have no equal of; answers are kept.
        FloatingPointError: the model's logits are not finite; answers are kept.
    """
    started = time.monotonic()
    check_plots()
    source = check_model_source(cfg)
    tokenizer = load_source_tokenizer(source)
    chat = Chat(tokenizer, PromptEncoder(tokenizer, cfg.prompt).chat_template())
    with run_lock(run_dir):
        header = begin(cfg, source, run_dir)
        answerer = Answerer(cfg, source, tokenizer, run_dir)
        job = job_of(cfg, run_dir, answerer)
        write_atomic(run_dir / MARK, json.dumps(job, indent=2) + "\n")
        found = Conversation(answerer, chat)
        with lm_eval_process(cfg, run_dir, job, variables) as process:
            found.hold(process)
        seconds = time.monotonic() - started
        header |= {"status": "finished", "harness": f"lm-eval {found.version}"}
        header |= {"seconds_of_last_process": seconds, "seconds_of_answers": found.seconds}
        header |= {"requests": len(answerer.answers)} | on_device(answerer)
        return finish(cfg, found, header, run_dir)


def job_of(cfg: Config, run_dir: Path, answerer: Answerer) -> dict[str, Any]:
    """What inside.py is told."""
    asked = to_plain(cfg)["lm_eval"]
    options = {name: asked[name] for name in OPTIONS}
    if cfg.lm_eval.seed is not None:
        options |= dict.fromkeys(SEEDS, cfg.lm_eval.seed)
    if cfg.lm_eval.limit is not None and cfg.lm_eval.limit >= 1:
        options["limit"] = int(cfg.lm_eval.limit)
    return {
        "tasks": cfg.lm_eval.tasks,
        "include_path": cfg.lm_eval.include_path,
        "metadata": asked["metadata"],
        "log_samples": cfg.lm_eval.log_samples,
        "options": options,
        "decodings": answerer.decodings(),
        "output": str((run_dir / OWN_FOLDER).absolute()),
        "name": cfg.name,
    }


def finish(cfg: Config, found: Conversation, header: dict[str, Any], run_dir: Path) -> str:
    """Write the questions, results.json, tables and figures; the table of tasks and groups."""
    entries, lines = {}, []
    for task, kind in found.kinds.items():
        records = records_of(task, kind, found.scores, found.answerer.answers)
        entries[task] = summary_of(task, records, found.scores, cfg.evaluate)
        lines += [record.to_line() for record in records]
    write_atomic(run_dir / "instances.jsonl", "".join(lines))
    groups = {name: group for name, group in found.groups.items() if group}
    header |= {"groups": groups} if groups else {}
    table = publish(entries, header, run_dir, cfg.evaluate.confidence)
    return table + others_table(entries, groups)
