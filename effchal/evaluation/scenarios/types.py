"""What a scenario is made of: instances with their prompts, and what scores an answer needs to know."""

from dataclasses import dataclass
from typing import Protocol

from effchal.config import ConfigError


class ScenarioError(ConfigError):
    """An entry or its data that cannot be evaluated. The message names file, line, field, value and remedy."""


@dataclass(frozen=True)
class Reference:
    text: str
    correct: bool


@dataclass(frozen=True)
class BiasTags:
    """What BBQ's bias scores need to know of one question; a letter is "" where no answer is of that kind."""

    negative: bool  # the question asks for something bad: "who stole it?"
    ambiguous: bool  # the passage does not say; the correct answer is then the unknown one
    correct: str  # the four letters: of the correct answer,
    target: str  # of the stereotyped group,
    non_target: str  # of another group,
    unknown: str  # of "can't be determined"


@dataclass(frozen=True)
class Instance:
    """One question. With `choices` they are scored by log-likelihood, else a completion is generated."""

    id: str  # HELM's instance id ("id12") where HELM has the entry; unique within the scenario
    prompt: str  # the text that HELM would send
    references: tuple[Reference, ...]
    choices: tuple[str, ...] = ()  # continuations of the prompt, their leading space included
    correct_choices: tuple[bool, ...] = ()  # beside choices
    best_choice: int | None = None  # the correct choice that MC1 goes by
    letters: tuple[str, ...] = ()  # multiple choice by letter: letters[i] stands for references[i]
    split: str = "test"  # HELM's: "test" or "valid"
    tags: BiasTags | None = None  # BBQ only


@dataclass(frozen=True)
class Scenario:
    entry: str  # as typed in scenario.entries
    instances: tuple[Instance, ...]
    max_new_tokens: int
    stops: tuple[str, ...]
    temperature: float
    main_metric: str
    other_metrics: tuple[str, ...] = ()  # computed beside main_metric


class TextWindow(Protocol):
    """The model's tokenizer as HELM's window service sees it, through /tokenize and /decode."""

    def encode(self, text: str) -> list[int]: ...  # no beginning-of-sequence token

    def decode(self, ids: list[int]) -> str: ...
