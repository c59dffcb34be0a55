"""HELM's routes: POST /process, /tokenize, /decode."""

from effchal.prompts.encoder import Turn
from effchal.serving import helm_types as types
from effchal.serving.access import log_answer, log_fields
from effchal.serving.refusals import RequestError
from effchal.serving.routes import Route, elapsed_s, hung_up
from effchal.serving.service import LONGEST_TEXT, Service
from effchal.serving.waiting import Wait


def process(service: Service, body: types.ProcessRequest) -> types.ProcessResponse:
    """Answer a prompt in the template, for HELM."""
    encoder = service.served(body.model).encoder
    service.check_length([body.prompt], "prompt")
    if body.echo_prompt:  # a whole text to score: no template
        ids = service.check_prompt(encoder.bos_ids + encoder.text_ids(body.prompt))
    else:
        ids = service.prompt_ids([Turn("user", body.prompt)], body.model)
    params = service.sampling_params(
        body,
        body.max_new_tokens,
        body.stop_sequences,
        alternatives=body.top_k_per_token,
        # The beginning-of-sequence token is not part of the client's text.
        echo_from=len(encoder.bos_ids) if body.echo_prompt and body.prompt else None,
    )
    queued = service.submit([ids], [[params]], model=body.model)
    ((completion,),) = Wait(service, body.deadline_s, hung_up()).for_all(queued)
    # Without the end token: HELM's own clients cut it off, too, and out of the sum.
    tokens = [
        types.Token(
            text=t.text, logprob=t.logprob, base_logprob=t.base_logprob, top_logprob=t.top_logprobs
        )
        for t in completion.tokens
    ]
    log_answer(log_fields(), service, len(ids), [completion], body.prompt)
    return types.ProcessResponse(
        text=completion.text,
        tokens=tokens,
        logprob=sum(token.logprob for token in tokens),
        request_time=elapsed_s(),
    )


def tokenize(service: Service, body: types.TokenizeRequest) -> types.TokenizeResponse:
    """Text to token ids."""
    model = service.loaded()
    texts = body.model_dump(include=set(types.TOKENIZE_NAMES), exclude_none=True)
    if len(texts) != 1:
        given = " and ".join(texts) or "none of them"
        message = f"give one of {', '.join(types.TOKENIZE_NAMES)}; this body has {given}"
        raise RequestError(400, message, next(iter(texts), "text"))
    ((field, text),) = texts.items()
    if len(text) > LONGEST_TEXT:
        raise RequestError(413, f"{field} has more than {LONGEST_TEXT} characters", field)
    ids = model.encoder.raw_ids(text) if field == "prompt" else model.encoder.text_ids(text)
    if body.add_special_tokens:
        ids = model.encoder.bos_ids + ids
    if body.truncation and body.max_length is not None:
        ids = ids[: body.max_length]
    return types.TokenizeResponse(
        tokens=ids,
        count=len(ids),
        max_model_len=model.engine.max_positions,
        request_time=elapsed_s(),
    )


def decode(service: Service, body: types.DecodeRequest) -> types.DecodeResponse:
    """Token ids to text, special tokens skipped."""
    model = service.loaded()
    model.check_ids(body.tokens, "tokens")
    text = model.engine.tokenizer.decode(
        body.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return types.DecodeResponse(text=text, request_time=elapsed_s())


HELM_ROUTES = [Route("/process", process), Route("/tokenize", tokenize), Route("/decode", decode)]
