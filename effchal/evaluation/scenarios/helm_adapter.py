"""From data to prompts the way HELM 0.5.16 does it: ids, choice of instances, in-context examples, format, window.

Everything random here is HELM's own: its generators, its seed 0, its order of calls. A change of any of
them changes which questions are asked; tests/test_scenarios_helm.py compares with HELM itself.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy

from effchal.evaluation.scenarios.types import BiasTags, Instance, Reference, Scenario, TextWindow

WINDOW_TOKENS = 2048  # prompt and completion together, for HELM's model neurips/local
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One question of a data file, before it has a prompt."""

    text: str  # what the prompt asks: a question, with its passage where it has one, or an article
    references: tuple[Reference, ...]  # at least one is correct
    split: str  # "train": for in-context examples alone; "valid" and "test": evaluated
    tags: BiasTags | None = None


@dataclass(frozen=True)
class PromptFormat:
    """What HELM calls an adapter spec, as far as the prompt depends on it."""

    input_prefix: str
    output_prefix: str
    by_letter: bool  # list the references as A., B., ... and answer with a letter
    instructions: str = ""
    input_suffix: str = "\n"
    max_shots: int = 5


@dataclass(frozen=True)
class Task:
    """What a data file and HELM's settings for it say, before instances are chosen."""

    items: list[Item]
    format: PromptFormat
    max_new_tokens: int
    main_metric: str
    other_metrics: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    temperature: float = 0.0


def build_scenario(entry: str, task: Task, max_instances: int, window: TextWindow) -> Scenario:
    """The instances and prompts that `helm-run --max-eval-instances <max_instances>` sends for this entry."""
    # HELM numbers all items, those for examples included, before it chooses.
    numbered = [(f"id{number}", item) for number, item in enumerate(task.items)]
    evaluated = draw_instances(
        [(id_, item) for id_, item in numbered if item.split != "train"], max_instances
    )
    train = [item for item in task.items if item.split == "train"]
    blocks = [
        example_text(task.format, shot, answered=True)
        for shot in draw_shots(train, task.format.max_shots)
    ]
    instances = []
    for id_, item in evaluated:
        question = example_text(task.format, item, answered=False)
        prompt = fit_prompt(task.format.instructions, blocks, question, task.max_new_tokens, window)
        letters = (
            tuple(letter(index) for index in range(len(item.references)))
            if task.format.by_letter
            else ()
        )
        instances.append(
            Instance(
                id_, prompt, item.references, letters=letters, split=item.split, tags=item.tags
            )
        )
    return Scenario(
        entry,
        tuple(instances),
        task.max_new_tokens,
        task.stops,
        task.temperature,
        task.main_metric,
        task.other_metrics,
    )


def draw_instances(evaluated: Sequence[T], max_instances: int) -> list[T]:
    """All in file order, or `max_instances` of them in the random order in which HELM draws them."""
    if len(evaluated) <= max_instances:
        return list(evaluated)
    # HELM: numpy.random.seed(0), then choice() without replacement. Valid and test are drawn from one pot.
    drawn = numpy.random.RandomState(0).permutation(len(evaluated))[:max_instances]
    return [evaluated[index] for index in drawn]


def draw_shots(train: Sequence[Item], max_shots: int) -> list[Item]:
    """In-context examples, the same for every instance: one for each answer in turn, frequent answers first.

    An answer is the text of the first correct reference, not its letter, so that with distinct texts this
    is a plain random choice.
    """
    generator = random.Random(0)
    by_answer: dict[str, list[Item]] = defaultdict(list)
    for item in train:
        by_answer[
            next(reference.text for reference in item.references if reference.correct)
        ].append(item)
    answers_by_count: dict[int, list[str]] = defaultdict(list)
    for answer in sorted(by_answer):
        answers_by_count[len(by_answer[answer])].append(answer)
    answers: list[str] = []
    for count in sorted(answers_by_count, reverse=True):
        generator.shuffle(answers_by_count[count])
        answers += answers_by_count[count]
    shots: list[Item] = []
    wanted = min(max_shots, len(train))
    for answer in itertools.cycle(answers):
        if len(shots) == wanted:
            break
        left = by_answer[answer]
        if left:
            shots.append(left.pop(generator.randrange(len(left))))
    return shots


def letter(index: int) -> str:
    return chr(ord("A") + index)  # HELM goes on after Z with what follows in Unicode


def example_text(form: PromptFormat, item: Item, answered: bool) -> str:
    """One block of a prompt; the last block, the question itself, has no answer."""
    text = form.input_prefix + item.text + form.input_suffix
    if form.by_letter:
        text += "".join(
            f"{letter(index)}. {reference.text}\n"
            for index, reference in enumerate(item.references)
        )
    if not answered:
        return text + form.output_prefix.rstrip()
    first_correct = next(
        index for index, reference in enumerate(item.references) if reference.correct
    )
    answer = letter(first_correct) if form.by_letter else item.references[first_correct].text
    return f"{text}{form.output_prefix}{answer}\n"


def fit_prompt(
    instructions: str, shots: Sequence[str], question: str, max_new_tokens: int, window: TextWindow
) -> str:
    """The prompt with as many examples as fit; a question too long by itself loses its end, "Answer:" included."""
    room = WINDOW_TOKENS - max_new_tokens
    for kept in range(len(shots), 0, -1):
        text = _join(instructions, shots[:kept], question)
        if len(window.encode(text)) <= room:
            return text
    text = _join(instructions, [], question)
    cut = window.decode(window.encode(text)[:room])
    while (
        len(window.encode(cut)) > room
    ):  # a character cut in half can come back as more tokens than it had
        cut = cut[:-1]
    return cut if cut and len(cut) < len(text) else text


def _join(instructions: str, shots: Sequence[str], question: str) -> str:
    return "\n".join([*([instructions] if instructions else []), *shots, question])
