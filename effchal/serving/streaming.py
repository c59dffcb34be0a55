"""Answers of OpenAI's routes from completions: whole ones, and streams of server-sent events."""

import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flask import Response

from effchal.serving import openai_types as types
from effchal.serving.access import error_of, log_answer, log_fields
from effchal.serving.fields import ApiModel
from effchal.serving.refusals import ClientGone
from effchal.serving.routes import hung_up
from effchal.serving.service import Service
from effchal.serving.waiting import Wait

if TYPE_CHECKING:
    from effchal.decoding.sampling import SamplingParams
    from effchal.decoding.sequence import Completion, TokenScore

Reason = types.FinishReason | None  # None: more comes
Answer = TypeVar("Answer", bound=ApiModel, covariant=True)


class Writer(Protocol[Answer]):
    """Turns completions into the answers of one route, whole or in chunks."""

    prompt: object  # as the client wrote it, for the access log

    def whole(self, completions: "list[Completion]", usage: types.Usage) -> Answer: ...
    def first_chunk(self, index: int) -> ApiModel | None: ...
    def chunk(self, index: int, tokens: "list[TokenScore]", reason: Reason) -> ApiModel: ...
    def usage_chunk(self, usage: types.Usage) -> ApiModel: ...


class CompletionWriter:
    """Answers of POST /v1/completions."""

    def __init__(self, service: Service, body: types.CompletionRequest) -> None:
        self.prompt: object = body.prompt
        self._head = answer_head(service, "cmpl", body)
        self._logprobs = body.logprobs is not None
        self._offsets = [0] * body.n  # characters streamed so far, by choice

    def whole(
        self, completions: "list[Completion]", usage: types.Usage
    ) -> types.CompletionResponse:
        choices = [
            self._choice(index, completion.all_tokens, finish_reason(completion), 0)
            for index, completion in enumerate(completions)
        ]
        return types.CompletionResponse(**self._head, choices=choices, usage=usage)

    def first_chunk(self, index: int) -> ApiModel | None:
        return None

    def chunk(self, index: int, tokens: "list[TokenScore]", reason: Reason) -> ApiModel:
        choice = self._choice(index, tokens, reason, self._offsets[index])
        self._offsets[index] += len(choice.text)
        return types.CompletionResponse(**self._head, choices=[choice])

    def usage_chunk(self, usage: types.Usage) -> ApiModel:
        return types.CompletionResponse(**self._head, choices=[], usage=usage)

    def _choice(
        self, index: int, tokens: "list[TokenScore]", reason: Reason, offset: int
    ) -> types.CompletionChoice:
        text = "".join(token.text for token in tokens)
        logprobs = completion_logprobs(tokens, offset) if self._logprobs else None
        return types.CompletionChoice(
            index=index, text=text, finish_reason=reason, logprobs=logprobs
        )


class ChatWriter:
    """Answers of POST /v1/chat/completions."""

    def __init__(self, service: Service, body: types.ChatRequest) -> None:
        self.prompt: object = [message.model_dump() for message in body.messages]
        self._head, self._logprobs = answer_head(service, "chatcmpl", body), body.logprobs

    def whole(self, completions: "list[Completion]", usage: types.Usage) -> types.ChatResponse:
        choices = [
            types.ChatChoice(
                index=index,
                message=types.ChatMessage(content=completion.text),
                finish_reason=finish_reason(completion),
                logprobs=chat_logprobs(completion.all_tokens) if self._logprobs else None,
            )
            for index, completion in enumerate(completions)
        ]
        return types.ChatResponse(**self._head, choices=choices, usage=usage)

    def first_chunk(self, index: int) -> ApiModel | None:
        return self._chunk(index, types.Delta(role="assistant", content=""), None, None)

    def chunk(self, index: int, tokens: "list[TokenScore]", reason: Reason) -> ApiModel:
        text = "".join(token.text for token in tokens)
        logprobs = chat_logprobs(tokens) if self._logprobs else None
        return self._chunk(
            index, types.Delta(content=text) if text else types.Delta(), reason, logprobs
        )

    def usage_chunk(self, usage: types.Usage) -> ApiModel:
        return types.ChatChunk(**self._head, choices=[], usage=usage)

    def _chunk(
        self, index: int, delta: types.Delta, reason: Reason, logprobs: types.ChatLogprobs | None
    ) -> ApiModel:
        choice = types.ChatChunkChoice(
            index=index, delta=delta, finish_reason=reason, logprobs=logprobs
        )
        return types.ChatChunk(**self._head, choices=[choice])


