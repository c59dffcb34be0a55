"""Routes of OpenAI's API for the openai client and lm-eval, and of vLLM's for lm-eval's remote tokenizer."""

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flask import Blueprint, Response

from effchal.prompts import Turn
from effchal.serving.access import error_of, note, told
from effchal.serving.helm_types import ApiModel, DecodeRequest, DetokenizeResponse
from effchal.serving.openai_types import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    ChatResponse,
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    Delta,
    Logprobs,
    Model,
    Models,
    OpenAIRequest,
    TokenizerInfo,
    TopLogprob,
    Usage,
)
from effchal.serving.request import hung_up, parse, reply
from effchal.serving.service import ClientGone, RequestError, Service

if TYPE_CHECKING:
    from effchal.decoding.sampling import SamplingParams
    from effchal.decoding.sequence import Completion, TokenScore


def openai_routes(service: Service) -> Blueprint:
    routes = Blueprint("openai", __name__)

    @routes.post("/v1/completions")
    def completions():
        service.require_ready()
        body = parse(CompletionRequest)
        prompts, echo_from = encode_prompts(service, body)
        alternatives = body.logprobs or 0
        params = service.sampling_params(
            body, body.max_tokens, body.stops, alternatives, echo_from, "max_tokens"
        )
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": service.created, "model": service.name}
        if body.stream:
            if len(prompts) > 1:
                raise RequestError(400, "a stream answers one prompt", "prompt")
            return event_stream(
                service, body, prompts[0], params, CompletionWriter(head, body), body.prompt
            )
        found = service.wait(
            service.submit(prompts, ways(params, body.n)), body.deadline_s, hung_up()
        )
        answers = [completion for each in found for completion in each]
        choices = []
        for index, completion in enumerate(answers):
            logprobs = None if body.logprobs is None else logprobs_of(completion.tokens, body.echo)
            choices.append(
                CompletionChoice(
                    index=index,
                    text=completion.text,
                    finish_reason=completion.finish_reason,
                    logprobs=logprobs,
                )
            )
        prompt_tokens = sum(map(len, prompts))
        note(told(), service, prompt_tokens, answers, body.prompt)
        return reply(
            CompletionResponse(**head, choices=choices, usage=usage_of(prompt_tokens, answers))
        )

    @routes.post("/v1/chat/completions")
    def chat():
        service.require_ready()
        body = parse(ChatRequest)
        turns = [Turn("system" if m.role == "developer" else m.role, m.text) for m in body.messages]
        ids = service.check_prompt(service.encoder.prompt_ids(turns))
        most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        alternatives = (body.top_logprobs or 0) if body.logprobs else 0
        params = service.sampling_params(body, most, body.stops, alternatives, None, "max_tokens")
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": service.created,
            "model": service.name,
        }
        asked = [message.model_dump() for message in body.messages]
        if body.stream:
            return event_stream(service, body, ids, params, ChatWriter(head, body), asked)
        (answers,) = service.wait(
            service.submit([ids], ways(params, body.n)), body.deadline_s, hung_up()
        )
        choices = []
        for index, completion in enumerate(answers):
            logprobs = chat_logprobs(completion.tokens) if body.logprobs else None
            message = ChatMessage(content=completion.text)
            reason = completion.finish_reason
            choices.append(
                ChatChoice(index=index, message=message, finish_reason=reason, logprobs=logprobs)
            )
        note(told(), service, len(ids), answers, asked)
        return reply(ChatResponse(**head, choices=choices, usage=usage_of(len(ids), answers)))

    @routes.get("/v1/models")
    def models():
        service.require_ready()
        longest = service.engine.max_positions
        return reply(
            Models(data=[Model(id=service.name, created=service.created, max_model_len=longest)])
        )

    @routes.get("/tokenizer_info")
    def tokenizer_info():
        service.require_ready()
        tokenizer, encoder = service.engine.tokenizer, service.encoder
        return reply(
            TokenizerInfo(
                eos_token=tokenizer.eos_token,
                bos_token=tokenizer.decode(encoder.bos_ids) or None,
                pad_token=tokenizer.pad_token,
                chat_template=encoder.chat_template(),
            )
        )

    @routes.post("/detokenize")
    def detokenize():
        service.require_ready()
        ids = parse(DecodeRequest).tokens
        service.check_ids(ids, "tokens")
        return reply(
            DetokenizeResponse(
                prompt=service.engine.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            )
        )

    return routes


def encode_prompts(service: Service, body: CompletionRequest) -> tuple[list[list[int]], int | None]:
    """Ids of every prompt, and the position from which on they are echoed, or None.

    Token ids are taken as they are; text is encoded with the special tokens that it spells, after the
    beginning-of-sequence token where the tokenizer has one and the text does not begin with it.
    """
    encoder, prompt = service.encoder, body.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        prompt = [prompt]
    most = service.cfg.serve.max_waiting
    if len(prompt) > most:
        raise RequestError(
            400, f"{len(prompt)} prompts; this server takes {most} (serve.max_waiting)", "prompt"
        )
    rows = []
    for each in prompt:
        if isinstance(each, str):
            ids, bos = encoder.raw_ids(each), encoder.bos_ids
            ids = ids if bos and ids[: len(bos)] == bos else bos + ids
        else:
            ids = each
            service.check_ids(ids, "prompt")
        rows.append(service.check_prompt(ids))
    text = isinstance(prompt[0], str)
    return rows, (len(encoder.bos_ids) if text and any(prompt) else 0) if body.echo else None


