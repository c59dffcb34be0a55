"""GET /openapi.json: the routes and the types of their bodies and answers."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from effchal import __version__
from effchal.serving.helm_types import ErrorResponse
from effchal.serving.routes import Route

REFUSALS = {
    "400": "The request is wrong: message and field",
    "401": "No or a wrong bearer token",
    "404": "There is no such thing",
    "408": "Not all of the request came in time",
    "413": "Too long",
    "503": "Loading, or too many wait; Retry-After says when to ask again",
    "504": "No answer within the deadline",
}
REFUSALS_OF_GET = ("401", "503")
REFUSALS_OF_POST = ("400", "401", "408", "413", "503", "504")
PATH_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")  # as Flask spells it
Mode = Literal["validation", "serialization"]


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1, made from the routes' own types."""
    types: list[tuple[type[BaseModel], Mode]] = [(ErrorResponse, "serialization")]
    for route in routes:
        types += [(route.body, "validation")] if route.body else []
        types += [(each, "serialization") for each in (route.answer, route.event) if each]
    refs, schemas = models_json_schema(types, ref_template="#/components/schemas/{model}")

    def content(api_type: type[BaseModel], mode: Mode = "serialization") -> dict[str, Any]:
        return {"content": {"application/json": {"schema": refs[api_type, mode]}}}

    refusals = {
        status: {"description": why, **content(ErrorResponse)} for status, why in REFUSALS.items()
    }
    paths: dict[str, Any] = {}
    for route in routes:
        answer: dict[str, Any] = {"description": "The answer"}
        if route.answer:
            answer |= content(route.answer)
        if route.event:
            data = [refs[route.event, "serialization"], refs[ErrorResponse, "serialization"]]
            answer["content"]["text/event-stream"] = {"schema": _event_schema(data)}
        operation: dict[str, Any] = {"summary": route.summary}
        if route.body:
            operation["requestBody"] = {"required": True, **content(route.body, "validation")}
        statuses = REFUSALS_OF_POST if route.body else REFUSALS_OF_GET
        operation["responses"] = {"200": answer} | {each: refusals[each] for each in statuses}
        if names := PATH_PARAMETER.findall(route.path):
            string = {"type": "string"}
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": string} for name in names
            ]
            operation["responses"]["404"] = refusals["404"]
        path = PATH_PARAMETER.sub(r"{\1}", route.path)
        paths[path] = {route.method.lower(): operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "effchal", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _event_schema(data: list[Any]) -> dict[str, Any]:
    """Schema of one server-sent event: JSON of one of the types, or [DONE]."""
    event = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": data},
    }
    properties = {"data": {"anyOf": [event, {"const": "[DONE]"}]}}
    return {"type": "object", "required": ["data"], "properties": properties}
