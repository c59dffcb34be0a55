"""What the program says about itself: its commands and what each one reads.

Nothing here imports a command, so that help never waits for torch.
"""

import argparse
import ast
import shutil
import textwrap
from dataclasses import dataclass
from typing import NoReturn

from effchal.cli.arguments import (
    DATA_WORDS,
    FETCH_WORDS,
    hydra_arguments,
    parse_override,
    split_flags,
)
from effchal.cli.compose import CONF_DIR, PACKAGE, compose_config
from effchal.cli.failures import fail, one_line_errors
from effchal.cli.several_models import BASE, BASE_PLAIN
from effchal.config.describe import Key, describe, groups
from effchal.config.words import LIST


@dataclass(frozen=True)
class Command:
    """What --help shows besides the command's docstring."""

    # Groups and top-level keys of the config. "" = it reads no config: its file has a function
    # `parser()`, made by `own_parser`, which knows its arguments and prints its help.
    reads: str
    examples: tuple[str, ...]  # arguments
    words: tuple[str, ...] = ()  # that may follow the command's name


TRAINING = "data model prompt data_mix lora budget train rules"
INFERENCE = "bundle base_model model prompt lora decoding"
COMMANDS = {
    "train": Command(
        f"name resume_from {TRAINING} decoding sweep track",
        (
            "data_mix=lima_platypus lora.r=64",
            "experiment=quickstart train.epochs=4 budget.hours=0.5",
            "outputs/train/<run>   # go on with a run",
        ),
    ),
    "plan": Command(
        f"name {TRAINING} plan",
        (
            "model=mistral_7b lora.r=64 train.micro_batch_size=4",
            "experiment=quickstart plan.probe=true",
            "budget=a100_24h train.micro_batch_size=auto",
        ),
    ),
    "data": Command(
        f"name {TRAINING} show",
        (
            "data=my.jsonl",
            "show data=my.jsonl show.count=5",
            "diff outputs/data/<run> outputs/train/<run>",
        ),
        DATA_WORDS,
    ),
    "check": Command(
        "name model data_mix budget rules",
        (
            "experiment=reference_2023",
            "rules=neurips_2023 data_mix=lima_platypus",
            "rules=neurips_2023 budget.hours=30",
        ),
    ),
    "package": Command(
        "name model prompt lora decoding",
        (
            "model=smollm2_135m prompt=plain lora=none",
            "model=mistral_7b prompt=plain lora=none decoding=dola_high",
            "model.name=<folder> prompt=chatml lora=none",
        ),
    ),
    "serve": Command(
        f"{INFERENCE} serve",
        (
            "outputs/train/<run> serve.port=8080",
            "outputs/train/<run>/bundle decoding=dola_high",
            "model=smollm2_135m prompt=plain lora=none",
        ),
    ),
    "evaluate": Command(
        f"name resume_from {INFERENCE} scenario sweep evaluate track",
        (
            "outputs/train/<run> decoding=dola_high 'scenario.entries=[truthful_qa_mc]'",
            "model=smollm2_135m prompt=plain lora=none scenario=smoke",
            "base outputs/train/<run>   # base model against tuned model, compared at the end",
        ),
        (BASE, BASE_PLAIN),
    ),
    "fetch": Command(
        "scenario",
        (
            "scenarios scenario=challenge_open scenario.path=<folder>",
            "scenario=challenge_hidden   # into the cache",
            "'scenario.entries=[gsm,truthful_qa_mc]' scenario.path=<folder>",
        ),
        FETCH_WORDS,
    ),
    "compare": Command(
        "",
        (
            "outputs/train/<run> outputs/train/<run>   # their newest evaluations",
            "outputs/evaluate/<run> outputs/evaluate/<run> --markdown",
            "outputs/evaluate/<run> --decodings greedy 'dola high'",
        ),
    ),
    "helm": Command(
        f"name resume_from {INFERENCE} scenario serve helm",
        (
            "outputs/train/<run> scenario.path=<data>",
            "model=smollm2_135m prompt=plain lora=none scenario=smoke",
            "outputs/helm/<run>   # go on with a run",
        ),
    ),
    "lm_eval": Command(
        f"name resume_from {INFERENCE} lm_eval sweep evaluate track",
        (
            "outputs/train/<run> 'tasks=[hellaswag,arc_challenge,gsm8k,ifeval]'",
            "outputs/train/<run> 'tasks=[truthfulqa_mc1]' limit=100 decoding=dola_high",
            "outputs/lm_eval/<run>   # go on with a run",
        ),
    ),
    "export": Command(
        "name bundle base_model export",
        (
            "outputs/train/<run> to=merged",
            "outputs/train/<run> to=gguf gguf_type=q8_0 folder=<folder>",
            "outputs/train/<run> to=adapter push_to_hub=me/my-model",
        ),
    ),
    "conformance": Command(
        "name conformance",
        (
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8080 'only=process_*,decode_*' timeout_s=60",
            "list   # the rules that are checked, by name",
        ),
        (LIST,),
    ),
    "submit": Command(
        f"name bundle base_model {TRAINING} decoding scenario sweep evaluate track submit",
        (
            "outputs/train/<run> scenario=challenge scenario.path=<folder>",
            "experiment=lima_platypus scenario=challenge_open rules=neurips_2023",
            "outputs/train/<run> decoding=dola_high scenario.data=[questions.jsonl]",
        ),
    ),
    "reproduce": Command(
        "name base_model budget reproduce",
        (
            "outputs/submit/<run>/submission",
            "<folder> base_model=<folder> scenario.path=<folder>",
            "<folder> retrain=false",
        ),
    ),
    "report": Command(
        "",
        (
            "",
            "outputs/train/<sweep> outputs/evaluate --csv runs.csv",
            "outputs --watch --port 8090",
            "outputs/evaluate --challenge --track a100",
        ),
    ),
}


