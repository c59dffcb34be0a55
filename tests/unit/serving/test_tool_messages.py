"""Conversations with tools: the server reads what training had before the answer."""

import contextlib
import json

import pytest
from pydantic import ValidationError
from support.chat_tokenizers import chat_tokenizer
from support.http_client import post
from support.paths import SMOLLM2, needs_smollm2
from support.random_models import random_model
from support.seen_prompts import SeenPrompts

from effchal.config import Config, ConfigError, ModelConfig, PromptConfig, ServeConfig
from effchal.config.choices import DataFormat, Template
from effchal.decoding.engine import Engine
from effchal.mixing.formats import turns_of
from effchal.mixing.rows import DataRow
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import with_tool_calls
from effchal.serving.app import make_app
from effchal.serving.chat_messages import Message

OWN = PromptConfig(template=Template.own, user="Q: {content}\nA:", after_answer="\n")
THEIRS = PromptConfig(template=Template.tokenizer)
PARTS = [{"type": "text", "text": "Weather in "}, {"type": "text", "text": "Oslo?"}]
ARGUMENTS = '{"city": "Zürich \\"x\\""}'
CALL = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
TIME = {"type": "function", "function": {"name": "time", "arguments": "{}"}}
ASKED = [{"role": "user", "content": PARTS}]
ONE = [
    *ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "4 C"},
]
SEVERAL = [
    {"role": "system", "content": "Be brief."},
    *ASKED,
    {"role": "assistant", "tool_calls": [CALL, TIME]},
    {"role": "tool", "content": "4 C"},
    {"role": "tool", "content": [PARTS[0] | {"text": '{"hour": '}, PARTS[0] | {"text": "9}"}]},
    {"role": "assistant", "content": "And later:", "tool_calls": [TIME]},
    {"role": "tool", "content": "10"},
]
ANSWER = {"role": "assistant", "content": "Four degrees."}


def as_clients_send(message):
    """The message as the openai client makes it of an answer: other order, and names of calls."""
    calls = message.get("tool_calls", [])
    sent = [
        call | {"id": f"call_{i}", "function": dict(reversed(call["function"].items()))}
        for i, call in enumerate(calls)
    ]
    more = {"tool_call_id": "call_0", "name": "weather"} if message["role"] == "tool" else {}
    return message | more | ({"tool_calls": sent, "refusal": None} if sent else {})


def trained_on(encoder, messages):
    """Ids of the conversation in training, up to its last answer."""
    row = DataRow.of({"messages": [*messages, ANSWER]}, "a row", ConfigError)
    ids, is_answer = encoder.conversation_ids(turns_of(row, DataFormat.messages, "mine"))
    return ids[: max(i for i in range(1, len(ids)) if is_answer[i] > is_answer[i - 1])]


@contextlib.contextmanager
def served(maker, prompt):
    """A server of a small random model with a maker's tokenizer, and its client."""
    smollm2 = ModelConfig(name=str(SMOLLM2))
    tokenizer = load_tokenizer(smollm2) if maker == "smollm2" else chat_tokenizer(maker)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": None, "bos_token_id": None}
    model = random_model("Llama", {"vocab_size": len(tokenizer)} | ids)
    service = SeenPrompts(Config(prompt=prompt, serve=ServeConfig(max_prompt_tokens=900)))
    service.set_ready(Engine(model, tokenizer))
    try:
        yield service, make_app(service).test_client()
    finally:
        service.loaded().scheduler.stop()


def read_of(service, client, messages):
    """Ids that the engine reads for a request."""
    body = {"messages": [as_clients_send(each) for each in messages], "max_tokens": 1}
    post(client, "/v1/chat/completions", body | {"tools": [], "tool_choice": "none"})
    return service.prompts[0]


@pytest.mark.parametrize(
    "maker", ["qwen25", "llama3", pytest.param("smollm2", marks=needs_smollm2)]
)
def test_a_conversation_with_tools_is_read_as_training_had_it(maker):
    with served(maker, THEIRS) as (service, client):
        encoder = service.loaded().encoder
        for messages in (ONE, SEVERAL):
            assert read_of(service, client, messages) == trained_on(encoder, messages)


