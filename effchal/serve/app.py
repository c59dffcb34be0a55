"""HTTP server for HELM's client: POST /process, /tokenize, /decode; GET /health, /ready.

EFFCHAL_BUNDLE=outputs/train/<run>/bundle gunicorn --threads 80 'effchal.serve:create_app()'
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Flask, jsonify, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException

from effchal.choices import DecodingMethod
from effchal.cli import compose_config
from effchal.config import Config, ConfigError, DecodingConfig
from effchal.inference import check_subject, inference_config, load_engine
from effchal.prompts import PromptEncoder, Turn
from effchal.serve.protocol import (
    DecodeRequest,
    DecodeResponse,
    ProcessRequest,
    ProcessResponse,
    Token,
    TokenizeRequest,
    TokenizeResponse,
    error_body,
)

if TYPE_CHECKING:  # torch comes with it, and the master process should stay small and fork cleanly
    from effchal.decode.branch import Completion
    from effchal.decode.engine import Engine
    from effchal.decode.layers import Contrast
    from effchal.decode.sampling import SamplingParams

BODY_LIMIT_BYTES = 8 << 20
log = logging.getLogger(__name__)


class RequestError(Exception):
    """The client's fault, or a full house: status, message, and the field to change."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field


class Service:
    """The loaded model behind the routes; None of it is there until `engine` is set."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.engine: Engine | None = None
        self.encoder: PromptEncoder | None = None
        self.contrast: Contrast = None
        self._one_at_a_time = threading.Lock()
        self._room = threading.BoundedSemaphore(cfg.serve.max_waiting)

    def set_ready(self, engine: "Engine", contrast: "Contrast" = None) -> None:
        self.contrast = contrast
        self.encoder = PromptEncoder(engine.tokenizer, self.cfg.prompt)
        self.engine = engine

    def require_ready(self) -> None:
        if self.engine is None:
            raise RequestError(503, "the model is still loading; GET /ready tells when it answers")

    def complete(self, prompt_ids: list[int], params: "SamplingParams") -> "Completion":
        """Wait for the engine, but not in an endless queue."""
        if not self._room.acquire(blocking=False):
            raise RequestError(503, f"{self.cfg.serve.max_waiting} requests are waiting (serve.max_waiting); try again")
        try:
            with self._one_at_a_time:
                return self.engine.complete(prompt_ids, params)
        finally:
            self._room.release()


def make_app(service: Service) -> Flask:
    app = Flask("effchal")
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT_BYTES

    @app.post("/process")
    def process():
        start = time.perf_counter()
        service.require_ready()
        body = parse(ProcessRequest)
        prompt_ids, params = encode_prompt(service, body), sampling_params(body, service)
        check_fits(len(prompt_ids), params.max_new_tokens, service.engine.max_positions)
        completion = service.complete(prompt_ids, params)
        tokens = [
            Token(text=t.text, logprob=t.logprob, plain_logprob=t.plain_logprob, top_logprob=t.top_logprobs)
            for t in completion.tokens
        ]
        return reply(
            ProcessResponse(
                text=completion.text,
                tokens=tokens,
                logprob=sum(token.logprob for token in tokens),
                request_time=time.perf_counter() - start,
            )
        )

    @app.post("/tokenize")
    def tokenize():
        start = time.perf_counter()
        service.require_ready()
        body = parse(TokenizeRequest)
        ids = service.encoder.text_ids(body.text)
        if body.truncation and body.max_length is not None:
            ids = ids[: body.max_length]
        return reply(TokenizeResponse(tokens=ids, request_time=time.perf_counter() - start))

    @app.post("/decode")
    def decode():
        start = time.perf_counter()
        service.require_ready()
        ids = parse(DecodeRequest).tokens
        vocabulary = len(service.engine.tokenizer)
        bad = next((i for i in ids if i >= vocabulary), None)
        if bad is not None:
            raise RequestError(400, f"token {bad} is not in the vocabulary of {vocabulary}", "tokens")
        text = service.engine.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return reply(DecodeResponse(text=text, request_time=time.perf_counter() - start))

    @app.get("/health")
    def health():
        return jsonify(status="ok")

    @app.get("/ready")
    def ready():
        service.require_ready()
        return jsonify(status="ready")

    register_errors(app)
    return app


def parse(wire_type: type[BaseModel]) -> Any:
    try:
        body = request.get_json(force=True, silent=True)
    except RecursionError:  # brackets nested by the thousand
        body = None
    if not isinstance(body, dict):
        raise RequestError(400, "the body must be a JSON object", "body")
    return wire_type.model_validate(body)


def reply(body: BaseModel):
    return jsonify(body.model_dump())


def encode_prompt(service: Service, body: ProcessRequest) -> list[int]:
    """Prompt ids in the bundle's template; an echoed prompt is taken as it is, being a whole text to score."""
    encoder = service.encoder
    if body.echo_prompt:
        ids = encoder.bos_ids + encoder.text_ids(body.prompt)
    else:
        ids = encoder.prompt_ids([Turn("user", body.prompt)])
    limit = service.cfg.serve.max_prompt_tokens
    if len(ids) > limit:
        message = f"the prompt has {len(ids)} tokens; this server takes {limit} (serve.max_prompt_tokens)"
        raise RequestError(413, message, "prompt")
    return ids or [encoder.eos_id]


