"""A prompt on its way from a request's thread to the engine's and back."""

import queue
import threading
import time
from dataclasses import dataclass, field

from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Completion, Prefill, Sequence, TokenScore


class QueueFull(Exception):
    """Too many prompts wait already."""


@dataclass(eq=False)
class QueuedPrompt:
    """One prompt with its n sampling settings.

    A request thread creates it, the engine thread runs it, and it carries the results
    back. `completions` and `error` are set before `finished`.
    """

    prompt_ids: list[int]
    variants: list[SamplingParams]
    streams: bool = False
    adapter: str = ""  # as the engine names it; empty: the model as it was loaded
    cancelled: bool = False
    alone: bool = False  # read it in passes of its own: together with other rows it failed
    error: Exception | None = None
    completions: list[Completion] = field(default_factory=list)  # one for each variant
    finished: threading.Event = field(default_factory=threading.Event)
    # For streams: (variant, tokens that no stop can cut any more), and None at the end.
    updates: "queue.SimpleQueue[tuple[int, list[TokenScore]] | None]" = field(
        default_factory=queue.SimpleQueue
    )
    submitted: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.streamed = [0] * self.rows  # tokens sent so far, by variant

    @property
    def rows(self) -> int:
        return len(self.variants)

    @property
    def max_tokens(self) -> int:
        """The longest that one of its rows may become, prompt included."""
        return len(self.prompt_ids) + max(params.max_new_tokens for params in self.variants)

    def stream_echoes(self, sequences: list[Sequence]) -> None:
        for i, sequence in enumerate(sequences):
            if self.streams and sequence.echo:
                self.updates.put((i, sequence.echo.tokens))

    def stream(self, sequences: list[Sequence]) -> None:
        """Send the tokens that are stable since the last time."""
        for i, sequence in enumerate(sequences if self.streams else ()):
            stable = sequence.stable_tokens()
            if stable > self.streamed[i]:
                self.updates.put((i, sequence.tokens[self.streamed[i] : stable]))
                self.streamed[i] = stable


@dataclass(frozen=True, eq=False)
class Prefilling:
    """A prompt that is being prefilled."""

    prompt: QueuedPrompt
    prefill: Prefill
