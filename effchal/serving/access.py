"""Around every route: who may ask, what is counted and logged, and how errors look."""

import hmac
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flask import Flask, Response, g, jsonify, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from effchal.serving.helm_types import Error, ErrorResponse
from effchal.serving.service import RETRY_AFTER_S, ClientGone, RequestError, Service

if TYPE_CHECKING:
    from effchal.decoding.sequence import Completion

OPEN = {"/health", "/ready"}  # asked by whoever starts containers
CLOSED_BY_CLIENT = 499  # nginx's number
log = logging.getLogger(__name__)
access_log = logging.getLogger("effchal.access")


def guard(app: Flask, service: Service) -> None:
    """Check the bearer token of EFFCHAL_TOKEN, if it is set; count and log each request when its answer is out."""
    token = os.environ.get("EFFCHAL_TOKEN", "")
    if not access_log.handlers:
        access_log.addHandler(logging.StreamHandler(sys.stdout))
        access_log.setLevel(logging.INFO)
        access_log.propagate = False

    @app.before_request
    def check_token():
        g.start = time.perf_counter()
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if (
            token
            and request.path not in OPEN
            and not hmac.compare_digest(given.encode(), token.encode())
        ):
            raise RequestError(
                401, "this server wants Authorization: Bearer <token>", "Authorization"
            )

    @app.after_request
    def count_and_log(response: Response) -> Response:
        # A route's pattern, not its path: a scanner must not fill the metrics with names of its own.
        path = request.url_rule.rule if request.url_rule else "other"
        head = {
            "path": path,
            "method": request.method,
            "status": response.status_code,
            "client": request.remote_addr,
        }
        start, what = g.get("start", time.perf_counter()), told()

        def finish() -> None:
            seconds = time.perf_counter() - start
            service.metrics.requests.labels(path, str(response.status_code)).inc()
            service.metrics.request_s.labels(path).observe(seconds)
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            access_log.info(json.dumps({"time": now, **head, "seconds": round(seconds, 4), **what}))

        response.call_on_close(finish)
        return response


def told() -> dict:
    """What the access log will say of this request beside the usual; a route that streams goes on writing into it."""
    return g.setdefault("told", {})


def note(
    what: dict,
    service: Service,
    prompt_tokens: int,
    completions: "Sequence[Completion]",
    prompt: object,
) -> None:
    """Tell the access log of an answer, by `told()`; text only where serve.log_prompts=true."""
    what["prompt_tokens"] = prompt_tokens
    what["new_tokens"] = sum(len(completion.ids) for completion in completions)
    what["finish_reasons"] = [completion.finish_reason for completion in completions]
    if service.cfg.serve.log_prompts:
        what["prompt"], what["answers"] = prompt, [completion.text for completion in completions]


def error_of(error: Exception) -> tuple[ErrorResponse, int, dict[str, str]]:
    """Body, status and headers for an error; only our own faults are 500."""
    field, headers = None, {}
    match error:
        case RequestError():
            status, message, field = error.status, error.message, error.field
        case ClientGone():
            status, message = CLOSED_BY_CLIENT, "the client closed the connection"
        case ValidationError():
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "body"
            status, message = 400, f"{field}: {first['msg']}"
        case HTTPException():
            headers = {
                name: value for name, value in error.get_headers() if name != "Content-Type"
            }  # Allow of a 405
            status, message = error.code, error.description or error.name
        case _:
            log.error("request failed", exc_info=error)
            status, message = 500, f"internal error: {type(error).__name__}"
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return ErrorResponse(error=Error(message=message, field=field, type=kind)), status, headers


def register_errors(app: Flask) -> None:
    """Every error is JSON."""

    @app.errorhandler(Exception)
    def refused(error: Exception):
        body, status, headers = error_of(error)
        return jsonify(body.model_dump()), status, headers