def sampling_params(body: ProcessRequest, service: Service) -> "SamplingParams":
    """What the request says, and decoding.* of the bundle where it says nothing."""
    from effchal.decode.sampling import SamplingParams

    cfg = service.cfg
    default: DecodingConfig = cfg.decoding
    usual = min(default.max_new_tokens, cfg.serve.max_new_tokens)
    max_new_tokens = usual if body.max_new_tokens is None else body.max_new_tokens
    if max_new_tokens > cfg.serve.max_new_tokens:
        message = f"{max_new_tokens} is above this server's limit of {cfg.serve.max_new_tokens} (serve.max_new_tokens)"
        raise RequestError(400, message, "max_new_tokens")
    usual_temperature = default.temperature if default.method is DecodingMethod.sample else 0.0
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        temperature=usual_temperature if body.temperature is None else body.temperature,
        top_p=default.top_p if body.top_p is None else body.top_p,
        top_k=body.top_k,
        stops=tuple(stop for stop in body.stop_sequences if stop),
        alternatives=body.top_k_per_token,
        # The beginning-of-sequence token is no part of the client's text.
        echo_from=len(service.encoder.bos_ids) if body.echo_prompt and body.prompt else None,
        seed=body.seed,
        contrast=service.contrast,
        contrast_prompt=default.contrast_prompt,
        repetition_penalty=default.repetition_penalty,
    )


def check_fits(prompt_tokens: int, max_new_tokens: int, max_positions: int) -> None:
    """Past its last trained position a model answers with nonsense, not with an error."""
    if prompt_tokens + max_new_tokens > max_positions:
        message = f"{prompt_tokens} prompt tokens and {max_new_tokens} new ones; this model holds {max_positions}"
        raise RequestError(413, message, "max_new_tokens")


def register_errors(app: Flask) -> None:
    """Every error is JSON; only our own faults are 500."""

    @app.errorhandler(RequestError)
    def refused(error: RequestError):
        headers = {"Retry-After": "10"} if error.status == 503 else {}
        return jsonify(error_body(error.message, error.field)), error.status, headers

    @app.errorhandler(ValidationError)
    def bad_request(error: ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        return jsonify(error_body(f"{field}: {first['msg']}", field)), 400

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException):
        return jsonify(error_body(error.description or error.name)), error.code

    @app.errorhandler(Exception)
    def our_fault(error: Exception):
        log.exception("request failed")
        return jsonify(error_body(f"internal error: {type(error).__name__}")), 500


def start_app(cfg: Config, on_failure: Callable[[], None]) -> Flask:
    """The app at once, the model in the background: /health answers while /ready still says 503."""
    service = Service(cfg)

    def load() -> None:
        from effchal.decode.layers import contrast_of

        try:
            start = time.perf_counter()
            subject = check_subject(cfg)
            contrast = contrast_of(cfg.decoding, subject.shape.num_layers, subject.shape.tied)
            service.set_ready(load_engine(subject), contrast)
            log.info("ready after %.1f s", time.perf_counter() - start)
        except Exception as error:
            log.critical("cannot load the model: %s", error)
            on_failure()

    threading.Thread(target=load, name="load", daemon=True).start()
    return make_app(service)


def create_app(*overrides: str) -> Flask:
    """For gunicorn: the bundle named by EFFCHAL_BUNDLE, e.g. create_app("decoding=sample").

    Raises:
        ConfigError: no bundle, or an override of what the bundle froze.
    """
    typed = list(overrides)
    if "EFFCHAL_BUNDLE" in os.environ:
        typed.append(f"bundle='{os.environ['EFFCHAL_BUNDLE']}'")
    elif "lora=none" not in typed:
        raise ConfigError("nothing to serve: set EFFCHAL_BUNDLE=<folder>")
    return start_app(inference_config(compose_config(typed), typed, {"serve"}), exit_worker)


def exit_worker() -> None:
    """End this worker so that gunicorn's master stops, too, rather than start another that fails alike."""
    from gunicorn.arbiter import Arbiter

    os._exit(Arbiter.APP_LOAD_ERROR)
