"""From an entry of scenario.entries, spelt as helm-run takes it, to the scenario that it names."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import effchal.evaluation.scenarios.hub as hub
from effchal.evaluation.scenarios.bbq import bbq_task, subjects_of
from effchal.evaluation.scenarios.generation import big_bench_task, gsm_task
from effchal.evaluation.scenarios.helm_adapter import Task, build_scenario
from effchal.evaluation.scenarios.helm_tables import perturbation_tables
from effchal.evaluation.scenarios.hidden_choices import DATASETS, hidden_choice_task
from effchal.evaluation.scenarios.jsonl import jsonl_scenario
from effchal.evaluation.scenarios.math_problems import check_math, math_task
from effchal.evaluation.scenarios.metrics import import_rouge
from effchal.evaluation.scenarios.multiple_choice import mmlu_task, truthful_qa_task
from effchal.evaluation.scenarios.needs import check_data
from effchal.evaluation.scenarios.run_arguments import (
    AUGMENTATION,
    QUESTIONS,
    RUN_ARGUMENTS,
    SHOTS,
    read_run_arguments,
)
from effchal.evaluation.scenarios.summaries import cnndm_task, sam_sum_task
from effchal.evaluation.scenarios.truthful_qa_mc import truthful_qa_mc_scenario
from effchal.evaluation.scenarios.types import Scenario, ScenarioError, TextWindow


@dataclass(frozen=True)
class Arguments:
    """The arguments that an entry takes."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    only: dict[str, str] = field(default_factory=dict)  # the one value that is supported


_METHOD = {"method": "multiple_choice_joint"}
_SPELT = (f"{SHOTS}=<number>", f"{QUESTIONS}=<number>", f"{AUGMENTATION}=canonical")
_NOT_OF_HELM = ("truthful_qa_mc", "jsonl")  # these take no RUN_ARGUMENTS
KNOWN = {
    "mmlu": Arguments(("subject",), ("method",), _METHOD),
    "truthful_qa": Arguments(("task",), ("method",), {**_METHOD, "task": "mc_single"}),
    "bbq": Arguments(("subject",), ("method",), _METHOD),
    "gsm": Arguments(),
    "big_bench": Arguments(("task", "subtask")),
    "summarization_cnndm": Arguments((), ("temperature", "device"), {"device": "cpu"}),
    "sam_sum": Arguments(),
    "math": Arguments(
        ("subject", "level", "use_chain_of_thought"), (), {"use_chain_of_thought": "True"}
    ),
    **{name: Arguments((), ("method",), _METHOD) for name in DATASETS},
    "truthful_qa_mc": Arguments(),
    "jsonl": Arguments(("path",)),
}


def load_scenario(
    entry: str, path: Path | None, max_instances: int, window: TextWindow
) -> Scenario:
    """The instances, prompts and settings of one entry.

    For HELM's entries these are what `helm-run --max-eval-instances <max_instances>` sends to a
    model with this tokenizer: valid and test questions drawn together, in-context examples of
    its first trial, prompts fitted to 2,048 tokens.

    Args:
        entry: e.g. "mmlu:subject=anatomy", without `model=`; expanded (run_arguments).
        path: folder of data in HELM's own layout (HELM's <output path>/scenarios). None
            fetches the data into hub.CACHE and reads them from there.
        max_instances: at least 1; the entry's own max_eval_instances wins.
        window: the tokenizer; only prompts that are too long depend on it.

    Raises:
        ScenarioError: unknown entry or argument, data missing, unreachable or malformed.
    """
    name, args = parse_entry(entry)
    _check_values(entry, name, args)  # before anything is fetched
    if name == "jsonl":
        return jsonl_scenario(entry, Path(args["path"]), max_instances)
    if path is None:
        path = hub.CACHE
        for download in hub.downloads(entry, name, args, path):
            download.keep()
    check_data(entry, name, args, path)
    if name == "truthful_qa_mc":
        return truthful_qa_mc_scenario(entry, max_instances, path)
    task = _task(entry, name, args, path)
    run = read_run_arguments(entry, args)
    if run.max_shots is not None:
        task = replace(task, format=replace(task.format, max_shots=run.max_shots))
    tables = perturbation_tables(path, entry) if run.perturbs else None
    return build_scenario(entry, task, run.max_instances or max_instances, window, tables)