def event_stream(
    service: Service,
    body: types.OpenAIRequest,
    ids: list[int],
    variants: "list[SamplingParams]",
    writer: Writer[ApiModel],
) -> Response:
    """Server-sent events: chunks as tokens become stable, then [DONE].

    Raises:
        RequestError: the prompt is refused. Later errors are events of the stream.
    """
    (queued,) = service.submit([ids], [variants], streams=True, model=body.model)
    scheduler = service.loaded().scheduler
    updates = Wait(service, body.deadline_s, hung_up()).stream(queued)
    fields = log_fields()
    fields["prompt_tokens"] = len(ids)

    def chunks() -> Iterator[ApiModel]:
        for index in range(body.n):
            if (first := writer.first_chunk(index)) is not None:
                yield first
        for index, tokens in updates:
            yield writer.chunk(index, tokens, None)
        # Log now: a client may hang up once it has read how the answer ends.
        log_answer(fields, service, len(ids), queued.completions, writer.prompt)
        for index, completion in enumerate(queued.completions):
            end = [] if completion.end is None else [completion.end]
            yield writer.chunk(index, end, finish_reason(completion))
        if body.stream_options and body.stream_options.include_usage:
            yield writer.usage_chunk(usage_of(len(ids), queued.completions))

    def events() -> Iterator[str]:
        try:
            for chunk in chunks():
                yield f"data: {chunk.model_dump_json()}\n\n"
            yield "data: [DONE]\n\n"
        except ClientGone:
            fields["client_gone"] = True
        except Exception as error:  # the status line is sent already
            response, status, _ = error_of(error)
            fields["failed"] = status
            yield f"data: {response.model_dump_json()}\n\n"
        finally:
            scheduler.cancel([queued])  # does nothing to a finished one

    return Response(events(), mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})


def answer_head(service: Service, kind: str, body: types.OpenAIRequest) -> dict[str, Any]:
    """What every answer and every chunk of a stream begins with."""
    name = service.served(body.model).name
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}


def finish_reason(completion: "Completion") -> types.FinishReason:
    return "stop" if completion.finish_reason == "stop" else "length"


def usage_of(prompt_tokens: int, completions: "list[Completion]") -> types.Usage:
    new = sum(len(completion.ids) for completion in completions)
    return types.Usage(
        prompt_tokens=prompt_tokens, completion_tokens=new, total_tokens=prompt_tokens + new
    )


def completion_logprobs(tokens: "list[TokenScore]", offset: int) -> types.Logprobs:
    """Log-probabilities in the form of OpenAI's first API.

    lm-eval takes the last entry for the one token that it has to ask for, also where the model
    ends there. It calls an answer greedy where a token's value equals the best one exactly.

    Args:
        offset: characters of this choice before `tokens`.
    """
    values = [token.logprob if token.is_predicted else None for token in tokens]
    base = [token.base_logprob if token.is_predicted else None for token in tokens]
    top = [token.top_logprobs if token.is_predicted else None for token in tokens]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return types.Logprobs(
        tokens=[token.text for token in tokens],
        token_logprobs=values,
        top_logprobs=top,
        text_offset=offsets,
        base_logprobs=base,
    )


def chat_logprobs(tokens: "list[TokenScore]") -> types.ChatLogprobs:
    content = []
    for token in tokens:
        top = [
            types.TopLogprob(token=text, logprob=value, bytes=list(text.encode()))
            for text, value in token.top_logprobs.items()
        ]
        content.append(
            types.ChatLogprob(
                token=token.text,
                logprob=token.logprob,
                bytes=list(token.text.encode()),
                base_logprob=token.base_logprob,
                layer=token.layer,
                top_logprobs=top,
            )
        )
    return types.ChatLogprobs(content=content)
