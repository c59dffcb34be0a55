"""POST /process: what it takes, and the form of its answers."""

import math
from collections.abc import Iterator
from typing import Any

from effchal.conformance_checks.client import Server
from effchal.conformance_checks.helm_requests import (
    PROMPT,
    PROMPTS,
    helm_body,
    json_object,
    process,
    read_answer,
)
from effchal.conformance_checks.verdict import Broken, CannotTell, Check, require

MANY_WORDS = "The quick brown fox  jumps over 13 lazy dogs.\n\nWhy? It's naïve: 漢字 🙂, isn't it?"


def process_prompt_alone(server: Server) -> None:
    """POST /process takes {"prompt": ...} alone, as the organisers' probe sends it."""
    body = json_object(server.post("/process", {"prompt": PROMPT}))
    require(isinstance(body.get("text"), str), "the answer has no text")


def process_helm_keys(server: Server) -> None:
    """POST /process takes exactly the eight keys that HELM sends."""
    json_object(server.post("/process", helm_body()))


def process_answer_keys(server: Server) -> None:
    """An answer of /process has text, logprob, request_time, and tokens, each with text, logprob
    and top_logprob: HELM fails on a missing one."""
    for prompt in PROMPTS:
        read_answer(server.post("/process", helm_body(prompt, max_new_tokens=4)))


def process_finite(server: Server) -> None:
    """All numbers of /process are finite, of the answer and of an echoed prompt."""
    asked: list[dict[str, Any]] = [
        {"top_k_per_token": 5},
        {"top_k_per_token": 5, "temperature": 1.0, "top_p": 0.5},
        {"top_k_per_token": 5, "echo_prompt": True, "max_new_tokens": 0},
    ]
    for changes in asked:
        body = json_object(server.post("/process", helm_body(**changes)))
        for place, number in numbers_of(body):
            if not math.isfinite(number):
                raise Broken(f"{place} is {number}")


def numbers_of(value: Any, place: str = "answer") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value, with its place."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from numbers_of(each, f"{place}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from numbers_of(each, f"{place}.{index}")
    elif isinstance(value, (int, float)):
        yield place, value


def process_tokens_spell_text(server: Server) -> None:
    """The tokens' texts of /process, one behind the other, are its text: ids decoded one by one
    would drop spaces."""
    for prompt in (*PROMPTS, MANY_WORDS):
        for changes in ({}, {"echo_prompt": True, "max_new_tokens": 0}):
            answer = process(server, prompt, **changes)
            spelled = "".join(answer.tokens)
            require(spelled == answer.text, f"the tokens spell {spelled!r}, text: {answer.text!r}")


def process_max_new_tokens(server: Server) -> None:
    """An answer of /process has at most max_new_tokens tokens."""
    for most in (1, 5):
        count = len(process(server, max_new_tokens=most).tokens)
        require(count <= most, f"{count} tokens where max_new_tokens is {most}")


def process_one_completion(server: Server) -> None:
    """num_return_sequences above 1 is taken, and gives one completion that HELM can read."""
    process(server, num_return_sequences=2, temperature=0.7)


def process_scores_prompt(server: Server) -> None:
    """max_new_tokens 0 with echo_prompt gives the prompt's tokens and their log-probabilities,
    and no new token."""
    for prompt in (PROMPT, MANY_WORDS):
        answer = process(server, prompt, echo_prompt=True, max_new_tokens=0)
        require(answer.text == prompt, f"of {prompt!r} the text is {answer.text!r}")
        require(len(answer.tokens) > 0, "there are no tokens")
        above = [value for value in answer.logprobs if value > 1e-4]
        require(not above, f"a log-probability is above 0: {above}")


def process_first_echoed_logprob(server: Server) -> None:
    """The first prompt token, when echoed, has log-probability 0.0."""
    for new in (0, 4):
        first = process(server, echo_prompt=True, max_new_tokens=new).logprobs[0]
        require(first == 0.0, f"it has {first}")


def process_echo_with_answer(server: Server) -> None:
    """With echo_prompt and new tokens, the text begins with the prompt."""
    answer = process(server, echo_prompt=True, max_new_tokens=4)
    require(answer.text.startswith(PROMPT), f"of {PROMPT!r} the text is {answer.text!r}")


def process_older_names(server: Server) -> None:
    """The older sample's names are taken: num_samples, top_k and seed."""
    asked = {"prompt": PROMPT, "max_new_tokens": 4, "temperature": 0.8}
    older = {"num_samples": 1, "top_k": 40, "seed": 7}
    read_answer(server.post("/process", asked | older))


def process_unknown_keys(server: Server) -> None:
    """Unknown keys of /process are ignored."""
    process(server, a_key_that_nobody_has={"x": [1]}, max_new_tokens=4)


LETTERS = (
    "Question: Which of these is a colour?\nA. seven\nB. red\nC. Monday\nAnswer: B\n\n"
    "Question: Which of these is an animal?\nA. dog\nB. green\nC. ten\nAnswer: A\n\n"
    "Question: Which of these is a number?\nA. Friday\nB. blue\nC. five\nAnswer:"
)


def process_letter_ends_answer(server: Server) -> None:
    """BIG-bench's multiple choice sends no stop sequence: the model or the server ends the answer
    after the letter."""
    answer = process(server, LETTERS, max_new_tokens=64).text.strip()
    if answer[:1] not in ("A", "B", "C") or answer[1:2].isalnum():
        raise CannotTell(f"the model does not answer with a letter: {answer!r:.100}")
    goes_on = answer[1:].strip(" .)")
    require(not goes_on, f"the answer goes on after the letter: {answer!r:.100}")


_READABLE = (process_answer_keys,)
CHECKS = [
    Check(process_prompt_alone),
    Check(process_helm_keys),
    Check(process_answer_keys, (process_helm_keys,)),
    Check(process_finite, _READABLE),
    Check(process_tokens_spell_text, _READABLE),
    Check(process_max_new_tokens, _READABLE),
    Check(process_one_completion, _READABLE),
    Check(process_scores_prompt, _READABLE),
    Check(process_echo_with_answer, (process_scores_prompt,)),
    Check(process_first_echoed_logprob, (process_scores_prompt, process_echo_with_answer)),
    Check(process_older_names, _READABLE),
    Check(process_unknown_keys, _READABLE),
    Check(process_letter_ends_answer, _READABLE),
]
