"""TruthfulQA's MC1, MC2 and MC3 as the published DoLa code asks them (tfqa_mc_eval.py).

Every question of the file is scored, where HELM's truthful_qa:task=mc_single keeps the first fifth for
examples; a question has the same id in both. The prompt is the same for all: DoLa's instruction, six
question-answer pairs of TruthfulQA's own primer (truthful_qa_primer.txt; Lin et al., Apache-2.0), the question.
"""

from pathlib import Path

from effchal.evaluation.scenarios.helm_adapter import draw_instances
from effchal.evaluation.scenarios.multiple_choice import truthful_qa_rows
from effchal.evaluation.scenarios.types import Instance, Reference, Scenario, ScenarioError

PRIMER_FILE = Path(__file__).with_name("truthful_qa_primer.txt")


def truthful_qa_mc_scenario(entry: str, max_instances: int, path: Path) -> Scenario:
    """Choices are " <answer>", correct ones first, in file order; some questions list an answer twice."""
    primer = PRIMER_FILE.read_text(encoding="utf-8").rstrip("\n")
    instances = []
    for number, (place, question, best, correct, incorrect) in enumerate(
        truthful_qa_rows(entry, path)
    ):
        if best not in correct:
            raise ScenarioError(
                f"{place}: the best answer {best!r} is not among the correct answers {correct}"
            )
        references = tuple(
            Reference(answer, answer_number < len(correct))
            for answer_number, answer in enumerate([*correct, *incorrect])
        )
        instances.append(
            Instance(
                f"id{number}",
                f"{primer}\n\nQ: {question}\nA:",  # the question unstripped, as published
                references,
                choices=tuple(f" {reference.text}" for reference in references),
                correct_choices=tuple(reference.correct for reference in references),
                best_choice=correct.index(best),
            )
        )
    chosen = tuple(draw_instances(instances, max_instances))
    return Scenario(entry, chosen, 0, (), 0.0, main_metric="mc1", other_metrics=("mc2", "mc3"))