@pytest.mark.parametrize("maker", ["gemma2", "phi3", "mistral", "qwen25 in our own template"])
def test_a_template_without_a_tools_turn_says_what_to_send_instead(maker):
    name, _, own = maker.partition(" in ")
    with served(name, OWN if own else PromptConfig(template=Template.tokenizer)) as (
        service,
        client,
    ):
        error = post(client, "/v1/chat/completions", {"messages": ONE}, status=400)["error"]
        assert error["field"] == "messages.2.role"
        assert "no turn of a tool" in error["message"]
        assert "\n" not in error["message"]
        told = [*ONE[:2], ONE[2] | {"role": "user"}]
        assert read_of(service, client, told) == trained_on(service.loaded().encoder, ONE)


USER = {"role": "user", "content": "x"}
ASSISTANT = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("message", "field", "reason"),
    [
        (
            {"role": "user", "content": "x", "tool_calls": [CALL]},
            "tool_calls",
            "only an assistant's",
        ),
        ({"role": "assistant"}, "content", "Field required"),
        ({"role": "tool", "tool_call_id": "1"}, "content", "Field required"),
        (ASSISTANT | {"tool_calls": ["x"]}, "tool_calls.0", "valid dictionary"),
        (
            ASSISTANT | {"tool_calls": [CALL | {"type": "custom"}]},
            "tool_calls.0.type",
            "'function'",
        ),
        (ASSISTANT | {"tool_calls": [{"type": "function"}]}, "tool_calls.0.function", "required"),
        (ASSISTANT | {"function_call": CALL["function"]}, "function_call", "not supported"),
    ],
)
def test_a_wrong_message_is_refused_with_its_field(client, message, field, reason):
    error = post(client, "/v1/chat/completions", {"messages": [message, *ASKED]}, status=400)[
        "error"
    ]
    assert error["field"] == f"messages.0.{field}"
    assert reason in error["message"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("arguments", {"city": "Oslo"}), ("arguments", None), ("name", 5), ("strict", True)],
)
def test_a_call_is_a_name_and_a_text_of_arguments(client, key, value):
    call = CALL | {"function": CALL["function"] | {key: value}}
    messages = [ASSISTANT | {"tool_calls": [call]}, *ASKED]
    error = post(client, "/v1/chat/completions", {"messages": messages}, status=400)["error"]
    assert error["field"] == f"messages.0.tool_calls.0.function.{key}"


@pytest.mark.parametrize(
    ("key", "value"),
    [("tools", [CALL]), ("tool_choice", "required"), ("tool_choice", CALL), ("functions", [{}])],
)
def test_calls_as_objects_in_the_answer_are_refused_by_name(client, key, value):
    body = {"messages": ASKED, key: value}
    assert post(client, "/v1/chat/completions", body, status=400)["error"]["field"] == key


def test_the_api_document_knows_messages_with_tools(client):
    schemas = client.get("/openapi.json").get_json()["components"]["schemas"]
    message = schemas["Message"]
    assert "tool" in json.dumps(message["properties"]["role"])
    assert message["required"] == ["role"]
    assert schemas["FunctionCall"]["required"] == ["name", "arguments"]


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, {}, '{"city": "Oslo"}', "no JSON", "[1]"])
def test_arguments_are_spelled_alike_as_an_object_and_as_its_json(arguments):
    sent = arguments if isinstance(arguments, str) else json.dumps(arguments)
    call = {"type": "function", "function": {"name": "weather", "arguments": sent}}
    of_request = Message(role="assistant", tool_calls=[call]).text
    assert of_request == with_tool_calls("", [{"name": "weather", "arguments": arguments}])
    assert of_request == with_tool_calls("", [{"strict": True, **call["function"]}])


def test_a_wrong_call_has_one_error():
    call = {"type": "custom", "function": {"name": "f", "arguments": "{}"}}
    with pytest.raises(ValidationError) as found:
        Message(role="assistant", content=None, tool_calls=[call])
    assert [error["loc"][0] for error in found.value.errors()] == ["tool_calls"]
