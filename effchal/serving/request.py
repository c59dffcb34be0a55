"""From a request to a wire type, from a wire type to an answer, and whether someone still listens."""

import select
import socket
from collections.abc import Callable
from typing import Any

from flask import jsonify, request
from pydantic import BaseModel

from effchal.serving.service import RequestError


def parse(wire_type: type[BaseModel]) -> Any:
    """The body as a wire type.

    Raises:
        RequestError: no JSON object.
        pydantic.ValidationError: a wrong key.
    """
    try:
        body = request.get_json(force=True, silent=True)
    except RecursionError:  # brackets nested by the thousand
        body = None
    if not isinstance(body, dict):
        raise RequestError(400, "the body must be a JSON object", "body")
    return wire_type.model_validate(body)


def reply(body: BaseModel):
    return jsonify(body.model_dump())


def hung_up() -> Callable[[], bool]:
    """A question for another thread's or a later moment: has this request's client closed its connection?"""
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is None:  # another server, which has its own way
        return lambda: False

    def closed() -> bool:
        try:
            readable, _, _ = select.select([connection], [], [], 0)
            return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):  # reset, or closed on our side
            return True

    return closed
