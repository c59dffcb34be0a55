"""POST /tokenize and /decode, and the time that each answer tells."""

import re
from typing import Any

from effchal.conformance_checks.client import Exchange, Server
from effchal.conformance_checks.helm_requests import (
    decode,
    helm_body,
    is_number,
    json_object,
    tokenize,
)
from effchal.conformance_checks.process_answers import process_answer_keys
from effchal.conformance_checks.verdict import CannotTell, Check, require

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "one\n\ntwo\n\n\nthree\ttabbed  and  spaced ",
    "naïve café, 漢字, Ελλάδα, 🙂 and 3.14159",
    "def f(x):\n    return [x**2 for _ in range(10)]\n",
)
DIFFERENT_BEGINNINGS = ("The", "zebra", "x = 1", "Why not", "Monday")
PREFIX_TOKEN = "<|endoftext|>"
SPECIAL = re.compile(r"<[|/]?[\w-]+[|]?>|\[[A-Z]+\]")
FIRST_IDS = (0, 1, 2, 3)  # where most tokenizers have their special tokens
SLACK_S = 0.05


def tokenize_answers(server: Server) -> None:
    """POST /tokenize takes {text, truncation, max_length} and gives {tokens: [int],
    request_time}."""
    for text in TEXTS:
        ids = tokenize(server, text)
        require(len(ids) > 0, f"{text!r} has no tokens")


def tokenize_no_bos(server: Server) -> None:
    """POST /tokenize adds no beginning-of-sequence token."""
    first = {tuple(tokenize(server, text)[:1]) for text in DIFFERENT_BEGINNINGS}
    how = f"{len(DIFFERENT_BEGINNINGS)} texts that begin differently all begin with {first}"
    require(len(first) > 1, how)


def tokenize_truncation(server: Server) -> None:
    """POST /tokenize honours truncation: max_length tokens then, all of them without."""
    text = TEXTS[0] * 8
    whole = tokenize(server, text, truncation=False, max_length=5)
    require(len(whole) > 8, f"truncation=false gave {len(whole)} tokens of {len(text)} characters")
    for length in (1, 5, 8):
        cut = tokenize(server, text, truncation=True, max_length=length)
        how = f"max_length={length} gave {len(cut)} tokens"
        require(len(cut) == length, how)
        require(cut == whole[:length], f"{how}, which are not the text's first ones")


def tokenize_other_names(server: Server) -> None:
    """POST /tokenize takes prompt or content in place of text, for other clients."""
    expected = tokenize(server, TEXTS[0])
    for name in ("prompt", "content"):
        exchange = server.post("/tokenize", {name: TEXTS[0]})
        if exchange.status != 200:
            raise CannotTell(f"optional, and {name} {exchange.summary()}")
        ids = json_object(exchange).get("tokens")
        require(ids == expected, f"{name} gave {ids!r:.100}, text {expected!r:.100}")


def decode_answers(server: Server) -> None:
    """POST /decode takes {tokens} and gives {text, request_time}: without it, HELM silently sends
    an empty prompt."""
    decode(server, tokenize(server, TEXTS[0]))


def decode_round_trip(server: Server) -> None:
    """decode(tokenize(x)) is x."""
    for text in TEXTS:
        found = decode(server, tokenize(server, text))
        require(found == text, f"{text!r} came back as {found!r}")


def decode_skips_special(server: Server) -> None:
    """POST /decode leaves special tokens out of the text."""
    ids, text = tokenize(server, "fox"), "fox"
    told = 0
    for each in dict.fromkeys([*FIRST_IDS, *special_ids(server)]):
        exchange = server.post("/decode", {"tokens": [each, *ids]})
        found = (exchange.json() or {}).get("text") if exchange.status == 200 else None
        if not isinstance(found, str):
            continue
        spelled = found.removesuffix(text)
        require(not SPECIAL.fullmatch(spelled.strip()), f"token {each} is decoded as {spelled!r}")
        told += found == text
    if not told:
        raise CannotTell("no special token is known to be one")


def special_ids(server: Server) -> list[int]:
    """Ids of the special tokens that GET /tokenizer_info names, if the server says so much."""
    info = server.get("/tokenizer_info").json()
    names = [info.get(f"{kind}_token") for kind in ("eos", "bos", "pad")] if info else []
    answers = [server.post("/tokenize", {"prompt": name}).json() for name in names if name]
    found = [answer.get("tokens") for answer in answers if isinstance(answer, dict)]
    return [ids[0] for ids in found if isinstance(ids, list) and len(ids) == 1]


def decode_helm_prefix_token(server: Server) -> None:
    """HELM's prefix token <|endoftext|> is ordinary text: it comes back whole."""
    found = decode(server, tokenize(server, PREFIX_TOKEN))
    require(found == PREFIX_TOKEN, f"it came back as {found!r}")


def request_time_seconds(server: Server) -> None:
    """request_time is the seconds that the request took, of /process, /tokenize and /decode."""
    check_time(server.post("/process", helm_body(max_new_tokens=8)))
    check_time(server.post("/process", helm_body(TEXTS[0], max_new_tokens=2)))
    check_time(server.post("/tokenize", {"text": TEXTS[0], "truncation": False}))
    check_time(server.post("/decode", {"tokens": tokenize(server, TEXTS[0])}))


def check_time(exchange: Exchange) -> None:
    """Raises Broken for a time that the answer cannot have taken."""
    if exchange.status != 200:  # another check says so
        return
    told: Any = json_object(exchange).get("request_time")
    took = exchange.seconds
    ok = is_number(told) and 0 <= told <= took + SLACK_S
    require(ok, f"{exchange.path} tells {told}, and the request took {took:.3f} s")


CHECKS = [
    Check(tokenize_answers),
    Check(tokenize_no_bos, (tokenize_answers,)),
    Check(tokenize_truncation, (tokenize_answers,)),
    Check(tokenize_other_names, (tokenize_answers,)),
    Check(decode_answers, (tokenize_answers,)),
    Check(decode_round_trip, (decode_answers,)),
    Check(decode_skips_special, (decode_answers,)),
    Check(decode_helm_prefix_token, (decode_round_trip,)),
    Check(request_time_seconds, (process_answer_keys, tokenize_answers)),
]
