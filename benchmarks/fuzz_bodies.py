"""Random requests: valid, wrong, and as large as a body may be."""

import json
import random
import string
from dataclasses import dataclass

BODY_LIMIT = 8 << 20
PATHS = ["/process", "/v1/completions", "/v1/chat/completions", "/tokenize", "/decode"]
PATHS += ["/detokenize", "/v1/completions", "/tokenize"]  # the most may go wrong in these
WORDS = ["the", "sea", "</s>", "<s>", "<extra_1>", "-" * 80, "é漢🙂", "\n\n", "  ", "\0", "x" * 50]
NUMBERS = [0, 1, -1, 5, 399, 402, 405, 450, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-300, 1e308]
CONSTANTS = [None, True, False, "", "???", [], {}, [[]], [""], "\ud800", [{}], [None]]
DECODING = {
    "method": ["greedy", "sample", "dola", "sled", "???"],
    "premature_layers": ["low", "high", [0], [0, 2], [9], [], "???", [1.5]],
    "repetition_penalty": [1.3, 1e-300, 1e300, 0, -1],
    "sled_rate": [1.0, 1e308, -1.0],
    "sled_top_k": [1, 10, 10**9],
    "relative_top": [0.1, 0, 1, 2],
    "temperature": [1e-300, 0.5, 1e300],
    "top_p": [1e-300, 1, 2],
    "min_tokens_to_keep": [1, 10**9],
}
BROKEN = [b"", b"{", b"[]", b"null", b"\xff" * 100, b"[" * 100_000, b'{"a":' * 100_000]
BROKEN += [b'{"prompt": NaN}', b'{"prompt": "x", "seed": ' + b"9" * 100_000 + b"}"]
BROKEN += [b'{"tokens": [' + b"[]," * 2_000_000 + b"1]}", b'{"x":"' + b"\\n" * 4_000_000 + b'"}']


@dataclass(frozen=True)
class FuzzRequest:
    path: str
    data: bytes


def fuzz_request(draw: random.Random) -> FuzzRequest:
    path = draw.choice(PATHS)
    if draw.random() < 0.05:
        return FuzzRequest(path, draw.choice(BROKEN))
    body = valid_body(path, draw)
    for _ in range(draw.choice([0, 0, 1, 2])):
        body[draw.choice([*body, *FIELDS])] = odd_value(draw)
    if draw.random() < 0.2:
        body["decoding"] = decoding(draw)
    if draw.random() < 0.02:
        body |= {f"unknown{number}": number for number in range(100_000)}
    data = json.dumps(body).encode()
    return FuzzRequest(path, data if len(data) <= BODY_LIMIT else data[:BODY_LIMIT])


FIELDS = ["prompt", "messages", "text", "tokens", "n", "stop", "stream", "echo", "logprobs"]
FIELDS += ["temperature", "top_p", "top_k", "seed", "deadline_s", "max_tokens", "max_new_tokens"]
FIELDS += ["stop_sequences", "top_logprobs", "stream_options", "truncation", "max_length"]


def valid_body(path: str, draw: random.Random) -> dict:
    if path == "/tokenize":
        return {draw.choice(["text", "prompt"]): text(draw)}
    if path in ("/decode", "/detokenize"):
        return {"tokens": ids(draw)}
    limit = "max_new_tokens" if path == "/process" else "max_tokens"
    body: dict = {limit: draw.choice([0, 1, 8]), "temperature": draw.choice([0, 1])}
    if path == "/process":
        return body | {"prompt": text(draw), "echo_prompt": draw.random() < 0.5}
    body |= {"stream": draw.random() < 0.2}
    if path == "/v1/chat/completions":
        count = draw.choice([1, 1, 3, 5000])
        contents = [text(draw) if count < 5 else "hm" for _ in range(count)]
        return body | {"messages": [{"role": "user", "content": each} for each in contents]}
    prompts = [text(draw), [text(draw), ""], ["", "x"], "<s>", "", ids(draw), [ids(draw), [0]]]
    echo = {"echo": draw.random() < 0.5, "logprobs": draw.choice([None, 0, 2]), "n": 1}
    return body | echo | {"prompt": draw.choice(prompts)}


def text(draw: random.Random) -> str:
    """Mostly short, sometimes as long as what fits, and sometimes as long as a body may be."""
    length = int(10 ** draw.uniform(0, draw.choice([2, 2, 3, 5, 6, 6.9])))
    kind = draw.randrange(4)
    if kind == 0:  # one word without an end
        return draw.choice(string.ascii_letters) * length
    if kind == 1:  # brackets, quotes and colons, which a count of signs sees
        return (draw.choice(['{"a": [1, 2]}, ', "[[[", ",", ":"]) * length)[:length]
    piece = "".join(draw.choice(WORDS) + draw.choice(" \n,") for _ in range(50))
    return (piece * (length // len(piece) + 1))[:length]


def ids(draw: random.Random) -> list[int]:
    """Some of them beyond the embedding, or beyond the tokenizer."""
    length = int(10 ** draw.uniform(0, draw.choice([1, 2, 3, 5.7])))
    highest = draw.choice([250, 400, 402, 405, 500])
    return [draw.randrange(highest) for _ in range(20)] * (length // 20) or [
        draw.randrange(highest)
    ]


def odd_value(draw: random.Random) -> object:
    if draw.random() < 0.3:
        return draw.choice([text, ids])(draw)
    if draw.random() < 0.1:
        depth = draw.choice([5, 200, 900])
        return json.loads("[" * depth + "]" * depth)
    return draw.choice([*NUMBERS, *CONSTANTS])


def decoding(draw: random.Random) -> object:
    if draw.random() < 0.1:
        return odd_value(draw)
    keys = draw.sample(sorted(DECODING), draw.randrange(5))
    chosen: dict = {key: draw.choice(DECODING[key]) for key in keys}
    if draw.random() < 0.1:
        chosen |= {f"key{number}": number for number in range(draw.choice([1, 100_000]))}
    return chosen
