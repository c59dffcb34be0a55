"""HTTP server for HELM's client, lm-eval and OpenAI clients.

EFFCHAL_BUNDLE=outputs/train/<run> gunicorn -k effchal.serving.worker.Worker --threads 80 \\
    'effchal.serve:create_app()'

HELM's routes are in helm.py, OpenAI's in openai.py; here are the app and the routes for
whoever runs it: GET /health, /ready, /metrics, /openapi.json. The page at GET / is in page.py.
"""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask, Response, jsonify

from effchal.cli.arguments import quote
from effchal.cli.compose import compose_config
from effchal.config import Config, ConfigError
from effchal.model_source import check_mergeable, check_model_source, inference_config, load_engine
from effchal.serving.access import guard, register_errors
from effchal.serving.adapters import ADAPTER_ROUTES
from effchal.serving.helm import HELM_ROUTES
from effchal.serving.incoming import BODY_LIMIT_BYTES
from effchal.serving.openai import OPENAI_ROUTES
from effchal.serving.openapi import openapi_document
from effchal.serving.page import page
from effchal.serving.routes import Route, add_routes
from effchal.serving.service import Service
from effchal.serving.shared_base import base_config, check_adapters, check_name

log = logging.getLogger(__name__)


def health(service: Service) -> Response:
    """The process lives."""
    return jsonify(status="ok")


def ready(service: Service) -> Response:
    """The model answers."""
    service.loaded()
    return jsonify(status="ready")


def metrics(service: Service) -> Response:
    """Prometheus text."""
    return Response(service.metrics.text(), mimetype="text/plain; version=0.0.4; charset=utf-8")


def openapi(service: Service) -> Response:
    """This document."""
    return jsonify(openapi_document(ROUTES))


ROUTES = [
    *HELM_ROUTES,
    *OPENAI_ROUTES,
    *ADAPTER_ROUTES,
    Route("/", page),
    Route("/health", health),
    Route("/ready", ready),
    Route("/metrics", metrics),
    Route("/openapi.json", openapi),
]


def make_app(service: Service) -> Flask:
    app = Flask("effchal")
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT_BYTES
    app.extensions["metrics"] = service.metrics  # for gunicorn's worker
    guard(app, service)
    register_errors(app)
    add_routes(app, service, ROUTES)
    return app


def serving_config(cfg: Config, overrides: list[str]) -> Config:
    """The config of the model to load: a bundle, a base model, or the base model of adapters.

    Raises:
        ConfigError: no bundle, an override of what it froze, or adapters that cannot be named.
    """
    if not cfg.serve.adapters:
        return inference_config(cfg, overrides, {"serve"})
    base = base_config(cfg, overrides)
    for name in cfg.serve.adapters:
        check_name(name, model_name(base))
    return base


def start_app(cfg: Config, typed: list[str], on_failure: Callable[[], None]) -> Flask:
    """The app at once, the model in the background: /health answers while /ready still says 503.

    Args:
        cfg: `serving_config` of what was typed.
    """
    service = Service(cfg, model_name(cfg), typed)

    def load() -> None:
        from effchal.decoding.layers import contrast_of

        try:
            start = time.perf_counter()
            source = check_model_source(cfg)
            if cfg.serve.merge_adapter:
                check_mergeable(source)
            checked = check_adapters(cfg, source, typed)
            # Fails on wrong layers before the weights are read.
            contrast = contrast_of(cfg.decoding, source.shape.num_layers, source.shape.tied)
            engine = load_engine(source, cfg.serve.memory_gib, cfg.serve.merge_adapter)
            engine.model.check(contrast)
            service.base = source if source.bundle is None else None
            service.set_ready(engine, end_worker, checked)
            gc.collect()
            gc.freeze()  # what lives from now on to the end need not be looked through again
            log.info("ready after %.1f s", time.perf_counter() - start)
        except Exception as error:
            log.critical("cannot load the model: %s", error)
            on_failure()

    threading.Thread(target=load, name="load", daemon=True).start()
    return make_app(service)


def model_name(cfg: Config) -> str:
    """The model's name for clients: the run's, or the base model's."""
    return cfg.name if cfg.bundle is not None else Path(cfg.model.name).name


def create_app(*overrides: str) -> Flask:
    """The app for gunicorn, e.g. `create_app("decoding=sample")`.

    EFFCHAL_BUNDLE names the folder of a bundle or of a run.

    Raises:
        ConfigError: no bundle, or an override of what the bundle froze.
    """
    typed = list(overrides)
    if "EFFCHAL_BUNDLE" in os.environ:
        typed.append(f"bundle={quote(os.environ['EFFCHAL_BUNDLE'])}")
    elif "lora=none" not in typed and not any(word.startswith("serve.adapters") for word in typed):
        raise ConfigError("nothing to serve: set EFFCHAL_BUNDLE=<folder>")
    return start_app(serving_config(compose_config(typed), typed), typed, exit_worker)


def end_worker() -> None:
    """End this worker once its answers are out. gunicorn's master starts another one, whose
    process finds the GPU as new."""
    os.kill(os.getpid(), signal.SIGTERM)


def exit_worker() -> None:
    """End this worker so that gunicorn's master ends, too, instead of starting another one."""
    from gunicorn.arbiter import Arbiter

    os._exit(Arbiter.APP_LOAD_ERROR)
