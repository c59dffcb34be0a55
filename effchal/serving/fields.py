"""Bodies of requests: null is as left out, and an error names the client's own field."""

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

# What OpenAI's routes and HELM's route call the same thing.
TO_HELM = {
    "max_tokens": "max_new_tokens",
    "stop": "stop_sequences",
    "n": "num_return_sequences",
    "echo": "echo_prompt",
    "logprobs": "top_k_per_token",
}
OTHER_NAMES = TO_HELM | {helm: openai for openai, helm in TO_HELM.items()}
OTHER_NAMES["max_completion_tokens"] = "max_new_tokens"
LONGEST_NAME = 60  # characters of an unknown key that an error repeats


class ApiModel(BaseModel):
    """A body or an answer. Types are not converted: "5" is no number."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ApiRequest(ApiModel):
    """A body. An explicit null means the default."""

    @classmethod
    def refuses(cls, key: str) -> bool:
        """Whether a key that is no field is refused rather than ignored."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, body: Any) -> Any:
        """Drop nulls and what is ignored. Of what is refused one is kept: a million keys would be
        a million errors."""
        if not isinstance(body, dict):
            return body
        known = cls.model_fields
        given = {key: body[key] for key in known if body.get(key) is not None}
        unknown = (key for key, value in body.items() if key not in known and value is not None)
        refused = next((key for key in unknown if cls.refuses(key)), None)
        if refused is None:
            return given
        other = OTHER_NAMES.get(refused)
        # JSON can spell half a surrogate pair, which no answer can carry.
        name = refused[:LONGEST_NAME].encode("utf-8", "replace").decode()
        return given | {name: other if other in known else None}  # for first_error

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema says what `_leave_out` does: null for a key, and keys that are no fields."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema.pop("additionalProperties", None)
        for name, kind in schema["properties"].items():
            nullable = {"type": "null"} in kind.get("anyOf", ())
            if name not in schema.get("required", ()) and not nullable:
                shown = {key: kind.pop(key) for key in ("title", "default") if key in kind}
                schema["properties"][name] = {"anyOf": [kind, {"type": "null"}], **shown}
        return schema


def first_error(error: ValidationError) -> tuple[str, str]:
    """Field and message of the first error, the field as the client spells it."""
    first = error.errors(include_url=False, include_context=False)[0]
    # A name in <> is a choice between types, see openai_types.
    names = [str(part) for part in first["loc"]]
    field = ".".join(name for name in names if not name.startswith("<")) or "body"
    if first["type"] != "extra_forbidden":
        return field, f"{field}: {first['msg'].removeprefix('Value error, ')}"
    hint = f"it is called {first['input']} here" if first["input"] else "leave it out"
    return field, f"{field}: this route has no such key; {hint}"