def _task(entry: str, name: str, args: dict[str, str], path: Path) -> Task:
    match name:
        case "mmlu":
            return mmlu_task(args["subject"], path)
        case "truthful_qa":
            return truthful_qa_task(path)
        case "bbq":
            return bbq_task(entry, args["subject"], path)
        case "gsm":
            return gsm_task(path)
        case "big_bench":
            return big_bench_task(entry, args["task"], args["subtask"], path)
        case "summarization_cnndm":
            return cnndm_task(_temperature(entry, args), path)
        case "sam_sum":
            return sam_sum_task(entry, path)
        case "math":
            return math_task(args["subject"], args["level"], path)
    return hidden_choice_task(name, path)


def parse_entry(entry: str) -> tuple[str, dict[str, str]]:
    """Name and checked arguments of "<name>:<argument>=<value>,<argument>=<value>".

    Raises:
        ScenarioError: it names the known entries, or what this one takes.
    """
    where = f"scenario.entries has {entry!r}"
    name, _, rest = entry.partition(":")
    if name not in KNOWN:
        raise ScenarioError(f"{where}: unknown entry {name!r}; known: {', '.join(KNOWN)}")
    known = KNOWN[name]
    takes = f"it takes {_spelling(name)}"
    args: dict[str, str] = {}
    allowed = (*known.required, *known.optional, *_run_arguments(name))
    for part in rest.split(",") if rest else ():
        argument, equals, value = part.partition("=")
        if not equals or argument not in allowed:
            raise ScenarioError(f"{where}: unknown argument {part!r}; {takes}")
        if argument in args:
            raise ScenarioError(f"{where}: {argument} is given twice; {takes}")
        args[argument] = value
    for argument in known.required:
        empty_is_fine = argument == "subtask"  # HELM spells `subtask=` for a task without any
        if argument not in args or not (args[argument] or empty_is_fine):
            raise ScenarioError(f"{where}: no value for {argument}; {takes}")
    for argument, supported in known.only.items():
        if args.get(argument, supported) != supported:
            raise ScenarioError(f"{where}: {argument} can only be {supported} here")
    return name, args


def _run_arguments(name: str) -> tuple[str, ...]:
    return () if name in _NOT_OF_HELM else RUN_ARGUMENTS


def _check_values(entry: str, name: str, args: dict[str, str]) -> None:
    read_run_arguments(entry, args)
    if name == "bbq":
        subjects_of(entry, args["subject"])
    if name == "math":
        check_math(entry, args["subject"], args["level"])
    if name == "summarization_cnndm":
        _temperature(entry, args)
    if name in ("summarization_cnndm", "sam_sum"):
        import_rouge()  # found missing now, not after hours of generation


def _spelling(name: str) -> str:
    known = KNOWN[name]
    value = {key: known.only.get(key, f"<{key}>") for key in (*known.required, *known.optional)}
    required = [f"{argument}={value[argument]}" for argument in known.required]
    optional = [f"[{argument}={value[argument]}]" for argument in known.optional]
    spelt = f"{name}:{','.join([*required, *optional])}" if value else f"{name} alone"
    return f"{spelt}, and {', '.join(_SPELT)}" if _run_arguments(name) else spelt


def _temperature(entry: str, args: dict[str, str]) -> float:
    text = args.get("temperature", "0.3")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ScenarioError(
            f"scenario.entries has {entry!r}: temperature must be a number of at least 0, "
            f"got {text!r}"
        )
    return value
