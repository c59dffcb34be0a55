"""POST /process: temperature, top_p, alternatives and stop sequences."""

from effchal.conformance_checks.client import Server
from effchal.conformance_checks.helm_requests import (
    NO_CHARACTER,
    PROMPTS,
    Answer,
    greedy_answer,
    process,
)
from effchal.conformance_checks.process_answers import (
    process_answer_keys,
    process_tokens_spell_text,
)
from effchal.conformance_checks.verdict import CannotTell, Check, require

SAMPLES = 4
CLOSE = 1e-3  # of log-probabilities of two requests: products round


def process_greedy(server: Server) -> None:
    """A temperature at or below 1e-6 is greedy: the most likely token, so the same text each
    time."""
    for prompt in PROMPTS[:2]:
        answers = [process(server, prompt, temperature=each) for each in (1e-7, 0, 1e-6, 1e-7)]
        texts = [answer.text for answer in answers]
        require(len(set(texts)) == 1, f"four greedy requests got {sorted(set(texts))}")
        for value, top in zip(answers[0].logprobs, answers[0].top, strict=True):
            best = max(top.values(), default=value)
            is_less = value < best - CLOSE
            require(not is_less, f"a token has {value}, the most likely one {best}")


def process_top_p(server: Server) -> None:
    """top_p limits sampling: one that leaves only the most likely token gives the greedy text."""
    prompt, greedy = greedy_answer(server, at_least=1)
    for _ in range(2):
        text = process(server, prompt, temperature=1.0, top_p=1e-5).text
        require(text == greedy.text, f"top_p=0.00001 gave {text!r}, greedy is {greedy.text!r}")


def process_alternatives(server: Server) -> None:
    """top_k_per_token is how many alternatives each token's top_logprob reports."""
    for count in (1, 3):
        answer = process(server, top_k_per_token=count, max_new_tokens=8)
        for top in answer.top:
            # Tokens of the same text are one entry; some servers add the token itself.
            ok = 1 <= len(top) <= count + 1
            require(ok, f"{len(top)} alternatives where top_k_per_token is {count}")


def process_alternatives_do_not_sample(server: Server) -> None:
    """top_k_per_token does not limit sampling."""

    def texts(count: int) -> set[str]:
        asked = {"temperature": 1.5, "top_k_per_token": count}
        return {process(server, PROMPTS[1], **asked).text for _ in range(SAMPLES)}

    if len(texts(1)) == 1:
        if len(texts(20)) == 1:
            raise CannotTell(f"{SAMPLES} samples at temperature 1.5 are the same anyway")
        require(False, "samples vary with top_k_per_token=20, and not with 1")


def process_stops(server: Server) -> None:
    """stop_sequences end the text before the first of them, which is not part of it."""
    prompt, whole = greedy_answer(server)
    stop = token_in(whole)
    check_stop(server, prompt, whole.text, [stop])
    check_stop(server, prompt, whole.text, ["\u2603 is nowhere", stop])


def process_stops_cut_tokens(server: Server) -> None:
    """A stop sequence cuts text and tokens alike."""
    prompt, whole = greedy_answer(server)
    for stop in (token_in(whole), across_tokens(whole) or token_in(whole)):
        answer = process(server, prompt, stop_sequences=[stop])
        spelled = "".join(answer.tokens)
        require(spelled == answer.text, f"the tokens spell {spelled!r}, text: {answer.text!r}")


def process_stops_across_tokens(server: Server) -> None:
    """A stop sequence is matched on the decoded text: also where it straddles tokens, as "\\n\\n"
    does, which is other tokens alone than in context."""
    prompt, whole = greedy_answer(server)
    stop = across_tokens(whole)
    if stop is None:
        raise CannotTell(f"no two tokens of text follow one another in {whole.text!r}")
    check_stop(server, prompt, whole.text, [stop])


def token_in(answer: Answer) -> str:
    """The text of a token that is nowhere before it, from the later part of an answer if it can
    be."""
    found, offset = [], 0
    for text in answer.tokens:
        if is_stop(text) and answer.text.find(text) == offset:
            found.append(text)
        offset += len(text)
    if not found:
        raise CannotTell(f"no token of {answer.text!r} can be a stop sequence")
    return found[len(found) // 2]


def is_stop(text: str) -> bool:
    return bool(text.strip()) and NO_CHARACTER not in text


def across_tokens(answer: Answer) -> str | None:
    """The end of one token with the beginning of the next one, later than the text's beginning if
    there is such a pair."""
    pairs = zip(answer.tokens, answer.tokens[1:], strict=False)
    found = [first[-1] + second[0] for first, second in pairs if first and second]
    stops = [pair for pair in found if is_stop(pair)]
    single = [pair for pair in stops if not any(pair in token for token in answer.tokens)]
    single.sort(key=lambda pair: answer.text.find(pair) <= 0)
    return next(iter(single), None)


def check_stop(server: Server, prompt: str, whole: str, stops: list[str]) -> None:
    """Raises Broken unless the answer with these stops is `whole` up to the first of them."""
    text = process(server, prompt, stop_sequences=stops).text
    expected = whole[: min(at for stop in stops if (at := whole.find(stop)) >= 0)]
    how = f"with stop_sequences {stops} the text is {text!r}; without, {whole!r}"
    require(text == expected, how)


CHECKS = [
    Check(process_greedy, (process_answer_keys,)),
    Check(process_top_p, (process_greedy,)),
    Check(process_alternatives, (process_answer_keys,)),
    Check(process_alternatives_do_not_sample, (process_answer_keys,)),
    Check(process_stops, (process_greedy,)),
    Check(process_stops_cut_tokens, (process_greedy, process_tokens_spell_text)),
    Check(process_stops_across_tokens, (process_stops,)),
]
