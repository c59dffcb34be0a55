"""From a question of a user's file to an instance: what is asked, and how answers are scored."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from effchal.config.choices import Match
from effchal.evaluation.questions.choices import LETTERS
from effchal.evaluation.questions.fields import Question
from effchal.evaluation.questions.grader import MAIN, Grader
from effchal.evaluation.questions.matches import comparison, letter_of
from effchal.evaluation.scenarios.metrics import score_choices
from effchal.evaluation.scenarios.types import (
    Instance,
    OwnQuestion,
    Reference,
    ScenarioError,
    Settings,
)
from effchal.prompts.encoder import Turn

Scores = Callable[[Any], dict[str, float]]


@dataclass(frozen=True)
class Grading:
    """How answers are graded where their row does not say."""

    match: Match | None  # None: number for numbers, else exact
    grader: Grader | None

    def of(self, question: Question) -> Match | Grader | None:
        """Of one question; None for one with choices."""
        if question.choices:
            return None
        if question.match is not None:
            return question.match
        if self.grader is not None:
            return self.grader
        return self.match or (Match.number if question.answer_is_number else Match.exact)


def instance_of(question: Question, id_: str, grading: Grading, has_groups: bool) -> Instance:
    """The instance that a question becomes.

    Args:
        has_groups: whether its group gets a score of its own.

    Raises:
        ScenarioError: a right answer that its `match` cannot use.
    """
    how = grading.of(question)
    bare = asked(question, id_)
    group = question.group if has_groups else None
    scores = partial(with_main, scores_of(question, bare, how), group)
    settings = Settings(question.max_new_tokens, MAIN, (), question.stops, question.temperature)
    own = OwnQuestion(settings, scores, digest(question, how, has_groups), turns_of(question))
    return replace(bare, own=own)


def asked(question: Question, id_: str) -> Instance:
    """The instance without its scores."""
    turns = turns_of(question)
    prompt = with_options(question, question.prompt)
    if turns:  # for readers
        prompt = "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    if not question.choices:
        references = tuple(Reference(answer, True) for answer in question.answers)
        return Instance(id_, prompt, references)
    between = " " if lacks_space(question) else ""
    texts = tuple(between + choice for choice in question.choices)
    references = tuple(Reference(text, i in question.correct) for i, text in enumerate(texts))
    if question.kind == "letters":
        return Instance(id_, prompt, references, letters=tuple(LETTERS[: len(texts)]))
    return Instance(id_, prompt, references, choices=texts, best_choice=question.correct[0])


def turns_of(question: Question) -> tuple[Turn, ...]:
    if not question.turns:
        return ()
    *before, last = question.turns
    return (*before, replace(last, content=with_options(question, last.content)))


def with_options(question: Question, text: str) -> str:
    """The text with the options below it, where the answer is to be a letter."""
    if question.kind != "letters":
        return text
    options = zip(LETTERS, question.choices, strict=False)
    return "\n".join([text, *(f"{letter}. {choice}" for letter, choice in options), "Answer:"])


def lacks_space(question: Question) -> bool:
    """Whether prompt and choices would run together into one word."""
    return (
        question.kind == "choices"
        and not question.turns
        and not question.prompt[-1:].isspace()
        and not any(choice[:1].isspace() for choice in question.choices)
    )


def scores_of(question: Question, bare: Instance, how: Match | Grader | None) -> Scores:
    if question.kind == "letters":
        right = [bare.letters[i] for i in question.correct]
        return lambda text: {"letter": float(letter_of(text, bare.letters) in right)}
    if question.choices:
        return partial(score_choices, bare)
    if isinstance(how, Grader):
        turns = [{"role": turn.role, "content": turn.content} for turn in question.turns]
        return partial(how.grade, question.row.place, turns or question.prompt, question.row.fields)
    assert how is not None
    try:
        return comparison(how, question.answers)
    except ValueError as error:
        raise ScenarioError(f"{question.row.place}: match {how.value} with {error}") from error


def with_main(scores: Scores, group: str | None, answer: Any) -> dict[str, float]:
    """Scores by name: the main one first, and that of the question's group last."""
    found = scores(answer)
    main = found.get(MAIN, next(iter(found.values())))
    return {MAIN: main} | found | ({} if group is None else {f"{MAIN} ({group})": main})


def digest(question: Question, how: Match | Grader | None, has_groups: bool) -> str:
    way = how.value if isinstance(how, Match) else how and (how.name, how.sha256)
    whole = json.dumps([question.row.fields, way, has_groups], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]
