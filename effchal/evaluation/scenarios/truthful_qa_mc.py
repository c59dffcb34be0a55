"""TruthfulQA's MC1, MC2 and MC3 as the published DoLa code asks them (tfqa_mc_eval.py).

All questions of the file are scored, where HELM's truthful_qa:task=mc_single keeps the
first fifth for examples. A question has the same id in both. Every prompt begins with
DoLa's instruction and six question-answer pairs of TruthfulQA's own primer
(truthful_qa_primer.txt; Lin et al., Apache-2.0).
"""

from pathlib import Path

from effchal.evaluation.scenarios.helm_adapter import draw_instances
from effchal.evaluation.scenarios.multiple_choice import truthful_qa_rows
from effchal.evaluation.scenarios.types import (
    CHOICE_SETTINGS,
    Instance,
    Reference,
    Scenario,
    ScenarioError,
)

PRIMER_FILE = Path(__file__).with_name("truthful_qa_primer.txt")


def truthful_qa_mc_scenario(entry: str, max_instances: int, path: Path) -> Scenario:
    """Choices are " <answer>", correct ones first, in file order.

    Some questions list an answer twice.
    """
    primer = PRIMER_FILE.read_text(encoding="utf-8").rstrip("\n")
    instances = []
    for number, row in enumerate(truthful_qa_rows(path)):
        if row.best not in row.correct:
            raise ScenarioError(
                f"{row.place}: the best answer {row.best!r} is not among the correct answers "
                f"{row.correct}"
            )
        answers = [*row.correct, *row.incorrect]
        instances.append(
            Instance(
                f"id{number}",
                f"{primer}\n\nQ: {row.question}\nA:",  # the question unstripped, as published
                tuple(Reference(answer, i < len(row.correct)) for i, answer in enumerate(answers)),
                choices=tuple(f" {answer}" for answer in answers),
                best_choice=row.correct.index(row.best),
            )
        )
    return Scenario(entry, tuple(draw_instances(instances, max_instances)), CHOICE_SETTINGS)
