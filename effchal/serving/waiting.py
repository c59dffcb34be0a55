"""How a request's thread waits for its answers."""

import queue
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from effchal.serving.refusals import ClientGone, RequestError
from effchal.serving.service import Service

if TYPE_CHECKING:  # torch comes with them
    from effchal.decoding.sequence import Completion, TokenScore
    from effchal.serving.queued import QueuedPrompt

POLL_S = 0.25  # how often to look whether the client still listens


class Wait:
    """One request's: it ends past its deadline, or once its client is gone."""

    def __init__(
        self, service: Service, deadline_s: float | None, hung_up: Callable[[], bool]
    ) -> None:
        longest = service.cfg.serve.deadline_s
        limit = longest if deadline_s is None else min(deadline_s, longest)
        self._service, self._hung_up = service, hung_up
        self._end = time.monotonic() + limit

    def for_all(self, prompts: "list[QueuedPrompt]") -> "list[list[Completion]]":
        """The completions of each prompt. If one fails, all are cancelled.

        Raises:
            RequestError: 504 past the deadline.
            ClientGone: the client hung up.
        """
        scheduler = self._service.loaded().scheduler
        try:
            for prompt in prompts:
                while not prompt.finished.wait(max(0.0, min(POLL_S, self._left_s))):
                    self._check_still_wanted()
                if prompt.error is not None:
                    raise prompt.error
        except BaseException:
            scheduler.cancel(prompts)
            raise
        return [prompt.completions for prompt in prompts]

    def stream(self, prompt: "QueuedPrompt") -> "Iterator[tuple[int, list[TokenScore]]]":
        """Yield (variant, its next stable tokens). The caller cancels the prompt at the end.

        Raises:
            As `for_all`.
        """
        while True:
            try:
                update = prompt.updates.get(timeout=max(0.001, min(POLL_S, self._left_s)))
            except queue.Empty:
                self._check_still_wanted()
            else:
                if update is None:
                    break
                yield update
        if prompt.error is not None:
            raise prompt.error

    @property
    def _left_s(self) -> float:
        return self._end - time.monotonic()

    def _check_still_wanted(self) -> None:
        if self._left_s <= 0:
            message = "no answer within the deadline (deadline_s, serve.deadline_s)"
            raise RequestError(504, message, "deadline_s")
        if self._hung_up():
            raise ClientGone
        self._service.loaded()
