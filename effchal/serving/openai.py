"""Routes of OpenAI's API, and vLLM's tokenizer routes for lm-eval."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from flask import Response

from effchal.prompts.encoder import Turn
from effchal.serving import openai_types as types
from effchal.serving.access import log_answer, log_fields
from effchal.serving.helm_types import DecodeRequest, DetokenizeResponse
from effchal.serving.refusals import RequestError
from effchal.serving.routes import Route, hung_up
from effchal.serving.service import Service
from effchal.serving.streaming import (
    Answer,
    ChatWriter,
    CompletionWriter,
    Writer,
    event_stream,
    usage_of,
)
from effchal.serving.waiting import Wait

if TYPE_CHECKING:
    from effchal.decoding.sampling import SamplingParams


def completions(
    service: Service, body: types.CompletionRequest
) -> types.CompletionResponse | Response:
    """Continue prompts."""
    with own_names({"max_new_tokens": "max_tokens"}):
        prompts, echo_from = encode_prompts(service, body)
        alternatives = body.logprobs or 0
        params = service.sampling_params(body, body.max_tokens, body.stops, alternatives)
        variants = [n_samples(replace(params, echo_from=each), body.n) for each in echo_from]
        return _answer(service, body, prompts, variants, CompletionWriter(service, body))


def chat(service: Service, body: types.ChatRequest) -> types.ChatResponse | Response:
    """Answer a conversation."""
    turns = turns_of(service, body)
    new, name = body.max_completion_tokens, "max_completion_tokens"
    if new is None:
        new, name = body.max_tokens, "max_tokens"
    with own_names({"max_new_tokens": name, "prompt": "messages"}):
        service.check_length([turn.content for turn in turns], "messages")
        ids = service.prompt_ids(turns, body.model)
        alternatives = (body.top_logprobs or 0) if body.logprobs else 0
        params = service.sampling_params(body, new, body.stops, alternatives)
        variants = [n_samples(params, body.n)]
        return _answer(service, body, [ids], variants, ChatWriter(service, body))


def turns_of(service: Service, body: types.ChatRequest) -> list[Turn]:
    """The conversation as training has it.

    Raises:
        RequestError: 400, a tool's message where the template has no turn of a tool.
    """
    messages = body.messages
    roles = [message.role for message in messages]
    if "tool" in roles and not service.served(body.model).encoder.takes_tools:
        field = f"messages.{roles.index('tool')}.role"
        reason = (
            "this model's template has no turn of a tool; training tells what a tool says as a "
            "user's turn, so send it with the role user"
        )
        raise RequestError(400, f"{field}: {reason}", field)
    return [
        Turn("system" if message.role == "developer" else message.role, message.text)
        for message in messages
    ]


@contextmanager
def own_names(names: dict[str, str]) -> Iterator[None]:
    """Within it, an error names the client's field in place of ours."""
    try:
        yield
    except RequestError as error:
        error.field = names.get(error.field or "", error.field)
        raise


def _answer(
    service: Service,
    body: types.OpenAIRequest,
    prompts: list[list[int]],
    variants: "list[list[SamplingParams]]",
    writer: Writer[Answer],
) -> Answer | Response:
    """The answer to all prompts, or a stream of its parts."""
    if body.stream:
        if len(prompts) > 1:
            raise RequestError(400, "a stream answers one prompt", "prompt")
        return event_stream(service, body, prompts[0], variants[0], writer)
    queued = service.submit(prompts, variants, model=body.model)
    found = Wait(service, body.deadline_s, hung_up()).for_all(queued)
    answers = [completion for each in found for completion in each]
    prompt_tokens = sum(map(len, prompts))
    log_answer(log_fields(), service, prompt_tokens, answers, writer.prompt)
    return writer.whole(answers, usage_of(prompt_tokens, answers))


def encode_prompts(
    service: Service, body: types.CompletionRequest
) -> tuple[list[list[int]], list[int | None]]:
    """Ids of every prompt, and of each the first position to echo, or None.

    Token ids are used as they are. Text is encoded with the special tokens that it spells.
    The beginning-of-sequence token comes first, unless the text begins with it. What the client
    did not write is not echoed.

    Raises:
        RequestError: 400 or 413, too many prompts, an unknown id, or too long a prompt.
    """
    model, limit = service.loaded(), service.cfg.serve.max_waiting
    encoder = service.served(body.model).encoder
    bos = encoder.bos_ids
    if len(body.prompts) > limit:
        message = f"{len(body.prompts)} prompts; this server takes {limit} (serve.max_waiting)"
        raise RequestError(400, message, "prompt")
    encoded, echo_from = [], []
    for prompt in body.prompts:
        if isinstance(prompt, str):
            service.check_length([prompt], "prompt")
            own = encoder.raw_ids(prompt)
            ids = own if bos and own[: len(bos)] == bos else bos + own
        else:
            ids = own = prompt
            model.check_ids(ids, "prompt")
        ids = service.check_prompt(ids)
        encoded.append(ids)
        echo_from.append(len(ids) - len(own) if body.echo else None)
    return encoded, echo_from


def n_samples(params: "SamplingParams", n: int) -> list["SamplingParams"]:
    """Settings for n samples of one prompt; given a seed, each sample gets its own."""
    if params.seed is None:
        return [params] * n
    return [replace(params, seed=(params.seed + i) % 2**63) for i in range(n)]


def model(service: Service, id: str) -> types.Model:
    """A model, by its name."""
    loaded = service.loaded()
    engine, names = loaded.engine, [service.name, *loaded.adapters]
    if id not in names:
        known = ", ".join(names)
        raise RequestError(404, f"no model {id[:100]}; this server has {known}", "model")
    return types.Model(
        id=id,
        created=service.created,
        parent=service.name if id in loaded.adapters else None,
        max_model_len=engine.max_positions,
        route=engine.model.route.report(),
        merged_adapter=None if engine.drift is None else asdict(engine.drift),
    )


def models(service: Service) -> types.Models:
    """The models: a base model or a bundle, and the adapters beside it."""
    names = [service.name, *service.loaded().adapters]
    return types.Models(data=[model(service, name) for name in names])


def tokenizer_info(service: Service) -> types.TokenizerInfo:
    """Special tokens and chat template."""
    model = service.loaded()
    tokenizer = model.engine.tokenizer
    return types.TokenizerInfo(
        eos_token=tokenizer.eos_token,
        bos_token=tokenizer.decode(model.encoder.bos_ids) or None,
        pad_token=tokenizer.pad_token,
        chat_template=model.encoder.chat_template(),
    )


def detokenize(service: Service, body: DecodeRequest) -> DetokenizeResponse:
    """Token ids to text, special tokens kept."""
    model = service.loaded()
    model.check_ids(body.tokens, "tokens")
    text = model.engine.tokenizer.decode(body.tokens, clean_up_tokenization_spaces=False)
    return DetokenizeResponse(prompt=text)


OPENAI_ROUTES = [
    Route("/v1/completions", completions, event=types.CompletionResponse),
    Route("/v1/chat/completions", chat, event=types.ChatChunk),
    Route("/detokenize", detokenize),
    Route("/v1/models", models),
    Route("/v1/models/<path:id>", model),
    Route("/tokenizer_info", tokenizer_info),
]
