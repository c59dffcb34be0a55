"""MATH (Hendrycks et al., arXiv:2103.03874) with chain of thought, as HELM asks it."""

import functools
from pathlib import Path

import numpy

from effchal.evaluation.scenarios.helm_adapter import Item, PromptFormat, Task
from effchal.evaluation.scenarios.types import Reference, ScenarioError, Settings
from effchal.mixing.rows import DataRow, read_jsonl

SPLITS = ("train", "test")
SUBJECTS = {
    "number_theory": "Number Theory",
    "intermediate_algebra": "Intermediate Algebra",
    "algebra": "Algebra",
    "prealgebra": "Prealgebra",
    "geometry": "Geometry",
    "counting_and_probability": "Counting & Probability",
    "precalculus": "Precalculus",
}
LEVELS = ("1", "2", "3", "4", "5")
_INSTRUCTIONS = (
    "Given a mathematics problem, determine the answer. Simplify your answer as much as possible.\n"
)


def check_math(entry: str, subject: str, level: str) -> None:
    """Raises ScenarioError if there is no such subject or level."""
    for argument, value, known in (("subject", subject, SUBJECTS), ("level", level, LEVELS)):
        if value not in known:
            raise ScenarioError(
                f"{entry}: {argument} must be one of {', '.join(known)}, got {value!r}"
            )


def math_task(subject: str, level: str, path: Path) -> Task:
    """The problems of one subject and level. The answer is the whole solution.

    HELM orders all problems of a split by their text, and then shuffles them; so the files have
    to be whole.
    """
    items = []
    for split in SPLITS:
        file = path / "MATH" / f"{split}.jsonl"
        for row in _in_order(file, file.stat().st_mtime_ns):
            if row.text("type") == SUBJECTS[subject] and row.text("level") == f"Level {level}":
                answer = Reference(row.text("solution"), True)
                items.append(Item(row.text("problem"), (answer,), split))
    form = PromptFormat(
        "Problem: ",
        "Answer: ",
        option_letters=False,
        instructions=_INSTRUCTIONS,
        max_shots=8,
        separator="###\n",
    )
    return Task(items, form, Settings(400, "math_equiv_chain_of_thought", stops=("###",)))


@functools.lru_cache(maxsize=len(SPLITS))
def _in_order(file: Path, _: int) -> list[DataRow]:
    """All rows; read once for all subjects and levels, unless the file has changed."""
    rows = sorted(read_jsonl(file, ScenarioError), key=lambda row: row.text("problem"))
    order = numpy.random.default_rng(42).permutation(len(rows))  # as datasets shuffles
    return [rows[index] for index in order]