class OwnParser(argparse.ArgumentParser):
    """Arguments of a command that reads no config. Errors are one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        self.exit(fail(f"{message}; {self.prog} --help shows its arguments"))


def own_parser(command: str) -> OwnParser:
    """A parser that knows no argument yet; its help has the command's docstring and examples."""
    examples = "\n".join(f"  effchal {command} {each}" for each in COMMANDS[command].examples)
    return OwnParser(
        f"effchal {command}",
        description=docstring(command),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def docstring(command: str) -> str:
    """The command's docstring, without importing it."""
    tree = ast.parse((PACKAGE / f"{command}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""


def list_commands() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{docstring(name).splitlines()[0]}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: effchal <command> [folder] [group=file] [key=value] [flags of Hydra]\n",
            *lines,
            "\neffchal <command> --help shows what a command reads.",
            'Completion in a shell: eval "$(effchal --completion bash)"; also zsh and fish.',
        ]
    )


def choices_of_groups() -> dict[str, list[str]]:
    """The folders under conf/, each with the names of its files."""
    folders = sorted(path for path in CONF_DIR.iterdir() if path.is_dir())
    return {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in folders}


def print_help(command: str, typed: list[str]) -> None:
    """The command's purpose, examples and keys, with the values that the typed overrides give."""
    with one_line_errors():
        words = split_flags(hydra_arguments(command, typed))[1]
        cfg = compose_config([word for word in words if is_plain(word)])
    files, about, reads = choices_of_groups(), groups(), COMMANDS[command].reads.split()
    keys = describe(cfg)
    lines = [docstring(command), "\nExamples:"]
    lines += [f"  effchal {command} {each}" for each in COMMANDS[command].examples]
    lines.append("\nGroups take a file of conf/ (group=file); keys show their value (key=value).")
    lines += ["\nexperiment: a named set of changes", f"  {choice_of('experiment', files)}"]
    for name in reads:
        if name in about:
            lines.append(f"\n{name}: {about[name]}")
        if name in files:
            lines.append(f"  {choice_of(name, files)}")
        lines += [help_of_key(key) for key in keys if name in (key.group, key.name)]
    lines.append("\nFlags of Hydra, e.g. --cfg job (print the config) or --multirun (a sweep):")
    lines.append(f"  effchal {command} --hydra-help")
    print("\n".join(lines))


def is_plain(word: str) -> bool:
    """Whether an override sets one value of the config: no sweep, and no key of Hydra's own."""
    return not word.startswith("hydra.") and not parse_override(word).is_sweep_override()


def choice_of(group: str, files: dict[str, list[str]]) -> str:
    return f"{group}=<{' | '.join(files[group])}>"


def help_of_key(key: Key) -> str:
    """One key: `key=value` with type and unit, and its meaning below."""
    kind = " | ".join(key.choices) + (" | null" if key.type == "choice or null" else "")
    unit = f", {key.unit}" if key.unit else ""
    width = max(72, min(100, shutil.get_terminal_size().columns))
    head = f"  {key.name}={key.default}  ({kind or key.type}{unit})"
    lines = textwrap.wrap(head, width, subsequent_indent=" " * 4, break_on_hyphens=False)
    indent = " " * 6
    lines += textwrap.wrap(key.meaning, width, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)