def ways(params: "SamplingParams", n: int) -> list["SamplingParams"]:
    """n ways to sample one prompt; with a seed, each has its own."""
    from dataclasses import replace

    if params.seed is None:
        return [params] * n
    return [replace(params, seed=(params.seed + i) % 2**63) for i in range(n)]


def usage_of(prompt_tokens: int, answers: "list[Completion]") -> Usage:
    new = sum(len(completion.ids) for completion in answers)
    return Usage(
        prompt_tokens=prompt_tokens, completion_tokens=new, total_tokens=prompt_tokens + new
    )


def logprobs_of(tokens: "list[TokenScore]", echo: bool, offset: int = 0) -> Logprobs:
    """What OpenAI's first API told of tokens; lm-eval calls an answer greedy where a token's value equals the best."""
    result = Logprobs(
        tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[], base_logprobs=[]
    )
    for i, token in enumerate(tokens):
        first = echo and i == 0 and offset == 0  # nothing predicts it
        result.tokens.append(token.text)
        result.token_logprobs.append(None if first else token.logprob)
        result.base_logprobs.append(None if first else token.base_logprob)
        result.top_logprobs.append(None if first else token.top_logprobs)
        result.text_offset.append(offset)
        offset += len(token.text)
    return result


def chat_logprobs(tokens: "list[TokenScore]") -> ChatLogprobs:
    def told(text: str, logprob: float) -> dict:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = []
    for token in tokens:
        top = [TopLogprob(**told(text, value)) for text, value in token.top_logprobs.items()]
        content.append(
            ChatLogprob(
                **told(token.text, token.logprob), base_logprob=token.base_logprob, top_logprobs=top
            )
        )
    return ChatLogprobs(content=content)


class CompletionWriter:
    """Chunks of a streamed completion."""

    def __init__(self, head: dict, body: CompletionRequest) -> None:
        self._head, self._logprobs = head, body.logprobs is not None
        self._echo = body.echo
        self._offsets = [0] * body.n

    def first(self, index: int) -> Iterator[ApiModel]:
        return iter(())

    def chunk(self, index: int, tokens: "list[TokenScore]", reason: str | None) -> ApiModel:
        text, offset = "".join(token.text for token in tokens), self._offsets[index]
        self._offsets[index] += len(text)
        logprobs = logprobs_of(tokens, self._echo, offset) if self._logprobs else None
        choice = CompletionChoice(index=index, text=text, finish_reason=reason, logprobs=logprobs)
        return CompletionResponse(**self._head, choices=[choice])

    def end(self, usage: Usage) -> ApiModel:
        return CompletionResponse(**self._head, choices=[], usage=usage)


class ChatWriter:
    """Chunks of a streamed chat answer."""

    def __init__(self, head: dict, body: ChatRequest) -> None:
        self._head, self._logprobs = head, body.logprobs

    def first(self, index: int) -> Iterator[ApiModel]:
        yield self._choice(index, Delta(role="assistant", content=""), None, None)

    def chunk(self, index: int, tokens: "list[TokenScore]", reason: str | None) -> ApiModel:
        text = "".join(token.text for token in tokens)
        logprobs = chat_logprobs(tokens) if self._logprobs else None
        return self._choice(index, Delta(content=text) if tokens else Delta(), reason, logprobs)

    def end(self, usage: Usage) -> ApiModel:
        return ChatChunk(**self._head, choices=[], usage=usage)

    def _choice(
        self, index: int, delta: Delta, reason: str | None, logprobs: ChatLogprobs | None
    ) -> ApiModel:
        choice = ChatChunkChoice(index=index, delta=delta, finish_reason=reason, logprobs=logprobs)
        return ChatChunk(**self._head, choices=[choice])


def event_stream(
    service: Service,
    body: OpenAIRequest,
    ids: list[int],
    params: "SamplingParams",
    writer: CompletionWriter | ChatWriter,
    prompt: object,
) -> Response:
    """Server-sent events: chunks as tokens settle, then [DONE]. What is refused is refused before the first.

    Args:
        prompt: as the client wrote it, for the access log.
    """
    (job,) = service.submit([ids], ways(params, body.n), streams=True)
    updates = service.stream(job, body.deadline_s, hung_up())
    what = told()
    what["prompt_tokens"] = len(ids)

    def chunks() -> Iterator[ApiModel]:
        for index in range(body.n):
            yield from writer.first(index)
        for index, tokens in updates:
            yield writer.chunk(index, tokens, None)
        note(
            what, service, len(ids), job.completions, prompt
        )  # a client may go when it has read how the answer ends
        for index, completion in enumerate(job.completions):
            yield writer.chunk(index, [], completion.finish_reason)
        usage = usage_of(len(ids), job.completions)
        if body.stream_options and body.stream_options.include_usage:
            yield writer.end(usage)

    def events() -> Iterator[str]:
        try:
            for chunk in chunks():
                yield f"data: {chunk.model_dump_json()}\n\n"
            yield "data: [DONE]\n\n"
        except ClientGone:
            what["client_gone"] = True
        except Exception as error:  # the status is out already
            response, status, _ = error_of(error)
            what["failed"] = status
            yield f"data: {response.model_dump_json()}\n\n"
        finally:
            updates.close()
            service.scheduler.cancel([job])

    return Response(events(), mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})
