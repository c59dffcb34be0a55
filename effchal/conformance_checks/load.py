"""Long prompts, and several requests at once."""

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from effchal.conformance_checks.client import Exchange, Server
from effchal.conformance_checks.helm_requests import PROMPTS, helm_body, process, tokenize
from effchal.conformance_checks.process_answers import process_answer_keys
from effchal.conformance_checks.tokenizer import tokenize_answers
from effchal.conformance_checks.verdict import CannotTell, Check, require

WINDOW_TOKENS = 2048
HELM_THREADS = 4
# The contest's scenarios: new tokens and stop sequences of MMLU, BIG-bench, GSM8K, CNN/DM.
SCENARIOS: list[dict[str, Any]] = [
    {"max_new_tokens": 1},
    {"max_new_tokens": 64},
    {"max_new_tokens": 400, "stop_sequences": ["\n\n"]},
    {"max_new_tokens": 128, "stop_sequences": ["###"], "temperature": 0.3},
]
FLOOD = 100  # requests at once
LONG_S, BRIEF_S = 0.5, 0.1  # a generation long enough to wait behind, and one too short
MOST_NEW_TOKENS = 1024
LOOKS = 5


def process_2048_tokens(server: Server) -> None:
    """2,048 tokens fit: a prompt of 2,047 tokens, and one new one."""
    prompt = text_of_tokens(server, WINDOW_TOKENS - 1)
    process(server, prompt, max_new_tokens=1)


def text_of_tokens(server: Server, most: int) -> str:
    """A text of at most so many tokens, and hardly fewer."""
    few, many = 10, 110
    lengths = [len(tokenize(server, "word " * words)) for words in (few, many)]
    each = max(1e-9, (lengths[1] - lengths[0]) / (many - few))
    words = int((most - lengths[0]) / each) + few
    while words > 1 and len(tokenize(server, "word " * words)) > most:
        words -= 1
    return "word " * words


def process_contest_requests(server: Server) -> None:
    """Requests as the contest's scenarios send them are all answered, four at once: the server
    queues rather than refuses."""
    bodies = [helm_body(PROMPTS[1], **changes) for changes in SCENARIOS]
    for exchange in at_once(HELM_THREADS, lambda at: server.post("/process", bodies[at])):
        require(exchange.status == 200, exchange.summary())


def refused_past_the_bound(server: Server) -> None:
    """Past its bound the server refuses with 503 and says in Retry-After when to come again."""
    body = helm_body(PROMPTS[1], max_new_tokens=32)
    found = at_once(FLOOD, lambda _: server.post("/process", body))
    for exchange in found:
        require(exchange.status in (200, 503), f"one of {FLOOD} requests {exchange.summary()}")
        if exchange.status == 503:
            require("retry-after" in exchange.headers, "a 503 has no Retry-After")
    if all(exchange.status == 200 for exchange in found):
        raise CannotTell(f"all of {FLOOD} requests at once were answered")


def at_once(count: int, ask: Callable[[int], Exchange]) -> list[Exchange]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(ask, range(count)))


def nothing_waits_behind_generations(server: Server) -> None:
    """POST /tokenize and GET /health never wait behind a generation."""
    body = helm_body(PROMPTS[1], max_new_tokens=long_generation(server))
    over = threading.Event()

    def generate() -> list[float]:
        seconds = []
        while not over.is_set():
            seconds.append(server.post("/process", body).seconds)
        return seconds

    with ThreadPoolExecutor(HELM_THREADS) as threads:
        running = [threads.submit(generate) for _ in range(HELM_THREADS)]
        time.sleep(LONG_S / 4)
        try:
            looks = {"/health": [], "/tokenize": []}  # type: dict[str, list[float]]
            for _ in range(LOOKS):
                looks["/health"].append(server.get("/health").seconds)
                looks["/tokenize"].append(server.post("/tokenize", {"text": "fox"}).seconds)
                time.sleep(LONG_S / 10)
        finally:
            over.set()
    generation_s = statistics.median(each for future in running for each in future.result())
    for path, seconds in looks.items():
        waited_s = statistics.median(seconds)
        how = f"{path} took {waited_s:.2f} s beside generations of {generation_s:.2f} s"
        require(waited_s < generation_s / 2, how)


def long_generation(server: Server) -> int:
    """How many new tokens take a while.

    Raises:
        CannotTell: none do.
    """
    tokens = 32
    while True:
        exchange = server.post("/process", helm_body(PROMPTS[1], max_new_tokens=tokens))
        if exchange.seconds >= LONG_S and exchange.status == 200:
            return tokens
        if tokens >= MOST_NEW_TOKENS or exchange.status != 200:
            break
        tokens *= 2
    if exchange.seconds < BRIEF_S:
        raise CannotTell(f"no answer takes longer than {exchange.seconds:.2f} s")
    return tokens if exchange.status == 200 else tokens // 2


CHECKS = [
    Check(process_2048_tokens, (process_answer_keys, tokenize_answers)),
    Check(process_contest_requests, (process_answer_keys,)),
    Check(nothing_waits_behind_generations, (process_contest_requests, tokenize_answers)),
    Check(refused_past_the_bound, (process_answer_keys,)),
]
