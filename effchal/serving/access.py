"""Around every route: the bearer token, the request counters, the access log, JSON errors."""

import hmac
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, jsonify, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from effchal.config import ConfigError
from effchal.model.adapter_names import AdapterGone
from effchal.serving.fields import first_error
from effchal.serving.helm_types import ErrorResponse
from effchal.serving.refusals import ClientGone, RequestError, error_answer
from effchal.serving.service import Service

if TYPE_CHECKING:
    from effchal.decoding.sequence import Completion

NO_TOKEN_NEEDED = {"/health", "/ready"}  # container managers ask for them, every few seconds
TOKEN = "EFFCHAL_TOKEN"
PREFLIGHT_S = "600"  # a browser asks again after this time
CLOSED_BY_CLIENT = 499  # nginx's number
log = logging.getLogger(__name__)
access_log = logging.getLogger("effchal.access")


def bearer_token() -> bytes:
    """What EFFCHAL_TOKEN holds; empty: no token is asked for.

    Raises:
        ConfigError: it has white space around it, a control character, or is not UTF-8.
    """
    token = os.environ.get(TOKEN, "")
    if token != token.strip() or not token.isprintable():
        raise ConfigError(
            f"{TOKEN} is not plain UTF-8 text: white space or a control character, perhaps from "
            "a file; "
            f'set {TOKEN}="$(cat <file>)"'
        )
    return token.encode()


def wants_page() -> bool:
    """Whether this request is a browser's that opens the page. No header is set by hand there, so
    the page itself needs no token."""
    kinds = request.accept_mimetypes
    is_named = any(kind == "text/html" and quality > 0 for kind, quality in kinds)
    return request.path == "/" and request.method in ("GET", "HEAD") and is_named


def given_token(header: str) -> bytes:
    """The token of an Authorization header; empty: none. WSGI gives its bytes as latin-1."""
    scheme, _, token = header.partition(" ")
    return token.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""


def guard(app: Flask, service: Service) -> None:
    """Check the bearer token of EFFCHAL_TOKEN, if set; count and log each finished request."""
    token = bearer_token()
    if not access_log.handlers:
        access_log.addHandler(logging.StreamHandler(sys.stdout))
        access_log.setLevel(logging.INFO)
        access_log.propagate = False

    @app.before_request
    def check_token() -> None:
        g.start = time.perf_counter()
        # A browser asks what it may send, before it sends the token.
        if not token or request.path in NO_TOKEN_NEEDED or request.method == "OPTIONS":
            return
        if wants_page():
            return
        given = given_token(request.headers.get("Authorization", ""))
        if not hmac.compare_digest(given, token):
            message = "this server wants Authorization: Bearer <token>"
            raise RequestError(401, message, "Authorization")

    @app.after_request
    def count_and_log(response: Response) -> Response:
        # The route's pattern, not the path: a scanner must not fill the metrics with names.
        path = request.url_rule.rule if request.url_rule else "other"
        head = {
            "path": path,
            "method": request.method,
            "status": response.status_code,
            "client": request.remote_addr,
        }
        start, fields = g.get("start", time.perf_counter()), log_fields()

        def finish() -> None:
            seconds = time.perf_counter() - start
            service.metrics.requests.labels(path, str(response.status_code)).inc()
            service.metrics.request_s.labels(path).observe(seconds)
            if path in NO_TOKEN_NEEDED:  # polls would bury the requests
                return
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            line = {"time": now, **head, "seconds": round(seconds, 4), **fields}
            access_log.info(json.dumps(line))

        response.call_on_close(finish)
        allow_origin(response, service.cfg.serve.cors_origins)
        return response


def allow_origin(response: Response, origins: Iterable[str]) -> None:
    """Tell a browser that pages of these origins may read the answer (CORS)."""
    origin = request.headers.get("Origin")
    if origin is None or not {"*", origin} & set(origins):
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    response.vary.add("Origin")
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        response.headers["Access-Control-Max-Age"] = PREFLIGHT_S


def log_fields() -> dict[str, Any]:
    """This request's own fields in the access log. A stream adds to them until it ends."""
    return g.setdefault("log_fields", {})


def log_answer(
    fields: dict[str, Any],
    service: Service,
    prompt_tokens: int,
    completions: "Sequence[Completion]",
    prompt: object,
) -> None:
    """Add an answer to the access log's `fields`; its text only if serve.log_prompts=true."""
    fields["prompt_tokens"] = prompt_tokens
    fields["new_tokens"] = sum(len(completion.ids) for completion in completions)
    fields["finish_reasons"] = [completion.finish_reason for completion in completions]
    if service.cfg.serve.log_prompts:
        fields["prompt"] = prompt
        fields["answers"] = [completion.text for completion in completions]


def error_of(error: Exception) -> tuple[ErrorResponse, int, dict[str, str]]:
    """Body, status and headers for an error."""
    field, allowed, status = None, {}, 500
    match error:
        case RequestError():
            status, message, field = error.status, error.message, error.field
        case ClientGone():
            status, message = CLOSED_BY_CLIENT, "the client closed the connection"
        case AdapterGone():
            status, message, field = 404, str(error), "model"
        case ValidationError():
            status, (field, message) = 400, first_error(error)
        case RecursionError():
            status, message, field = 400, "the body is nested too deeply", "body"
        case HTTPException(code=int(code)):
            status, message = code, error.description or error.name
            # Such as Allow of a 405.
            allowed = {name: text for name, text in error.get_headers() if name != "Content-Type"}
        case _:
            log.error("request failed", exc_info=error)
            message = f"internal error: {type(error).__name__}"
    body, headers = error_answer(status, message, field)
    return body, status, allowed | headers


def register_errors(app: Flask) -> None:
    """Answer every error as JSON."""

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> tuple[Response, int, dict[str, str]]:
        body, status, headers = error_of(error)
        return jsonify(body.model_dump()), status, headers
