"""POST /v1/completions and what else lm-eval and OpenAI clients ask for."""

import json
import math
from typing import Any

from effchal.conformance_checks.client import Server
from effchal.conformance_checks.completion_requests import (
    LISTS,
    PROMPT,
    choices,
    greedy_text,
    logprobs_of,
    model_name,
    text_of,
)
from effchal.conformance_checks.helm_requests import NO_CHARACTER, is_number, json_object, tokenize
from effchal.conformance_checks.tokenizer import TEXTS, tokenize_answers, tokenize_no_bos
from effchal.conformance_checks.verdict import Broken, CannotTell, Check, require

CLOSE = 1e-3
ECHO: dict[str, Any] = {"echo": True, "logprobs": 5, "max_tokens": 0}


def completions_text(server: Server) -> None:
    """POST /v1/completions takes a string as prompt."""
    found = choices(server)
    require(len(found) == 1, f"{len(found)} choices for one prompt")


def completions_texts(server: Server) -> None:
    """POST /v1/completions takes a list of strings: a choice for each, in their order."""
    prompts = [PROMPT, TEXTS[0]]
    found = [choice["text"] for choice in choices(server, prompts, echo=True, max_tokens=2)]
    ok = len(found) == 2 and all(map(str.startswith, found, prompts))
    require(ok, f"the texts of two echoed prompts are {found}")


def completions_ids(server: Server) -> None:
    """POST /v1/completions takes token ids as prompt, and lists of them."""
    ids = [tokenize(server, text) for text in (PROMPT, TEXTS[0])]
    for prompt, count in ((ids[0], 1), ([ids[0]], 1), (ids, 2)):
        found = choices(server, prompt, max_tokens=2)
        require(len(found) == count, f"{len(found)} choices for {count} lists of ids")


def completions_logprobs(server: Server) -> None:
    """With logprobs a choice has tokens, token_logprobs, top_logprobs and text_offset, of one
    length."""
    for prompt in (PROMPT, TEXTS[0]):
        found = logprobs_of(choices(server, prompt, logprobs=3, max_tokens=6)[0])
        values = found["token_logprobs"]
        require(all(map(is_number, values)), f"token_logprobs are {values}")


def completions_echo(server: Server) -> None:
    """echo with logprobs and max_tokens 0 gives the log-probabilities of the prompt's own tokens:
    null for the first one, finite for the others, and no new token."""
    ids = tokenize(server, TEXTS[0])
    found = logprobs_of(choices(server, [ids], **ECHO)[0])
    values = found["token_logprobs"]
    require(len(values) == len(ids), f"{len(values)} log-probabilities of {len(ids)} tokens")
    require(values[0] is None, f"the first token has {values[0]}")
    wrong = [each for each in values[1:] if not is_number(each) or not -math.inf < each < 1e-4]
    require(not wrong, f"log-probabilities of later tokens are {wrong[:3]}")


def completions_text_offset(server: Server) -> None:
    """text_offset says where in the text each token begins."""
    choice = choices(server, TEXTS[0], **ECHO)[0]
    found, text = logprobs_of(choice), choice["text"]
    for offset, token in zip(found["text_offset"], found["tokens"], strict=True):
        ok = isinstance(offset, int) and text[offset:].startswith(token)
        require(ok, f"token {token!r} has offset {offset} in {text!r}")


def completions_greedy_exact(server: Server) -> None:
    """A greedy token's log-probability is exactly the top one's, to the last bit: lm-eval tells
    greedy answers by that."""
    for prompt in (PROMPT, TEXTS[0]):
        found = logprobs_of(choices(server, prompt, logprobs=2, max_tokens=8)[0])
        for value, top in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
            best = max((top or {}).values(), default=None)
            require(value == best, f"a greedy token has {value!r}, the top one {best!r}")
    found = logprobs_of(choices(server, TEXTS[0], **ECHO)[0])
    for token, value, top in list(zip(*(found[each] for each in LISTS[:3]), strict=True))[1:]:
        same = (top or {}).get(token)
        # Another token of the same text has another value altogether.
        inexact = same is not None and same != value and abs(same - value) < CLOSE
        require(not inexact, f"an echoed token has {value!r}, and {same!r} among the top ones")


def completions_greedy(server: Server) -> None:
    """temperature 0 gives the same text each time."""
    texts = {text_of(server) for _ in range(3)}
    require(len(texts) == 1, f"three requests got {sorted(texts)}")


