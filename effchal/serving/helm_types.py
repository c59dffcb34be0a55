"""Bodies and answers of HELM's HTTPModelClient and HTTPModelTokenizer, as of HELM 0.5.16.

Source: helm/clients/http_model_client.py. lm-eval's client uses the tokenizer routes, too;
the other types are in openai_types.
"""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    computed_field,
    field_validator,
)

from effchal.serving.fields import OTHER_NAMES, ApiModel, ApiRequest


def _encodable(text: str) -> str:
    # JSON can spell half a surrogate pair, which is no character. encode raises a ValueError.
    text.encode("utf-8")
    return text


def _asks_for_nothing(value: Any) -> Any:
    if value:
        raise ValueError("not supported; leave it out")
    return value


Text = Annotated[str, AfterValidator(_encodable)]
Stop = Annotated[Text, Field(max_length=200)]
Stops = Annotated[list[Stop], Field(max_length=64)]
TokenId = Annotated[int, Field(ge=0)]
# A key of other servers. Its neutral value (0, false, empty) is taken, any other one refused.
NotSupported = Annotated[Any, AfterValidator(_asks_for_nothing)]


class SamplingRequest(ApiRequest):
    """The sampling settings that every route takes. Where one is None, decoding.* counts."""

    # Of a server with several adapters; one with a single model takes any name.
    model: Text | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None  # greedy at or below 1e-6
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    # Sample among the k most likely; a key of the 2023 sample server.
    top_k: Annotated[int, Field(ge=1)] | None = None
    # Sample among tokens with at least this share of the best token's probability.
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    # Go on after an end token, to max_tokens.
    ignore_eos: bool = False
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    # Give up after so many seconds; serve.deadline_s is the upper limit.
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    # Keys of decoding.*; needs serve.allow_decoding_override=true.
    decoding: dict[str, Any] | None = None
    min_tokens: NotSupported = None
    stop_token_ids: NotSupported = None
    logit_bias: NotSupported = None
    frequency_penalty: NotSupported = None
    presence_penalty: NotSupported = None


class ProcessRequest(SamplingRequest):
    """Body of POST /process. Keys that neither HELM nor another route has are ignored."""

    prompt: Text  # the one key without a default
    max_new_tokens: Annotated[int, Field(ge=0)] | None = None
    # Number of alternatives to report; it does not affect sampling.
    top_k_per_token: Annotated[int, Field(ge=0, le=100)] = 0
    # Accepted, but one completion is returned: HELM reads no second.
    num_return_sequences: Annotated[int, Field(ge=1)] | None = None
    num_samples: Annotated[int, Field(ge=1)] | None = None  # another name of it
    echo_prompt: bool = False
    stop_sequences: Stops = Field(default_factory=list)
    stream: NotSupported = None

    @classmethod
    def refuses(cls, key: str) -> bool:
        return key in OTHER_NAMES

    @field_validator("num_samples")
    @classmethod
    def _one_name(cls, samples: int, info: ValidationInfo) -> int:
        if info.data.get("num_return_sequences") is not None:
            raise ValueError("num_return_sequences, which is the same, is given, too; give one")
        return samples


TOKENIZE_NAMES = ("text", "content", "prompt")


class TokenizeRequest(ApiRequest):
    """Body of POST /tokenize.

    `text` (HELM) and `content` are ordinary text. `prompt` (vLLM's server, lm-eval's client)
    is a whole prompt: special tokens that it spells count as such.
    """

    text: Text | None = None
    content: Text | None = None
    prompt: Text | None = None
    add_special_tokens: bool = False  # put the beginning-of-sequence token first
    truncation: bool = False
    max_length: Annotated[int, Field(ge=0)] | None = None

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [name]} for name in TOKENIZE_NAMES]}
    )


class DecodeRequest(ApiRequest):
    """Body of POST /decode and POST /detokenize."""

    # Without fail_fast a report of the errors of 100,000 items takes a second.
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]


class BaseLogprob(ApiModel):
    base_logprob: float  # of the model alone: no contrast, no penalty

    # Deprecated in 0.2: the earlier name of base_logprob, kept for one release.
    @computed_field(  # type: ignore[prop-decorator]  # mypy 1.x knows no decorated properties
        description="Deprecated: use base_logprob, which has the same value.",
        json_schema_extra={"deprecated": True},
    )
    @property
    def plain_logprob(self) -> float:
        return self.base_logprob


class Token(BaseLogprob):
    text: str
    logprob: float  # of the distribution decoded from
    top_logprob: dict[str, float]


class ProcessResponse(ApiModel):
    text: str
    tokens: list[Token]
    logprob: float
    request_time: float  # seconds, waiting included


class TokenizeResponse(ApiModel):
    tokens: list[int]
    count: int
    max_model_len: int
    request_time: float


class DecodeResponse(ApiModel):
    text: str
    request_time: float


class DetokenizeResponse(ApiModel):
    prompt: str


class Error(ApiModel):
    message: str
    field: str | None
    type: str = "invalid_request_error"  # OpenAI's clients look for it


class ErrorResponse(ApiModel):
    error: Error
