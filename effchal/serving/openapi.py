"""GET /openapi.json: the routes and their wire types."""

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import effchal.serving.helm_types as protocol
import effchal.serving.openai_types as openai_types
from effchal import __version__

ANSWERS: dict[str, tuple[type[BaseModel], type[BaseModel], str]] = {
    "/process": (
        protocol.ProcessRequest,
        protocol.ProcessResponse,
        "HELM: answer a prompt in the template",
    ),
    "/tokenize": (protocol.TokenizeRequest, protocol.TokenizeResponse, "Text to token ids"),
    "/decode": (
        protocol.DecodeRequest,
        protocol.DecodeResponse,
        "HELM: token ids to text, special tokens skipped",
    ),
    "/detokenize": (
        protocol.DecodeRequest,
        protocol.DetokenizeResponse,
        "Token ids to text, special tokens kept",
    ),
    "/v1/completions": (
        openai_types.CompletionRequest,
        openai_types.CompletionResponse,
        "Continue prompts",
    ),
    "/v1/chat/completions": (
        openai_types.ChatRequest,
        openai_types.ChatResponse,
        "Answer a conversation",
    ),
}
STREAMED: dict[str, type[BaseModel]] = {  # what an event's data is, where stream is true
    "/v1/completions": openai_types.CompletionResponse,
    "/v1/chat/completions": openai_types.ChatChunk,
}
TOLD: dict[str, tuple[type[BaseModel] | None, str]] = {
    "/v1/models": (openai_types.Models, "The one model"),
    "/tokenizer_info": (openai_types.TokenizerInfo, "Special tokens and chat template"),
    "/health": (None, "The process lives"),
    "/ready": (None, "The model answers"),
    "/metrics": (None, "Prometheus text"),
    "/openapi.json": (None, "This document"),
}
REFUSALS = {
    "400": "The request is wrong: message and field",
    "401": "No or a wrong bearer token",
    "413": "Too long",
    "503": "Loading, or too many wait; Retry-After says when to ask again",
    "504": "No answer within the deadline",
}


def openapi_document() -> dict:
    """OpenAPI 3.1, made from the wire types."""
    asked = [(request, "validation") for request, _, _ in ANSWERS.values()]
    given = [(response, "serialization") for _, response, _ in ANSWERS.values()]
    given += [(response, "serialization") for response, _ in TOLD.values() if response]
    given += [(event, "serialization") for event in STREAMED.values()]
    error = (protocol.ErrorResponse, "serialization")
    refs, schemas = models_json_schema(
        [*asked, *given, error], ref_template="#/components/schemas/{model}"
    )

    def content(wire_type: type[BaseModel], mode: str) -> dict:
        return {"content": {"application/json": {"schema": refs[wire_type, mode]}}}

    refusals = {status: {"description": why, **content(*error)} for status, why in REFUSALS.items()}
    paths: dict[str, dict] = {}
    for path, (request, response, summary) in ANSWERS.items():
        answer = {"200": {"description": "The answer", **content(response, "serialization")}}
        if path in STREAMED:
            event = {"type": "string", "contentMediaType": "application/json"}
            event["contentSchema"] = {"anyOf": [refs[STREAMED[path], "serialization"], refs[error]]}
            data = {"anyOf": [event, {"const": "[DONE]"}]}
            schema = {"type": "object", "required": ["data"], "properties": {"data": data}}
            answer["200"]["content"]["text/event-stream"] = {"schema": schema}  # of each event
        body = {"required": True, **content(request, "validation")}
        paths[path] = {
            "post": {"summary": summary, "requestBody": body, "responses": answer | refusals}
        }
    for path, (response, summary) in TOLD.items():
        body = content(response, "serialization") if response else {}
        answer = {"200": {"description": "The answer", **body}}
        some = {status: refusals[status] for status in ("401", "503")}
        paths[path] = {"get": {"summary": summary, "responses": answer | some}}
    info = {"title": "effchal", "version": __version__}
    components = {"schemas": schemas["$defs"]}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}
