"""What a scenario consists of: instances with prompts, and what scoring needs to know of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from effchal.config import ConfigError
from effchal.prompts.encoder import Turn

HELM_FOLDER = (  # what to do where data are missing
    "give scenario.path=<folder in HELM's layout>; effchal fetch and HELM (as "
    "<its --output-path>/scenarios) make one where there is a network"
)


class ScenarioError(ConfigError):
    """An entry or data that cannot be evaluated. Messages name file, line, field, value, remedy."""


class MissingDataError(ScenarioError):
    """Data of an entry are not there. An evaluation may go on without the entry."""

    def __init__(self, entry: str, what: str, remedy: str) -> None:
        super().__init__(f"{entry}: {what}: {remedy}")
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class Reference:
    text: str
    correct: bool


@dataclass(frozen=True)
class BiasTags:
    """What BBQ's bias scores need of one question. A letter is "" if no answer is of its kind."""

    negative: bool  # the question asks for something bad: "who stole it?"
    ambiguous: bool  # the passage does not say; the correct answer is then the unknown one
    correct: str  # option letter of the correct answer
    target: str  # of the stereotyped group
    non_target: str  # of another group
    unknown: str  # of "can't be determined"


@dataclass(frozen=True)
class Instance:
    """One question. Its `choices` are scored by log-likelihood; without them, it generates."""

    id: str  # HELM's instance id ("id12") where HELM has the entry
    prompt: str  # the text that HELM would send
    references: tuple[Reference, ...]
    choices: tuple[str, ...] = ()  # one for each reference, its leading space included
    best_choice: int | None = None  # index of the correct choice that MC1 goes by
    letters: tuple[str, ...] = ()  # multiple choice by option letter: one for each reference
    split: str = "test"  # HELM's: "test" or "valid"
    tags: BiasTags | None = None  # BBQ only
    own: "OwnQuestion | None" = None  # questions of a user's own file only
    perturbation: str = ""  # HELM's name of how the question was changed; "": it was not

    @property
    def key(self) -> str:
        """Unique within the scenario: a changed question has the id of the original one."""
        return f"{self.id} {self.perturbation}".strip()

    @property
    def correct_choices(self) -> tuple[bool, ...]:
        return tuple(reference.correct for reference in self.references)

    @property
    def asked_references(self) -> list[Reference]:
        """The references; choices as they are scored, a leading space included."""
        texts = self.choices or [reference.text for reference in self.references]
        return [Reference(*each) for each in zip(texts, self.correct_choices, strict=True)]


@dataclass(frozen=True)
class Settings:
    """How a scenario's completions are generated, and which metrics score its answers."""

    max_new_tokens: int
    main_metric: str
    other_metrics: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    temperature: float = 0.0


@dataclass(frozen=True)
class OwnQuestion:
    """What a question of a user's own file brings along."""

    settings: Settings  # its own limits
    # Scores of an answer: of its text, or of the log-probabilities of the choices.
    grade: Callable[[Any], dict[str, float]]
    grading: str  # digest of all that `grade` depends on beside the answer
    turns: tuple[Turn, ...] = ()  # a conversation, in place of the prompt's text

    @property
    def asked(self) -> tuple[Any, ...]:
        """What the answer depends on, beside prompt and choices."""
        limits = (self.settings.max_new_tokens, self.settings.stops, self.settings.temperature)
        return (limits, tuple((turn.role, turn.content) for turn in self.turns))


# For instances with choices: nothing is generated.
CHOICE_SETTINGS = Settings(0, "mc1", other_metrics=("mc2", "mc3"))


# Of a run's completions, scores by name that are no mean over its instances.
RunMetric = Callable[[list[str]], dict[str, float]]


@dataclass(frozen=True)
class Scenario:
    entry: str  # as typed in scenario.entries, expanded (run_arguments)
    instances: tuple[Instance, ...]
    settings: Settings
    run_metric: RunMetric | None = None
    not_measured: dict[str, str] = field(default_factory=dict)  # metrics of HELM's, and why not

    @property
    def mixes_kinds(self) -> bool:
        """Whether some instances are scored by log-likelihood, and others are answered."""
        return len({bool(instance.choices) for instance in self.instances}) > 1


class TextWindow(Protocol):
    """The model's tokenizer, as HELM's window service uses it to fit prompts to the model.

    HELM calls the number of tokens that a model takes its window. Its window service counts
    tokens through /tokenize, and cuts a prompt that is too long through /decode.
    """

    def encode(self, text: str) -> list[int]: ...  # no beginning-of-sequence token

    def decode(self, ids: list[int]) -> str: ...
