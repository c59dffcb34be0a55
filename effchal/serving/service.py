"""What the routes share: the loaded model, the limits of a request, and the wait for answers."""

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effchal.chat_template import TemplateError
from effchal.config import Config, ConfigError
from effchal.config.choices import DecodingMethod
from effchal.config.decoding import DecodingConfig, change_decoding
from effchal.model.vocabulary import first_unknown
from effchal.prompts import PromptEncoder, Turn
from effchal.serving.helm_types import SamplingRequest
from effchal.serving.metrics import Metrics

if TYPE_CHECKING:  # torch comes with them, and the master process must stay small to fork cleanly
    from effchal.decoding.engine import Engine
    from effchal.decoding.sampling import SamplingParams
    from effchal.decoding.sequence import Completion, TokenScore
    from effchal.serving.queued import QueuedPrompt
    from effchal.serving.scheduler import Scheduler

POLL_S = 0.25  # how often to look whether the client still listens
RETRY_AFTER_S = 10
LONGEST_TEXT = 1_000_000  # characters that /tokenize takes


class RequestError(Exception):
    """A request that is refused: HTTP status, message, and the field to change."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field


class ClientGone(Exception):
    """The client closed its connection; nobody will read the answer."""


@dataclass(frozen=True)
class LoadedModel:
    """All that exists only once the weights are loaded."""

    engine: "Engine"
    encoder: PromptEncoder
    scheduler: "Scheduler"
    longest_token: int  # characters

    def check_ids(self, ids: list[int], field: str) -> None:
        """Raises: RequestError: an id that the tokenizer does not know."""
        vocabulary = len(self.engine.tokenizer)
        bad = next((i for i in ids if i >= vocabulary), None)
        if bad is not None:
            raise RequestError(400, f"token {bad} is not in the vocabulary of {vocabulary}", field)


class Service:
    """One server: its config, its metrics and, once loaded, its model."""

    def __init__(self, cfg: Config, name: str = "effchal") -> None:
        self.cfg, self.name, self.created = cfg, name, int(time.time())
        self._model: LoadedModel | None = None
        self.metrics = Metrics(self._layer_counts)

    def set_ready(self, engine: "Engine", on_lost: Callable[[], None] = lambda: None) -> None:
        """on_lost: called if the engine's device does nothing more for this process."""
        from effchal.serving.scheduler import Scheduler

        encoder = PromptEncoder(engine.tokenizer, self.cfg.prompt)
        scheduler = Scheduler(engine, self.cfg.serve, self.metrics, on_lost)
        longest_token = max(map(len, engine.tokenizer.get_vocab()))
        self._model = LoadedModel(engine, encoder, scheduler, longest_token)

    def loaded(self) -> LoadedModel:
        """The model, which answers.

        Raises:
            RequestError: 503 while it is loading, or after its engine thread has ended.
        """
        if self._model is None:
            raise RequestError(503, "the model is still loading; GET /ready tells when it answers")
        if not self._model.scheduler.is_alive():
            raise RequestError(503, "the engine has stopped; restart the server")
        return self._model

    def _layer_counts(self) -> list[int]:
        return [] if self._model is None else self._model.engine.layer_counts.tolist()

    def check_length(self, texts: Sequence[str], field: str) -> None:
        """Refuse what cannot fit into one prompt, before it is tokenised, which takes seconds.

        Raises:
            RequestError: 413, no tokens within serve.max_prompt_tokens spell so many characters.
        """
        longest, tokens = self.loaded().longest_token, self.cfg.serve.max_prompt_tokens
        if len(texts) > tokens:
            message = f"{len(texts)} messages are more than {tokens} (serve.max_prompt_tokens)"
            raise RequestError(413, message, field)
        characters = sum(map(len, texts))
        if characters > tokens * longest:
            message = (
                f"{characters} characters are more than {tokens} tokens "
                f"(serve.max_prompt_tokens) of at most {longest} characters"
            )
            raise RequestError(413, message, field)

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a prompt in its template, by check_prompt; 400 where the template refuses it."""
        try:
            return self.check_prompt(self.loaded().encoder.prompt_ids(turns))
        except TemplateError as error:
            raise RequestError(400, error.reason, "prompt") from error

    def check_prompt(self, ids: list[int]) -> list[int]:
        """The ids that go to the model. An empty prompt becomes one end-of-sequence token.

        Raises:
            RequestError: 413, longer than serve.max_prompt_tokens; 400, an id that the model has
                no embedding of, as some tokenizers have more tokens than their model.
        """
        length, limit = len(ids), self.cfg.serve.max_prompt_tokens
        if length > limit:
            too_long = f"{length} tokens; this server takes {limit} (serve.max_prompt_tokens)"
            raise RequestError(413, f"the prompt has {too_long}", "prompt")
        embeddings = self.loaded().engine.embeddings
        unknown = first_unknown(ids, embeddings)
        if unknown is not None:
            token = self.loaded().engine.tokenizer.convert_ids_to_tokens(unknown)
            message = f"token {unknown} ({token!r}) is beyond this model's {embeddings} embeddings"
            raise RequestError(400, message, "prompt")
        return ids or [self.loaded().encoder.eos_id]

    def sampling_params(
        self,
        body: SamplingRequest,
        max_new_tokens: int | None,
        stops: Sequence[str],
        alternatives: int,
        echo_from: int | None = None,
    ) -> "SamplingParams":
        """The request's settings, with the bundle's decoding.* where the request gives none.

        Args:
            alternatives: number of most likely tokens to report at each position.
            echo_from: first position of the prompt to report, or None.

        Raises:
            RequestError: 400, a value that this server does not allow.
        """
        from effchal.decoding.layers import contrast_of
        from effchal.decoding.sampling import SamplingParams

        decoding = self._decoding(body)
        new_tokens = self._new_tokens(max_new_tokens, decoding)
        temperature = decoding.temperature if decoding.method is DecodingMethod.sample else 0.0
        model = self.loaded().engine.model
        try:
            contrast = contrast_of(decoding, model.num_layers, model.tied)
            model.check(contrast)
        except ConfigError as error:
            raise RequestError(400, str(error), "decoding") from error
        return SamplingParams(
            max_new_tokens=new_tokens,
            temperature=temperature if body.temperature is None else body.temperature,
            top_p=decoding.top_p if body.top_p is None else body.top_p,
            top_k=body.top_k,
            min_p=body.min_p,
            stops=tuple(stop for stop in stops if stop),
            alternatives=alternatives,
            echo_from=echo_from,
            seed=body.seed,
            contrast=contrast,
            contrast_prompt=decoding.contrast_prompt,
            repetition_penalty=(
                decoding.repetition_penalty
                if body.repetition_penalty is None
                else body.repetition_penalty
            ),
            ignore_eos=body.ignore_eos,
            first_line=decoding.end_at_first_line and not any(stops),
        )

    def _new_tokens(self, asked: int | None, decoding: DecodingConfig) -> int:
        limit = self.cfg.serve.max_new_tokens
        if asked is None:
            return min(decoding.max_new_tokens, limit)
        if asked > limit:
            message = f"{asked} is above this server's limit of {limit} (serve.max_new_tokens)"
            raise RequestError(400, message, "max_new_tokens")
        return asked

    def _decoding(self, body: SamplingRequest) -> DecodingConfig:
        if not body.decoding:
            return self.cfg.decoding
        if not self.cfg.serve.allow_decoding_override:
            message = "a request may change this only if serve.allow_decoding_override=true"
            raise RequestError(400, message, "decoding")
        try:
            return change_decoding(self.cfg.decoding, body.decoding)
        except ConfigError as error:
            raise RequestError(400, str(error), "decoding") from error

    def submit(
        self,
        prompts: list[list[int]],
        variants: list[list["SamplingParams"]],
        streams: bool = False,
    ) -> list["QueuedPrompt"]:
        """Queue the prompts of one request, each with the settings of its answers.

        Raises:
            RequestError: 400 or 413, more than the model or the cache holds; 503, a full queue.
        """
        from effchal.serving.queued import QueuedPrompt, QueueFull

        pairs = zip(prompts, variants, strict=True)
        queued = [QueuedPrompt(ids, each, streams) for ids, each in pairs]
        for prompt in queued:
            self._check_capacity(prompt)
        try:
            self.loaded().scheduler.submit(queued)
        except QueueFull:
            limit = self.cfg.serve.max_waiting
            message = f"no room for {len(queued)} more (serve.max_waiting={limit}); try again"
            raise RequestError(503, message) from None
        return queued

    def _check_capacity(self, prompt: "QueuedPrompt") -> None:
        model, most_rows = self.loaded(), self.cfg.serve.max_rows
        length, longest, rows = len(prompt.prompt_ids), prompt.max_tokens, prompt.rows
        # Past its last trained position a model answers with nonsense, not with an error.
        if longest > model.engine.max_positions:
            tokens = f"{length} prompt tokens and {longest - length} new ones"
            message = f"{tokens}; this model holds {model.engine.max_positions}"
            raise RequestError(413, message, "max_new_tokens")
        if rows > most_rows:
            message = f"{rows} answers; this server gives {most_rows} (serve.max_rows)"
            raise RequestError(400, message, "n")
        capacity = model.scheduler.cache_tokens
        if rows * longest > capacity:
            message = f"{rows} x {longest} tokens; the cache holds {capacity} (serve.cache_gib)"
            raise RequestError(413, message, "max_new_tokens")

    def wait(
        self, prompts: list["QueuedPrompt"], deadline_s: float | None, hung_up: Callable[[], bool]
    ) -> list[list["Completion"]]:
        """The completions of each prompt. If one fails, all are cancelled.

        Raises:
            RequestError: 504 past the deadline.
            ClientGone: the client hung up.
        """
        scheduler, end = self.loaded().scheduler, self._end(deadline_s)
        try:
            for prompt in prompts:
                while not prompt.finished.wait(max(0.0, min(POLL_S, end - time.monotonic()))):
                    self._check_still_wanted(end, hung_up)
                if prompt.error is not None:
                    raise prompt.error
        except BaseException:
            scheduler.cancel(prompts)
            raise
        return [prompt.completions for prompt in prompts]

    def stream(
        self, prompt: "QueuedPrompt", deadline_s: float | None, hung_up: Callable[[], bool]
    ) -> Iterator[tuple[int, list["TokenScore"]]]:
        """Yield (variant, its next stable tokens). The caller cancels the prompt at the end.

        Raises:
            As `wait`.
        """
        end = self._end(deadline_s)
        while True:
            try:
                wait_s = max(0.001, min(POLL_S, end - time.monotonic()))
                update = prompt.updates.get(timeout=wait_s)
            except queue.Empty:
                self._check_still_wanted(end, hung_up)
            else:
                if update is None:
                    break
                yield update
        if prompt.error is not None:
            raise prompt.error

    def _end(self, deadline_s: float | None) -> float:
        longest = self.cfg.serve.deadline_s
        return time.monotonic() + (longest if deadline_s is None else min(deadline_s, longest))

    def _check_still_wanted(self, end: float, hung_up: Callable[[], bool]) -> None:
        if time.monotonic() >= end:
            message = "no answer within the deadline (deadline_s, serve.deadline_s)"
            raise RequestError(504, message, "deadline_s")
        if hung_up():
            raise ClientGone
        self.loaded()
