"""Routes, and the way from a request's bytes through a handler to the answer."""

import json
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar, get_args, get_type_hints

from flask import Flask, Response, g, request

from effchal.serving.fields import ApiModel
from effchal.serving.refusals import RequestError
from effchal.serving.service import Service

# Of each sign in a body. json and pydantic run without a pause, and other requests wait.
MOST_SIGNS = {b",": 300_000, b"[": 300_000, b"{": 300_000, b":": 100_000, b"\\": 1_000_000}
Body = TypeVar("Body", bound=ApiModel)
Handler = Callable[..., ApiModel | Response]


@dataclass(frozen=True)
class Route:
    """A route, for the app and for its OpenAPI document.

    Its handler takes the service and, for a POST, the parsed body. As with FastAPI, the types
    of body and answer are the handler's annotations, and the summary is its docstring.
    """

    path: str
    handler: Handler
    event: type[ApiModel] | None = None  # the data of each event, if body.stream is true

    @cached_property
    def body(self) -> type[ApiModel] | None:
        return get_type_hints(self.handler).get("body")

    @cached_property
    def answer(self) -> type[ApiModel] | None:
        hint = get_type_hints(self.handler)["return"]
        return next((kind for kind in get_args(hint) or [hint] if kind is not Response), None)

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or "").rstrip(".")


def add_routes(app: Flask, service: Service, routes: Sequence[Route]) -> None:
    for route in routes:
        view = partial(_answer, service, route)
        app.add_url_rule(route.path, endpoint=route.path, view_func=view, methods=[route.method])


def _answer(service: Service, route: Route, **path: str) -> Response:
    if route.body is None:
        answer = route.handler(service, **path)
    else:
        service.loaded()  # a client that comes too early gets 503, whatever its body
        answer = route.handler(service, parse(route.body))
    if isinstance(answer, Response):
        return answer
    return Response(answer.model_dump_json(), mimetype="application/json")


def parse(body_type: type[Body]) -> Body:
    """The request's body, whatever Content-Type it names: HELM's probe names none.

    Raises:
        RequestError: 400, not a JSON object; 413, too many values.
        RecursionError: nested too deeply.
        pydantic.ValidationError: a wrong key.
    """
    try:
        data = request.get_data()
    except OSError as error:  # gunicorn's, of chunks that cannot be read
        raise RequestError(400, f"the body cannot be read: {error!r}", "body") from error
    for sign, most in MOST_SIGNS.items():
        if data.count(sign) > most:
            raise RequestError(413, f"the body has more than {most} of {sign.decode()!r}", "body")
    try:
        body = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the body is no JSON: {error}", "body") from error
    except ValueError as error:  # Python's own limit, which the worker lowers
        raise RequestError(400, "the body has an integer of too many digits", "body") from error
    if not isinstance(body, dict):
        raise RequestError(400, "the body must be a JSON object", "body")
    return body_type.model_validate(body)


def elapsed_s() -> float:
    """Seconds since this request came in."""
    return time.perf_counter() - g.start


def hung_up() -> Callable[[], bool]:
    """A function for any thread: has this request's client closed its connection?"""
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is None:  # another server; it has no socket to show
        return lambda: False

    def closed() -> bool:
        try:
            poller = select.poll()  # select takes no descriptor above 1,023
            poller.register(connection, select.POLLIN)
            return bool(poller.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):  # reset, or closed on our side
            return True

    return closed
