"""ApiModel types of HELM's HTTPModelClient and HTTPModelTokenizer (helm/clients/http_model_client.py, 0.5.16).

The tokenizer's routes serve lm-eval's client, too; see openai_types for the others.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field


def _encodable(text: str) -> str:
    text.encode(
        "utf-8"
    )  # JSON can spell half a surrogate pair, which is no character; a ValueError
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Stop = Annotated[Text, Field(max_length=200)]
Stops = Annotated[list[Stop], Field(max_length=64)]
TokenId = Annotated[int, Field(ge=0)]
Temperature = Annotated[float, Field(ge=0)]  # greedy at or below 1e-6
Probability = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class ApiModel(BaseModel):
    """Types are not converted ("5" is no number); keys that we do not know are ignored: clients add some."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class SamplingRequest(ApiModel):
    """What every request for an answer may say. None means: as decoding.* of the bundle says."""

    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None  # sample among k; of the 2023 sample server
    seed: Seed | None = None
    deadline_s: Annotated[float, Field(gt=0)] | None = (
        None  # give up after so long; serve.deadline_s at most
    )
    decoding: dict[str, Any] | None = (
        None  # keys of decoding.*, where serve.allow_decoding_override=true
    )


class ProcessRequest(SamplingRequest):
    """Body of POST /process."""

    prompt: Text  # the one key without a default
    max_new_tokens: Annotated[int, Field(ge=0)] | None = None
    top_k_per_token: Annotated[int, Field(ge=0, le=100)] = (
        0  # alternatives reported; samples nothing
    )
    num_return_sequences: Annotated[int, Field(ge=1)] = Field(
        default=1, validation_alias=AliasChoices("num_return_sequences", "num_samples")
    )  # one is returned: HELM reads no second
    echo_prompt: bool = False
    stop_sequences: Stops = []


class TokenizeRequest(ApiModel):
    """Body of POST /tokenize.

    `text` (HELM) and `content` are ordinary text. `prompt`, of vLLM's server and lm-eval's client, is a whole
    prompt: special tokens that it spells count as such.
    """

    text: Text | None = Field(default=None, validation_alias=AliasChoices("text", "content"))
    prompt: Text | None = None
    add_special_tokens: bool = False  # put the beginning-of-sequence token first
    truncation: bool = False
    max_length: Annotated[int, Field(ge=0)] | None = None

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["prompt"]}]}
    )


class DecodeRequest(ApiModel):
    """Body of POST /decode and POST /detokenize."""

    tokens: list[TokenId]


class Token(ApiModel):
    text: str
    logprob: float  # of the distribution decoded from
    base_logprob: float  # of the model alone: no contrast, no penalty
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
    type: str = "invalid_request_error"  # clients of OpenAI's look for it


class ErrorResponse(ApiModel):
    error: Error
