"""Requests as HELM's client sends them, and what its reader takes from the answers."""

from dataclasses import dataclass
from typing import Any

from effchal.conformance_checks.client import Exchange, Server
from effchal.conformance_checks.verdict import Broken, CannotTell, require

PROMPT = "The capital of France is "
# Whatever a model does of one of them, it hardly does of all.
PROMPTS = (PROMPT, "Once upon a time, there was a", "1, 2, 3, 4, 5, 6, 7,", "def main():\n")
SHORT = 24  # new tokens of most requests
NO_CHARACTER = "\ufffd"  # what bytes that are no character are shown as


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: list[str]
    logprobs: list[float]
    top: list[dict[str, float]]


def helm_body(prompt: str = PROMPT, **changes: Any) -> dict[str, Any]:
    """The eight keys that HELM's client sends."""
    keys = {"prompt": prompt, "temperature": 1e-7, "num_return_sequences": 1}
    keys |= {"max_new_tokens": SHORT, "top_p": 1, "echo_prompt": False}
    return keys | {"top_k_per_token": 1, "stop_sequences": []} | changes


def process(server: Server, prompt: str = PROMPT, **changes: Any) -> Answer:
    """The answer to HELM's eight keys.

    Raises:
        Broken: there is none that HELM could read.
    """
    return read_answer(server.post("/process", helm_body(prompt, **changes)))


def read_answer(exchange: Exchange) -> Answer:
    """Raises Broken where HELM's client would fail."""
    body = json_object(exchange)
    missing = [key for key in ("text", "logprob", "tokens", "request_time") if key not in body]
    require(not missing, f"the answer lacks {', '.join(missing)}")
    require(isinstance(body["text"], str), f"text is no string: {body['text']!r}")
    for key in ("logprob", "request_time"):
        require(is_number(body[key]), f"{key} is no number: {body[key]!r}")
    tokens = body["tokens"]
    require(isinstance(tokens, list), "tokens is no list")
    for token in tokens:
        is_token = isinstance(token, dict) and isinstance(token.get("text"), str)
        require(is_token and is_number(token.get("logprob")), f"no text or logprob: {token!r}")
        require(isinstance(token.get("top_logprob"), dict), f"no top_logprob: {token!r}")
        values = token["top_logprob"].values()
        require(all(map(is_number, values)), f"top_logprob holds more than numbers: {token!r}")
    return Answer(
        body["text"],
        [token["text"] for token in tokens],
        [token["logprob"] for token in tokens],
        [token["top_logprob"] for token in tokens],
    )


def json_object(exchange: Exchange) -> dict[str, Any]:
    """Raises Broken unless the answer is a JSON object with status 200."""
    require(exchange.status == 200, f"{exchange.path} {exchange.summary()}")
    body = exchange.json()
    if not isinstance(body, dict):
        raise Broken(f"{exchange.path}: the answer is no JSON object")
    return body


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def tokenize(server: Server, text: str, **changes: Any) -> list[int]:
    """Ids of a text, asked as HELM does.

    Raises:
        Broken: no ids that HELM could read.
    """
    body = {"text": text, "truncation": False, "max_length": 2048} | changes
    answer = json_object(server.post("/tokenize", body))
    ids = answer.get("tokens")
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise Broken(f"tokens is no list of ids: {ids!r:.200}")
    require(is_number(answer.get("request_time")), "the answer lacks request_time, in seconds")
    return ids


def decode(server: Server, ids: list[int]) -> str:
    """The text of some ids.

    Raises:
        Broken: none that HELM could read.
    """
    answer = json_object(server.post("/decode", {"tokens": ids}))
    text = answer.get("text")
    if not isinstance(text, str):
        raise Broken(f"text is no string: {text!r:.200}")
    require(is_number(answer.get("request_time")), "the answer lacks request_time, in seconds")
    return text


def greedy_answer(server: Server, at_least: int = 4) -> tuple[str, Answer]:
    """A prompt and its greedy answer, of at least so many characters.

    Raises:
        CannotTell: every answer is shorter, or none is the same twice.
    """
    for prompt in PROMPTS:
        answer = process(server, prompt)
        if len(answer.text) >= at_least:
            if process(server, prompt).text == answer.text:
                return prompt, answer
            raise CannotTell("the same greedy request gets another text each time")
    raise CannotTell(f"no answer has {at_least} characters of text")
