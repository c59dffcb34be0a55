"""From data to prompts as HELM 0.5.16 does it: ids, draw, in-context examples, format, window.

All randomness here is HELM's own: its generators, its seed 0, its order of calls. Any change
of them changes which questions are asked. tests/integration/test_scenarios_helm.py compares
with HELM itself.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy

from effchal.evaluation.scenarios.helm_tables import PerturbationTables
from effchal.evaluation.scenarios.perturbations import perturbed
from effchal.evaluation.scenarios.types import (
    HELM_FOLDER,
    BiasTags,
    Instance,
    MissingDataError,
    Reference,
    RunMetric,
    Scenario,
    Settings,
    TextWindow,
)

WINDOW_TOKENS = 2048  # prompt and completion together, for HELM's model neurips/local
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One question of a data file, before it has a prompt."""

    text: str  # what the prompt asks: a question, with its passage where it has one, or an article
    references: tuple[Reference, ...]  # at least one is correct
    split: str  # "train": for in-context examples alone; "valid" and "test": evaluated
    tags: BiasTags | None = None

    @property
    def answer(self) -> int:
        """Index of the first correct reference."""
        return next(i for i, reference in enumerate(self.references) if reference.correct)


@dataclass(frozen=True)
class PromptFormat:
    """The part of HELM's adapter spec that the prompt depends on."""

    input_prefix: str
    output_prefix: str
    option_letters: bool  # list the references as A., B., ... and answer with a letter
    instructions: str = ""
    input_suffix: str = "\n"
    max_shots: int = 5
    separator: str = "\n"  # between instructions, examples and question


@dataclass(frozen=True)
class Task:
    """A data file with HELM's settings for it, before instances are drawn."""

    items: list[Item]
    format: PromptFormat
    settings: Settings
    run_metric: RunMetric | None = None
    keeps_unchanged: bool = False  # also a question that a perturbation leaves as it is
    not_measured: dict[str, str] = field(default_factory=dict)  # metrics of HELM's, and why not


def build_scenario(
    entry: str,
    task: Task,
    max_instances: int,
    window: TextWindow,
    tables: PerturbationTables | None = None,
) -> Scenario:
    """What `helm-run --max-eval-instances <max_instances>` sends for this entry.

    Args:
        tables: given, each question is followed by its perturbations.

    Raises:
        MissingDataError: there is no question.
    """
    form = task.format
    # HELM numbers all items, those for examples included, before it draws.
    numbered = [(f"id{i}", item) for i, item in enumerate(task.items) if item.split != "train"]
    if not numbered:
        raise MissingDataError(entry, "its data hold no question", HELM_FOLDER)
    train = [item for item in task.items if item.split == "train"]
    shots = [example_text(form, shot, True) for shot in draw_shots(train, form.max_shots)]
    max_prompt_tokens = WINDOW_TOKENS - task.settings.max_new_tokens
    instances = []
    for id_, original in draw_instances(numbered, max_instances):
        for perturbation, item in _versions(id_, original, tables, task.keeps_unchanged):
            question = example_text(form, item, answered=False)
            prompt = fit_prompt(form, shots, question, max_prompt_tokens, window)
            letters = tuple(map(letter, range(len(item.references) if form.option_letters else 0)))
            instances.append(
                Instance(
                    id_,
                    prompt,
                    item.references,
                    letters=letters,
                    split=item.split,
                    tags=item.tags,
                    perturbation=perturbation,
                )
            )
    found = tuple(instances)
    return Scenario(entry, found, task.settings, task.run_metric, task.not_measured)


def _versions(
    id_: str, item: Item, tables: PerturbationTables | None, keeps_unchanged: bool
) -> Iterator[tuple[str, Item]]:
    """The item as it is, and each perturbed one with the perturbation's name."""
    yield "", item
    if tables is not None:
        for name, (text, references) in perturbed(id_, item.text, item.references, tables):
            if text != item.text or keeps_unchanged:
                yield name, replace(item, text=text, references=references)


def draw_instances(evaluated: Sequence[T], max_instances: int) -> list[T]:
    """All in file order, or `max_instances` of them in the random order in which HELM draws them.

    HELM draws valid and test questions together: numpy.random.seed(0), then choice() without
    replacement.
    """
    if len(evaluated) <= max_instances:
        return list(evaluated)
    drawn = numpy.random.RandomState(0).permutation(len(evaluated))[:max_instances]
    return [evaluated[index] for index in drawn]


def draw_shots(train: Sequence[Item], max_shots: int) -> list[Item]:
    """In-context examples, the same for every instance: one for each answer, frequent ones first.

    An answer is the text of the first correct reference, not its letter. With distinct texts
    this is a plain random choice.
    """
    generator = random.Random(0)
    by_answer: dict[str, list[Item]] = defaultdict(list)
    for item in train:
        by_answer[item.references[item.answer].text].append(item)
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
    return chr(ord("A") + index)  # after Z, HELM goes on with what follows in Unicode


def example_text(form: PromptFormat, item: Item, answered: bool) -> str:
    """One block of a prompt: an example with its answer, or the question itself without."""
    text = form.input_prefix + item.text + form.input_suffix
    if form.option_letters:
        text += "".join(f"{letter(i)}. {each.text}\n" for i, each in enumerate(item.references))
    if not answered:
        return text + form.output_prefix.rstrip()
    answer = letter(item.answer) if form.option_letters else item.references[item.answer].text
    return f"{text}{form.output_prefix}{answer}\n"


def fit_prompt(
    form: PromptFormat, shots: Sequence[str], question: str, max_tokens: int, window: TextWindow
) -> str:
    """The prompt with as many examples as fit into `max_tokens`.

    A question that is too long by itself loses its end, "Answer:" included.
    """
    for kept in range(len(shots), -1, -1):
        head = [form.instructions] if form.instructions else []
        text = form.separator.join([*head, *shots[:kept], question])
        ids = window.encode(text)
        if len(ids) <= max_tokens and kept:
            return text
    cut = window.decode(ids[:max_tokens])
    # A character cut in half can come back as more tokens than it had.
    while len(window.encode(cut)) > max_tokens:
        cut = cut[:-1]
    return cut if cut and len(cut) < len(text) else text
