"""Bodies and answers of OpenAI's completions and chat completions.

As the openai client and lm-eval use them. As with OpenAI, an unknown key is refused by name.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, ValidationInfo, computed_field, field_validator

from effchal.serving.chat_messages import Message, OneText, choice
from effchal.serving.fields import ApiModel, ApiRequest
from effchal.serving.helm_types import (
    BaseLogprob,
    NotSupported,
    SamplingRequest,
    Stop,
    Stops,
    Text,
    TokenId,
)

FinishReason = Literal["stop", "length"]
Count = Annotated[int, Field(ge=1, le=128)]
Alternatives = Annotated[int, Field(ge=0, le=20)]
Ids = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


Prompt = Annotated[
    OneText
    | Annotated[list[Text], Field(fail_fast=True), Tag("<text>s")]
    | Annotated[Ids, Tag("<id>s")]
    | Annotated[list[Ids], Field(fail_fast=True), Tag("<id>ss")],
    choice("give a text, a list of texts, token ids, or a list of these"),
]


class StreamOptions(ApiRequest):
    include_usage: bool = False
    include_obfuscation: Any = None  # changes no answer

    @classmethod
    def refuses(cls, key: str) -> bool:
        return True


class OpenAIRequest(SamplingRequest):
    """What both routes take."""

    n: Count = 1
    stop: Annotated[
        Annotated[Stop, Tag("<text>")] | Annotated[Stops, Tag("<text>s")],
        choice("give a text or a list of texts"),
    ] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    # For bookkeeping at OpenAI; none of them changes an answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @classmethod
    def refuses(cls, key: str) -> bool:
        return True

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionRequest(OpenAIRequest):
    """Body of POST /v1/completions. The prompt is used as it is, without a template."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool = False
    logprobs: Alternatives | None = None
    best_of: Count | None = None
    suffix: NotSupported = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt: text, or token ids."""
        prompt: Any = self.prompt
        return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt

    @field_validator("best_of")
    @classmethod
    def _best_of_nothing(cls, best_of: int, info: ValidationInfo) -> int:
        if best_of != info.data.get("n"):
            raise ValueError("other than n is not supported; leave it out")
        return best_of


class ChatRequest(OpenAIRequest):
    """Body of POST /v1/chat/completions. The conversation goes into the training's template."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool = False
    top_logprobs: Alternatives | None = None
    response_format: dict[str, Any] | None = None
    tools: NotSupported = None
    functions: NotSupported = None
    tool_choice: Literal["none", "auto"] | None = None  # without tools both are the same
    parallel_tool_calls: bool | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, wanted: int, info: ValidationInfo) -> int:
        if wanted and not info.data.get("logprobs"):
            raise ValueError("needs logprobs=true")
        return wanted

    @field_validator("response_format")
    @classmethod
    def _text_only(cls, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
        if wanted is not None and wanted.get("type") != "text":
            raise ValueError("only text is supported; leave it out")
        return wanted

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role == "assistant":
            raise ValueError("the last message must not be the assistant's")
        return messages


class Usage(ApiModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(ApiModel):
    """Log-probabilities of the distribution decoded from, token by token.

    `base_logprobs` are of the model alone, without contrast and penalty.
    """

    tokens: list[str]
    token_logprobs: list[float | None]  # None for the first token of an echoed prompt
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]
    base_logprobs: list[float | None]

    # Deprecated in 0.2: the earlier name of base_logprobs, kept for one release.
    @computed_field(  # type: ignore[prop-decorator]  # mypy 1.x knows no decorated properties
        description="Deprecated: use base_logprobs, which has the same values.",
        json_schema_extra={"deprecated": True},
    )
    @property
    def plain_logprobs(self) -> list[float | None]:
        return self.base_logprobs


class CompletionChoice(ApiModel):
    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None


class CompletionResponse(ApiModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int  # seconds since 1970
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(ApiModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob, BaseLogprob):
    # That DoLa contrasted with; None where there was no choice of tokens, and without DoLa.
    layer: int | None = None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(ApiModel):
    content: list[ChatLogprob]


class ChatMessage(ApiModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(ApiModel):
    index: int
    message: ChatMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None


class ChatResponse(ApiModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(ApiModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(ApiModel):
    index: int
    delta: Delta
    finish_reason: FinishReason | None
    logprobs: ChatLogprobs | None


class ChatChunk(ApiModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class Model(ApiModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "effchal"
    parent: str | None = None  # the base model's name, of an adapter
    max_model_len: int  # prompt and answer together
    route: dict[str, Any]  # how the model is computed with: the admission check's verdict
    merged_adapter: dict[str, Any] | None = None  # how far serve.merge_adapter moved the answers


class LoadAdapterRequest(ApiRequest):
    """Body of POST /v1/load_lora_adapter, as vLLM has it."""

    lora_name: Text
    lora_path: Text  # folder of a bundle or a run on the server's machine


class UnloadAdapterRequest(ApiRequest):
    """Body of POST /v1/unload_lora_adapter, as vLLM has it."""

    lora_name: Text


class Models(ApiModel):
    object: Literal["list"] = "list"
    data: list[Model]


class TokenizerInfo(ApiModel):
    eos_token: str
    bos_token: str | None
    pad_token: str | None
    chat_template: str
