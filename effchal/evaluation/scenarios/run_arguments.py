"""Arguments that every entry of HELM takes: how many examples and questions, and perturbations.

HELM calls these run expanders, for a value may stand for several runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from effchal.evaluation.scenarios.types import ScenarioError

SHOTS, QUESTIONS, AUGMENTATION = "max_train_instances", "max_eval_instances", "data_augmentation"
RUN_ARGUMENTS = (SHOTS, QUESTIONS, AUGMENTATION)
# Values that stand for several runs, or for another number.
SHOT_COUNTS = {
    "zero": (0,),
    "one": (1,),
    "all": (0, 1, 2, 4, 8, 16),
    "big_bench_few_shot_setting": (0, 1, 2, 3),
    "vhelm": (0, 1, 2, 4, 8),
    "melt": (0, 1, 5),
}
QUESTION_COUNTS = {"default": 1000, "heim_default": 100, "heim_fid": 30_000, "heim_art_styles": 17}


@dataclass(frozen=True)
class RunArguments:
    max_shots: int | None  # None: as the scenario has it
    max_instances: int | None  # None: scenario.max_instances
    perturbs: bool


def expanded(entry: str) -> list[str]:
    """The entry for each number of examples that its max_train_instances stands for."""
    name, colon, rest = entry.partition(":")
    parts = rest.split(",")
    for index, part in enumerate(parts):
        argument, _, value = part.partition("=")
        if argument == SHOTS and value in SHOT_COUNTS:
            return [
                name + colon + ",".join([*parts[:index], f"{SHOTS}={shots}", *parts[index + 1 :]])
                for shots in SHOT_COUNTS[value]
            ]
    return [entry]


def read_run_arguments(entry: str, args: dict[str, str]) -> RunArguments:
    """The values of an expanded entry's arguments.

    Raises:
        ScenarioError: it names the argument and what it takes.
    """
    augmentation = args.get(AUGMENTATION)
    if augmentation not in (None, "canonical"):
        raise ScenarioError(
            f"scenario.entries has {entry!r}: {AUGMENTATION} can only be canonical here"
        )
    return RunArguments(
        _count(entry, args, SHOTS, 0, dict.fromkeys(SHOT_COUNTS)),
        _count(entry, args, QUESTIONS, 1, QUESTION_COUNTS),
        augmentation is not None,
    )


def _count(
    entry: str, args: dict[str, str], argument: str, least: int, named: Mapping[str, int | None]
) -> int | None:
    value = args.get(argument)
    if value is None or value in named:
        return None if value is None else named[value]
    if not (value.isdecimal() and value.isascii() and int(value) >= least):
        raise ScenarioError(
            f"scenario.entries has {entry!r}: {argument} must be a whole number of at least "
            f"{least}, or {', '.join(named)}, got {value!r}"
        )
    return int(value)
