"""HTTP server for HELM's client, lm-eval and OpenAI clients.

EFFCHAL_BUNDLE=outputs/train/<run>/bundle gunicorn --threads 80 'effchal.serve:create_app()'

This file: the app, HELM's routes POST /process, /tokenize, /decode, and GET /health, /ready, /metrics, /openapi.json.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask, Response, jsonify

from effchal.cli import compose_config
from effchal.config import Config, ConfigError
from effchal.model_source import check_model_source, inference_config, load_engine
from effchal.prompts import Turn
from effchal.serving.access import guard, note, register_errors, told
from effchal.serving.helm_types import (
    DecodeRequest,
    DecodeResponse,
    ProcessRequest,
    ProcessResponse,
    Token,
    TokenizeRequest,
    TokenizeResponse,
)
from effchal.serving.openai import openai_routes
from effchal.serving.openapi import openapi_document
from effchal.serving.request import hung_up, parse, reply
from effchal.serving.service import RequestError, Service

BODY_LIMIT_BYTES = 8 << 20
log = logging.getLogger(__name__)


def make_app(service: Service) -> Flask:
    app = Flask("effchal")
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT_BYTES
    guard(app, service)
    register_errors(app)
    app.register_blueprint(openai_routes(service))

    @app.post("/process")
    def process():
        start = time.perf_counter()
        service.require_ready()
        body = parse(ProcessRequest)
        encoder = service.encoder
        if body.echo_prompt:  # a whole text to score: no template
            ids = encoder.bos_ids + encoder.text_ids(body.prompt)
        else:
            ids = encoder.prompt_ids([Turn("user", body.prompt)])
        ids = service.check_prompt(ids)
        # The beginning-of-sequence token is no part of the client's text.
        echo_from = len(encoder.bos_ids) if body.echo_prompt and body.prompt else None
        stops, alternatives = body.stop_sequences, body.top_k_per_token
        params = service.sampling_params(
            body, body.max_new_tokens, stops, alternatives, echo_from, "max_new_tokens"
        )
        ((completion,),) = service.wait(service.submit([ids], [params]), body.deadline_s, hung_up())
        tokens = [
            Token(
                text=t.text,
                logprob=t.logprob,
                base_logprob=t.base_logprob,
                top_logprob=t.top_logprobs,
            )
            for t in completion.tokens
        ]
        note(told(), service, len(ids), [completion], body.prompt)
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
        if (body.text is None) == (body.prompt is None):
            raise RequestError(400, "give text, or prompt", "text")
        encoder = service.encoder
        ids = encoder.text_ids(body.text) if body.prompt is None else encoder.raw_ids(body.prompt)
        if body.add_special_tokens:
            ids = encoder.bos_ids + ids
        if body.truncation and body.max_length is not None:
            ids = ids[: body.max_length]
        longest = service.engine.max_positions
        seconds = time.perf_counter() - start
        return reply(
            TokenizeResponse(
                tokens=ids, count=len(ids), max_model_len=longest, request_time=seconds
            )
        )

    @app.post("/decode")
    def decode():
        start = time.perf_counter()
        service.require_ready()
        ids = parse(DecodeRequest).tokens
        service.check_ids(ids, "tokens")
        text = service.engine.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return reply(DecodeResponse(text=text, request_time=time.perf_counter() - start))

    @app.get("/health")
    def health():
        return jsonify(status="ok")

    @app.get("/ready")
    def ready():
        service.require_ready()
        return jsonify(status="ready")

    @app.get("/metrics")
    def metrics():
        return Response(service.metrics.text(), mimetype="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json")
    def openapi():
        return jsonify(openapi_document())

    return app


def start_app(cfg: Config, on_failure: Callable[[], None]) -> Flask:
    """The app at once, the model in the background: /health answers while /ready still says 503."""
    service = Service(cfg, name_of(cfg))

    def load() -> None:
        from effchal.decoding.layers import contrast_of

        try:
            start = time.perf_counter()
            subject = check_model_source(cfg)
            contrast_of(
                cfg.decoding, subject.shape.num_layers, subject.shape.tied
            )  # before weights are read
            service.set_ready(load_engine(subject))
            log.info("ready after %.1f s", time.perf_counter() - start)
        except Exception as error:
            log.critical("cannot load the model: %s", error)
            on_failure()

    threading.Thread(target=load, name="load", daemon=True).start()
    return make_app(service)


def name_of(cfg: Config) -> str:
    """What clients see as the model's name: the run's, or the base model's."""
    return cfg.name if cfg.bundle is not None else Path(cfg.model.name).name


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
