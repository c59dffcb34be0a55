"""Requests to POST /v1/completions, and their choices as lm-eval and OpenAI clients read them."""

from typing import Any

from effchal.conformance_checks.client import Exchange, Server
from effchal.conformance_checks.helm_requests import PROMPTS, SHORT, json_object
from effchal.conformance_checks.verdict import Broken, CannotTell, require

PROMPT = PROMPTS[1]
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
Choice = dict[str, Any]


def choices(server: Server, prompt: Any = PROMPT, **keys: Any) -> list[Choice]:
    """The choices of an answer, in the order of their indices.

    Raises:
        Broken: none that a client could read.
    """
    name = model_name(server)
    asked: dict[str, Any] = {"model": name} if name is not None else {}
    asked |= {"prompt": prompt, "max_tokens": SHORT, "temperature": 0}
    return read_choices(server.post("/v1/completions", asked | keys))


def read_choices(exchange: Exchange) -> list[Choice]:
    """Raises Broken unless each choice has an index and a text."""
    found = json_object(exchange).get("choices")
    if not isinstance(found, list) or not found:
        raise Broken(f"choices is no list of choices: {found!r:.200}")
    for choice in found:
        is_choice = isinstance(choice, dict) and isinstance(choice.get("text"), str)
        require(is_choice, f"a choice has no text: {choice!r:.200}")
    indices = [choice.get("index") for choice in found]
    require(sorted(indices, key=str) == [*range(len(found))], f"the indices are {indices}")
    return sorted(found, key=lambda choice: choice["index"])


def text_of(server: Server, prompt: Any = PROMPT, **keys: Any) -> str:
    return choices(server, prompt, **keys)[0]["text"]


def logprobs_of(choice: Choice) -> dict[str, list[Any]]:
    """The lists of a choice's log-probabilities.

    Raises:
        Broken: one is missing, or they differ in length.
    """
    found = choice.get("logprobs")
    if not isinstance(found, dict):
        raise Broken(f"logprobs is {found!r:.100}")
    for name in LISTS:
        require(isinstance(found.get(name), list), f"logprobs.{name} is {found.get(name)!r:.100}")
    lengths = {name: len(found[name]) for name in LISTS}
    require(len(set(lengths.values())) == 1, f"the lists of logprobs differ in length: {lengths}")
    return found


def model_name(server: Server) -> str | None:
    """The first name of GET /v1/models; None where it has none."""
    body = server.get("/v1/models").json()
    models = body.get("data") if isinstance(body, dict) else None
    first = models[0] if isinstance(models, list) and models else None
    name = first.get("id") if isinstance(first, dict) else None
    return name if isinstance(name, str) else None


def greedy_text(server: Server, at_least: int = 4) -> tuple[str, str]:
    """A prompt and its greedy text, of at least so many characters.

    Raises:
        CannotTell: every text is shorter.
    """
    for prompt in PROMPTS:
        text = text_of(server, prompt)
        if len(text) >= at_least:
            return prompt, text
    raise CannotTell(f"no answer has {at_least} characters of text")
