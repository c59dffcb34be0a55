"""What the routes share: the models of a server, and the limits of a request."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from effchal.config import Config, ConfigError
from effchal.config.choices import DecodingMethod
from effchal.config.decoding import DecodingConfig, change_decoding
from effchal.model.vocabulary import first_unknown
from effchal.model_source import ModelSource
from effchal.prompts.chat_template import TemplateError
from effchal.prompts.encoder import PromptEncoder, Turn
from effchal.serving.helm_types import SamplingRequest
from effchal.serving.metrics import Metrics
from effchal.serving.refusals import RequestError
from effchal.serving.served import LoadedModel, ServedModel
from effchal.serving.shared_base import CheckedAdapter

if TYPE_CHECKING:  # torch comes with them, and the master process must stay small to fork cleanly
    from effchal.decoding.engine import Engine
    from effchal.decoding.sampling import SamplingParams
    from effchal.serving.queued import QueuedPrompt

LONGEST_TEXT = 1_000_000  # characters that /tokenize takes


class Service:
    """One server: its config, its metrics and, once loaded, its models."""

    def __init__(self, cfg: Config, name: str = "effchal", typed: Sequence[str] = ()) -> None:
        """typed: the user's words, which count for adapters, too."""
        self.cfg, self.name, self.created = cfg, name, int(time.time())
        self.typed = typed
        self.base: ModelSource | None = None  # that adapters may come to, once it is loaded
        self._model: LoadedModel | None = None
        self.metrics = Metrics(self._layer_counts)

    def set_ready(
        self,
        engine: "Engine",
        on_lost: Callable[[], None] = lambda: None,
        adapters: Mapping[str, CheckedAdapter] | None = None,
    ) -> None:
        """Answer requests from now on.

        Args:
            on_lost: called if the engine's device does nothing more for this process.
            adapters: by name.

        Raises:
            ConfigError: an adapter that does not fit the model.
        """
        from effchal.serving.scheduler import Scheduler

        encoder = PromptEncoder(engine.tokenizer, self.cfg.prompt)
        if self.names_models:
            engine.ends = set(engine.own_ends)  # those of a template come with its requests
        scheduler = Scheduler(engine, self.cfg.serve, self.metrics, on_lost)
        longest_token = max(map(len, engine.tokenizer.get_vocab()))
        model = LoadedModel(engine, encoder, scheduler, longest_token)
        for name, checked in (adapters or {}).items():
            model.add(name, partial(lambda found: found, checked))
        self._model = model

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

    @property
    def names_models(self) -> bool:
        """Whether a request's model counts. A server with one model answers to any name."""
        return bool(self.cfg.serve.adapters) or self.cfg.serve.allow_adapter_updates

    def served(self, name: str | None = None) -> ServedModel:
        """The model that a request names; by default the one that the server began with.

        Raises:
            RequestError: 404, no such model; 503 as in `loaded`.
        """
        model = self.loaded()
        found = model.adapters.get(name or "")
        if found is not None:
            return found
        if name in (None, self.name) or not self.names_models:
            return ServedModel(self.name, self.cfg, model.encoder)
        known = ", ".join([self.name, *model.adapters])
        raise RequestError(404, f"no model {(name or '')[:100]}; this server has {known}", "model")

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

    def prompt_ids(self, turns: Sequence[Turn], name: str | None = None) -> list[int]:
        """Ids of a prompt in its template, by check_prompt; 400 where the template refuses it.

        Args:
            name: of the model whose template it is.
        """
        try:
            return self.check_prompt(self.served(name).encoder.prompt_ids(turns))
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

        decoding, encoder = self._decoding(body), self.served(body.model).encoder
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
            ends=frozenset(encoder.end_ids),
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
        own = self.served(body.model).cfg.decoding
        if not body.decoding:
            return own
        if not self.cfg.serve.allow_decoding_override:
            message = "a request may change this only if serve.allow_decoding_override=true"
            raise RequestError(400, message, "decoding")
        try:
            return change_decoding(own, body.decoding)
        except ConfigError as error:
            raise RequestError(400, str(error), "decoding") from error

    def submit(
        self,
        prompts: list[list[int]],
        variants: list[list["SamplingParams"]],
        streams: bool = False,
        model: str | None = None,
    ) -> list["QueuedPrompt"]:
        """Queue the prompts of one request, each with the settings of its answers.

        Args:
            model: that the request names.

        Raises:
            RequestError: 400 or 413, more than the model or the cache holds; 503, a full queue.
        """
        from effchal.serving.queued import QueuedPrompt, QueueFull

        pairs, adapter = zip(prompts, variants, strict=True), self.served(model).adapter
        queued = [QueuedPrompt(ids, each, streams, adapter) for ids, each in pairs]
        for prompt in queued:
            self._check_capacity(prompt)
        try:
            self.loaded().scheduler.submit(queued)
        except QueueFull:
            limit = f"serve.max_waiting={self.cfg.serve.max_waiting}"
            message = f"the queue is full: {len(queued)} more would exceed {limit}; try again"
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
        capacity = model.scheduler.room.tokens
        if rows * longest > capacity:
            message = f"{rows} x {longest} tokens; the cache holds {capacity} (serve.cache_gib)"
            raise RequestError(413, message, "max_new_tokens")
