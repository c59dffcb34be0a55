"""What the routes share: the loaded model, what a request may ask of it, and the wait for its answer."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from effchal.config import Config, ConfigError
from effchal.config.choices import DecodingMethod
from effchal.config.decoding import DecodingConfig, change_decoding
from effchal.prompts import PromptEncoder
from effchal.serving.helm_types import SamplingRequest
from effchal.serving.metrics import Metrics

if TYPE_CHECKING:  # torch comes with it, and the master process should stay small and fork cleanly
    from effchal.decoding.engine import Engine
    from effchal.decoding.sampling import SamplingParams
    from effchal.decoding.sequence import Completion, TokenScore
    from effchal.serving.scheduler import Job, Scheduler

LOOK_EVERY_S = 0.25  # whether the client still listens
RETRY_AFTER_S = 10


class RequestError(Exception):
    """The client's fault, or a full house: status, message, and the field to change."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field


class ClientGone(Exception):
    """Nobody will read the answer."""


class Service:
    """The loaded model behind the routes; None of it is there until `engine` is set."""

    def __init__(self, cfg: Config, name: str = "effchal") -> None:
        self.cfg, self.name, self.created = cfg, name, int(time.time())
        self.engine: Engine | None = None
        self.encoder: PromptEncoder | None = None
        self.scheduler: Scheduler | None = None
        self.metrics = Metrics(self._layer_counts)

    def set_ready(self, engine: "Engine") -> None:
        from effchal.serving.scheduler import Scheduler

        self.encoder = PromptEncoder(engine.tokenizer, self.cfg.prompt)
        self.scheduler = Scheduler(engine, self.cfg.serve, self.metrics)
        self.engine = engine

    def require_ready(self) -> None:
        if self.engine is None:
            raise RequestError(503, "the model is still loading; GET /ready tells when it answers")
        if not self.scheduler.is_alive():
            raise RequestError(503, "the engine has stopped; restart the server")

    def _layer_counts(self) -> list[int]:
        return [] if self.engine is None else self.engine.layer_counts.tolist()

    def check_prompt(self, ids: list[int]) -> list[int]:
        """The ids that go to the model: an empty prompt is one end-of-sequence token."""
        limit = self.cfg.serve.max_prompt_tokens
        if len(ids) > limit:
            message = f"the prompt has {len(ids)} tokens; this server takes {limit} (serve.max_prompt_tokens)"
            raise RequestError(413, message, "prompt")
        return ids or [self.encoder.eos_id]

    def check_ids(self, ids: list[int], field: str) -> None:
        vocabulary = len(self.engine.tokenizer)
        bad = next((i for i in ids if i >= vocabulary), None)
        if bad is not None:
            raise RequestError(400, f"token {bad} is not in the vocabulary of {vocabulary}", field)

    def sampling_params(
        self,
        body: SamplingRequest,
        max_new_tokens: int | None,
        stops: Sequence[str],
        alternatives: int,
        echo_from: int | None,
        field: str,
    ) -> "SamplingParams":
        """What the request says, and decoding.* of the bundle where it says nothing.

        Args:
            alternatives: likeliest tokens to report at each position.
            echo_from: position of the prompt from which on it is reported, or None.
            field: how the request calls max_new_tokens.
        """
        from effchal.decoding.layers import contrast_of
        from effchal.decoding.sampling import SamplingParams

        serve, default = self.cfg.serve, self._decoding(body)
        most = serve.max_new_tokens
        if max_new_tokens is None:
            max_new_tokens = min(default.max_new_tokens, most)
        if max_new_tokens > most:
            message = (
                f"{max_new_tokens} is above this server's limit of {most} (serve.max_new_tokens)"
            )
            raise RequestError(400, message, field)
        usual_temperature = default.temperature if default.method is DecodingMethod.sample else 0.0
        model = self.engine.model
        try:
            contrast = contrast_of(default, model.num_layers, model.tied)
        except ConfigError as error:
            raise RequestError(400, str(error), "decoding") from error
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=usual_temperature if body.temperature is None else body.temperature,
            top_p=default.top_p if body.top_p is None else body.top_p,
            top_k=body.top_k,
            stops=tuple(stop for stop in stops if stop),
            alternatives=alternatives,
            echo_from=echo_from,
            seed=body.seed,
            contrast=contrast,
            contrast_prompt=default.contrast_prompt,
            repetition_penalty=default.repetition_penalty,
            first_line=default.end_at_first_line and not any(stops),
        )

    def _decoding(self, body: SamplingRequest) -> DecodingConfig:
        if not body.decoding:
            return self.cfg.decoding
        if not self.cfg.serve.allow_decoding_override:
            message = "this server decodes as its bundle says; serve.allow_decoding_override=true would change that"
            raise RequestError(400, message, "decoding")
        try:
            return change_decoding(self.cfg.decoding, body.decoding)
        except ConfigError as error:
            raise RequestError(400, str(error), "decoding") from error

    def submit(
        self, prompts: list[list[int]], variants: list["SamplingParams"], streams: bool = False
    ) -> list["Job"]:
        """Queue prompts that belong to one request, each to be answered in the same ways.

        Raises:
            RequestError: more than the model or the memory holds, or a full queue.
        """
        from effchal.serving.scheduler import Job, QueueFull

        jobs = [Job(ids, variants, streams) for ids in prompts]
        for job in jobs:
            self._check_room(job)
        try:
            self.scheduler.submit(jobs)
        except QueueFull:
            most = self.cfg.serve.max_waiting
            raise RequestError(
                503, f"no room for {len(jobs)} more (serve.max_waiting={most}); try again"
            ) from None
        return jobs

    def _check_room(self, job: "Job") -> None:
        serve, new = self.cfg.serve, job.tokens - len(job.prompt_ids)
        # Past its last trained position a model answers with nonsense, not with an error.
        most = self.engine.max_positions
        if job.tokens > most:
            message = (
                f"{len(job.prompt_ids)} prompt tokens and {new} new ones; this model holds {most}"
            )
            raise RequestError(413, message, "max_new_tokens")
        if job.rows > serve.max_rows:
            raise RequestError(
                400, f"{job.rows} answers; this server gives {serve.max_rows} (serve.max_rows)", "n"
            )
        room = self.scheduler.cache_tokens
        if job.rows * job.tokens > room:
            message = (
                f"{job.rows} x {job.tokens} tokens, but the cache holds {room} (serve.cache_gib)"
            )
            raise RequestError(413, message, "max_new_tokens")

    def wait(
        self, jobs: list["Job"], deadline_s: float | None, hung_up: Callable[[], bool]
    ) -> list[list["Completion"]]:
        """The answers of all jobs; they are cancelled together when the client is gone or the time is up.

        Raises:
            RequestError: 504 past the deadline.
            ClientGone: the client hung up.
        """
        end = self._end(deadline_s)
        try:
            for job in jobs:
                while not job.finished.wait(max(0.0, min(LOOK_EVERY_S, end - time.monotonic()))):
                    self._check_still_wanted(end, hung_up)
                if job.error is not None:
                    raise job.error
        except BaseException:
            self.scheduler.cancel(jobs)
            raise
        return [job.completions for job in jobs]

    def stream(
        self, job: "Job", deadline_s: float | None, hung_up: Callable[[], bool]
    ) -> Iterator[tuple[int, list["TokenScore"]]]:
        """(variant, its next tokens) as they settle. Closing the iterator cancels the job.

        Raises:
            as wait.
        """
        import queue

        end = self._end(deadline_s)
        try:
            while True:
                try:
                    update = job.updates.get(
                        timeout=max(0.001, min(LOOK_EVERY_S, end - time.monotonic()))
                    )
                except queue.Empty:
                    self._check_still_wanted(end, hung_up)
                    continue
                if update is None:
                    break
                yield update
            if job.error is not None:
                raise job.error
        finally:
            if not job.finished.is_set():
                self.scheduler.cancel([job])

    def _end(self, deadline_s: float | None) -> float:
        longest = self.cfg.serve.deadline_s
        return time.monotonic() + (longest if deadline_s is None else min(deadline_s, longest))

    def _check_still_wanted(self, end: float, hung_up: Callable[[], bool]) -> None:
        if time.monotonic() >= end:
            raise RequestError(
                504, "no answer within the deadline (deadline_s, serve.deadline_s)", "deadline_s"
            )
        if hung_up():
            raise ClientGone
        if not self.scheduler.is_alive():
            raise RequestError(503, "the engine has stopped; restart the server")
