"""An entry of scenario.entries -> the scenario that it names. Entries are spelt as helm-run takes them."""

import math
from dataclasses import dataclass
from pathlib import Path

import effchal.evaluation.scenarios.hub as hub
from effchal.evaluation.scenarios.bbq import bbq_task, subjects_of
from effchal.evaluation.scenarios.generation import big_bench_task, cnndm_task, gsm_task
from effchal.evaluation.scenarios.helm_adapter import Task, build_scenario
from effchal.evaluation.scenarios.jsonl import jsonl_scenario
from effchal.evaluation.scenarios.metrics import import_rouge
from effchal.evaluation.scenarios.multiple_choice import mmlu_task, truthful_qa_task
from effchal.evaluation.scenarios.truthful_qa_mc import truthful_qa_mc_scenario
from effchal.evaluation.scenarios.types import Scenario, ScenarioError, TextWindow


@dataclass(frozen=True)
class Arguments:
    """The arguments of an entry; a tuple of values where only those may be given."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    closed: tuple[tuple[str, str], ...] = ()  # (name, the one value that is supported)


_BY_LETTER = ("method", "multiple_choice_joint")
KNOWN = {
    "mmlu": Arguments(("subject",), ("method",), (_BY_LETTER,)),
    "truthful_qa": Arguments(("task",), ("method",), (_BY_LETTER, ("task", "mc_single"))),
    "bbq": Arguments(("subject",), ("method",), (_BY_LETTER,)),
    "gsm": Arguments(),
    "big_bench": Arguments(("task", "subtask")),
    "summarization_cnndm": Arguments((), ("temperature", "device"), (("device", "cpu"),)),
    "truthful_qa_mc": Arguments(),
    "jsonl": Arguments(("path",)),
}


def load_scenario(
    entry: str, path: Path | None, max_instances: int, window: TextWindow
) -> Scenario:
    """The instances, prompts and settings of one entry.

    For HELM's entries these are what `helm-run --max-eval-instances <max_instances>` sends to a model with
    this tokenizer: valid and test questions drawn together, in-context examples of its first trial,
    prompts fitted to 2,048 tokens.

    Args:
        entry: e.g. "mmlu:subject=anatomy", without `model=`.
        path: folder of data in HELM's own layout (HELM's <output path>/scenarios); None fetches the data
            (hub.fetched) and reads them from hub.CACHE.
        max_instances: at least 1.
        window: the tokenizer; only prompts too long for the window depend on it.

    Raises:
        ScenarioError: unknown entry or argument, data missing, unreachable or malformed.
    """
    name, args = parse_entry(entry)
    _check_values(entry, name, args)  # before anything is fetched
    if name == "jsonl":
        return jsonl_scenario(entry, Path(args["path"]), max_instances)
    if path is None:
        path = hub.fetched(entry, name, args, hub.CACHE, hub.GITHUB)
    task: Task
    match name:
        case "mmlu":
            task = mmlu_task(entry, args["subject"], path)
        case "truthful_qa":
            task = truthful_qa_task(entry, path)
        case "bbq":
            task = bbq_task(entry, args["subject"], path)
        case "gsm":
            task = gsm_task(entry, path)
        case "big_bench":
            task = big_bench_task(entry, args["task"], args["subtask"], path)
        case "summarization_cnndm":
            task = cnndm_task(entry, _temperature(entry, args.get("temperature", "0.3")), path)
        case "truthful_qa_mc":
            return truthful_qa_mc_scenario(entry, max_instances, path)
    return build_scenario(entry, task, max_instances, window)


def parse_entry(entry: str) -> tuple[str, dict[str, str]]:
    """Name and arguments of "<name>:<argument>=<value>,<argument>=<value>", checked against what is known.

    Raises:
        ScenarioError: it names what is known, or what the entry takes.
    """
    name, colon, rest = entry.partition(":")
    if name not in KNOWN:
        raise ScenarioError(
            f"scenario.entries has {entry!r}: unknown entry {name!r}; known: {', '.join(KNOWN)}"
        )
    known = KNOWN[name]
    spelling = _spelling(name)
    args: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        argument, equals, value = part.partition("=")
        if not equals or argument not in (*known.required, *known.optional):
            raise ScenarioError(
                f"scenario.entries has {entry!r}: unknown argument {part!r}; it takes {spelling}"
            )
        if argument in args:
            raise ScenarioError(
                f"scenario.entries has {entry!r}: {argument} is given twice; it takes {spelling}"
            )
        args[argument] = value
    for argument in known.required:
        if not args.get(argument) and not (
            argument == "subtask" and argument in args
        ):  # HELM's `subtask=` is empty
            raise ScenarioError(
                f"scenario.entries has {entry!r}: no value for {argument}; it takes {spelling}"
            )
    for argument, supported in known.closed:
        if args.get(argument, supported) != supported:
            raise ScenarioError(
                f"scenario.entries has {entry!r}: {argument} can only be {supported} here"
            )
    return name, args


def _check_values(entry: str, name: str, args: dict[str, str]) -> None:
    if name == "bbq":
        subjects_of(entry, args["subject"])
    if name == "summarization_cnndm":
        _temperature(entry, args.get("temperature", "0.3"))
        import_rouge()  # found missing now, not after hours of generation


def _spelling(name: str) -> str:
    known = KNOWN[name]
    values = dict(known.closed)
    required = [
        f"{argument}={values.get(argument, f'<{argument}>')}" for argument in known.required
    ]
    optional = [
        f"[{argument}={values.get(argument, f'<{argument}>')}]" for argument in known.optional
    ]
    return f"{name}:{','.join([*required, *optional])}" if required or optional else f"{name} alone"


def _temperature(entry: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ScenarioError(
            f"scenario.entries has {entry!r}: temperature must be a number of at least 0, got {text!r}"
        )
    return value