def completions_top_p(server: Server) -> None:
    """top_p limits sampling: one that leaves only the most likely token gives the greedy text."""
    prompt, greedy = greedy_text(server, at_least=1)
    for _ in range(2):
        text = text_of(server, prompt, temperature=1.0, top_p=1e-5)
        require(text == greedy, f"top_p=0.00001 gave {text!r}, greedy is {greedy!r}")


def completions_stop(server: Server) -> None:
    """stop, a string or a list, ends the text before it."""
    prompt, whole = greedy_text(server)
    middle = len(whole) // 2
    pairs = [whole[at : at + 2] for at in [*range(middle, len(whole) - 1), *range(middle)]]
    pairs = [pair for pair in pairs if NO_CHARACTER not in pair]
    if not pairs:
        raise CannotTell(f"no two characters follow one another in {whole!r}")
    stop = next((pair for pair in pairs if whole.find(pair) > 0), pairs[0])
    for given in (stop, [stop], ["\u2603 is nowhere", stop]):
        text, expected = text_of(server, prompt, stop=given), whole[: whole.find(stop)]
        require(text == expected, f"with stop {given!r} the text is {text!r}; without, {whole!r}")


def completions_n(server: Server) -> None:
    """n gives so many choices."""
    count = len(choices(server, n=2, temperature=1.0))
    require(count == 2, f"{count} choices where n is 2")


def completions_seed(server: Server) -> None:
    """The same seed gives the same sample, another one another."""

    def sample(seed: int) -> str:
        return text_of(server, temperature=1.2, seed=seed)

    first, again, *others = map(sample, (5, 5, 6, 7, 8))
    require(first == again, f"seed=5 gave {first!r} and {again!r}")
    if {first} == set(others):
        raise CannotTell("four seeds gave the same text: the model may be that sure of it")


def completions_stream(server: Server) -> None:
    """With stream the answer comes as server-sent events, which together are the text, and then
    [DONE]."""
    expected = text_of(server)
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "stream": True}
    name = model_name(server)
    exchange = server.post("/v1/completions", body | ({"model": name} if name else {}))
    require(exchange.status == 200, exchange.summary())
    kind = exchange.headers.get("content-type", "")
    require(kind.startswith("text/event-stream"), f"its content type is {kind!r}")
    lines = [line for line in exchange.received.splitlines() if line.startswith("data:")]
    data = [line.removeprefix("data:").strip() for line in lines]
    require(data[-1:] == ["[DONE]"], f"the last event is {data[-1:]}")
    text = "".join(map(text_of_event, data[:-1]))
    require(text == expected, f"the events' text is {text!r}; without stream, {expected!r}")


def text_of_event(data: str) -> str:
    """Raises Broken where an event is no chunk of a completion."""
    try:
        return "".join(choice["text"] for choice in json.loads(data)["choices"])
    except (ValueError, TypeError, KeyError) as error:
        raise Broken(f"an event is no chunk of a completion: {data:.200}") from error


def models(server: Server) -> None:
    """GET /v1/models names the model."""
    require(model_name(server) is not None, f"it names none: {server.get('/v1/models').summary()}")


def tokenizer_info(server: Server) -> None:
    """GET /tokenizer_info tells eos_token, and bos_token, pad_token and chat_template if any."""
    info = json_object(server.get("/tokenizer_info"))
    require(isinstance(info.get("eos_token"), str), f"eos_token is {info.get('eos_token')!r}")
    for name in ("bos_token", "pad_token", "chat_template"):
        value = info.get(name)
        require(value is None or isinstance(value, str), f"{name} is {value!r:.100}")


def detokenize(server: Server) -> None:
    """POST /detokenize takes {tokens} and gives {prompt}, the text that they spell."""
    for text in TEXTS:
        answer = json_object(server.post("/detokenize", {"tokens": tokenize(server, text)}))
        require(answer.get("prompt") == text, f"{text!r} came back as {answer.get('prompt')!r}")


_TEXT, _IDS = (completions_text,), (completions_text, tokenize_answers)
CHECKS = [
    Check(completions_text),
    Check(completions_texts, _TEXT),
    Check(completions_ids, _IDS),
    Check(completions_logprobs, _TEXT),
    Check(completions_echo, (*_IDS, completions_ids, completions_logprobs)),
    Check(completions_text_offset, (completions_echo,)),
    Check(completions_greedy_exact, (completions_echo,)),
    Check(completions_greedy, _TEXT),
    Check(completions_top_p, (completions_greedy,)),
    Check(completions_stop, (completions_greedy,)),
    Check(completions_n, _TEXT),
    Check(completions_seed, _TEXT),
    Check(completions_stream, (completions_greedy,)),
    Check(models),
    Check(tokenizer_info),
    Check(detokenize, (tokenize_answers, tokenize_no_bos)),
]
