"""Wire types of HELM's HTTPModelClient and HTTPModelTokenizer (helm/clients/http_model_client.py, 0.5.16)."""

from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field


def _encodable(text: str) -> str:
    text.encode("utf-8")  # JSON can spell half a surrogate pair, which is no character; a ValueError
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Probability = Annotated[float, Field(gt=0, le=1)]


class Wire(BaseModel):
    """Types are not converted ("5" is no number); keys that we do not know are ignored: clients add some."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class ProcessRequest(Wire):
    """Body of POST /process. None means: as decoding.* of the bundle says."""

    prompt: Text  # the one key without a default
    max_new_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None  # greedy at or below 1e-6
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None  # of the 2023 sample server: sample among k
    top_k_per_token: Annotated[int, Field(ge=0, le=100)] = 0  # alternatives reported; samples nothing
    num_return_sequences: Annotated[int, Field(ge=1)] = Field(
        default=1, validation_alias=AliasChoices("num_return_sequences", "num_samples")
    )  # one is returned: HELM reads no second
    echo_prompt: bool = False
    stop_sequences: Annotated[list[Text], Field(max_length=64)] = []
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class TokenizeRequest(Wire):
    """Body of POST /tokenize."""

    text: Text = Field(validation_alias=AliasChoices("text", "prompt", "content"))
    truncation: bool = False
    max_length: Annotated[int, Field(ge=0)] | None = None


class DecodeRequest(Wire):
    """Body of POST /decode."""

    tokens: list[Annotated[int, Field(ge=0)]]


class Token(Wire):
    text: str
    logprob: float  # of the distribution decoded from
    plain_logprob: float  # of the model alone: no contrast, no penalty
    top_logprob: dict[str, float]


class ProcessResponse(Wire):
    text: str
    tokens: list[Token]
    logprob: float
    request_time: float  # seconds, waiting included


class TokenizeResponse(Wire):
    tokens: list[int]
    request_time: float


class DecodeResponse(Wire):
    text: str
    request_time: float


def error_body(message: str, field: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "field": field}}
