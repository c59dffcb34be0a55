"""Faults of one row: answers without text, answers that loop; and what makes two rows the same."""

import hashlib
import re
from dataclasses import dataclass, replace

import numpy as np

from effchal.config import CleanConfig
from effchal.config.choices import OnFault
from effchal.mixing.example import Example
from effchal.mixing.words import (
    joined_hashes,
    one_spelling,
    parts,
    phrase_hashes,
    word_hashes,
    words,
)
from effchal.prompts.encoder import Turn

# An answer loops if it repeats up to 100 words, a letter among them, 8 times in a row, and the
# repeats cover 50 words. It also loops if up to 8 bytes, not blank and without a digit, repeat over
# 300 bytes.
LOOP_TIMES, LOOP_WORDS, LOOP_PERIOD = 8, 50, 100
LOOP_BYTES, LOOP_BYTE_PERIOD = 300, 8
LOOP_AGAIN = 16  # phrases of four words that any loop of words has at least twice
_BLANK = re.compile("[\\s\u200b-\u200d\u2060\ufeff]*")  # with characters of no width


@dataclass(frozen=True)
class Fault:
    rule: str  # a key of data_mix.clean
    detail: str  # for people: what was found, and where


def fault_of(example: Example, cfg: CleanConfig) -> Fault | None:
    """The first fault of a row by the rules of the config that are not `keep`."""
    for number, turn in enumerate(example.turns, start=1):
        if not is_learned(turn):
            continue
        if _BLANK.fullmatch(turn.content):
            return Fault("empty_answers", f"turn {number} is an answer without text")
        if cfg.loops is not OnFault.keep and (loop := loop_of(turn.content)):
            phrase, times = loop
            return Fault("loops", f"turn {number} says {phrase!r} {times} times in a row")
    return None


def faults_of(examples: list[Example], cfg: CleanConfig) -> list[Fault | None]:
    """`fault_of` of each row, several times as fast."""
    found: list[Fault | None] = []
    quick = replace(cfg, loops=OnFault.keep)
    for part in parts(map(characters_of, examples)):
        some = examples[part]
        looping = _may_loop(some) if cfg.loops is not OnFault.keep else set()
        found += [fault_of(e, cfg if row in looping else quick) for row, e in enumerate(some)]
    return found


def _may_loop(examples: list[Example]) -> set[int]:
    """Rows of which some answer repeats itself near by; all that loop are among them."""
    turns = [
        (row, turn.content)
        for row, each in enumerate(examples)
        for turn in each.turns
        if is_learned(turn)
    ]
    hashes, begins = joined_hashes(tuple(content for _, content in turns))
    likely = set(np.flatnonzero(_repeated_phrases(hashes, begins) >= LOOP_AGAIN).tolist())
    content = np.frombuffer("".join(text for _, text in turns).encode(), np.uint8)
    ends = np.cumsum([len(text.encode()) for _, text in turns])
    for period in range(1, LOOP_BYTE_PERIOD + 1):
        same = content[period:] == content[:-period]
        blocks = same[: len(same) // 128 * 128].reshape(-1, 128).all(1)  # a loop has one inside
        likely |= {*np.searchsorted(ends, 128 * np.flatnonzero(blocks), "right").tolist()}
    return {turns[at][0] for at in likely}


def characters_of(example: Example) -> int:
    return sum(len(turn.content) for turn in example.turns)


def is_learned(turn: Turn) -> bool:
    return turn.learn and turn.role in ("assistant", "text")


def loop_of(text: str) -> tuple[str, int] | None:
    """What a text says over and over, cut to 100 characters, and how many times in a row."""
    content = np.frombuffer(text.encode(), np.uint8)
    for period in range(1, LOOP_BYTE_PERIOD + 1):
        start, length = _longest_run(content, period, LOOP_BYTES)
        unit = content[start : start + period].tobytes().decode(errors="ignore")
        if length and not unit.isspace() and not any(map(str.isdigit, unit)):
            return unit, length // period
    hashes = word_hashes(text)
    for period in _likely_periods(hashes):
        start, length = _longest_run(hashes, period, max(LOOP_WORDS, LOOP_TIMES * period))
        phrase = " ".join(words(text)[start : start + period]) if length else ""
        if any(character.isalpha() for character in phrase):
            return phrase if len(phrase) <= 100 else f"{phrase[:97]}...", length // period
    return None


def _likely_periods(hashes: np.ndarray) -> list[int]:
    """Distances in words at which phrases of four words come again often enough for a loop."""
    phrases = phrase_hashes(hashes, 4)
    order = np.argsort(phrases, kind="stable")
    distances = np.diff(order)
    again = (phrases[order[1:]] == phrases[order[:-1]]) & (distances <= LOOP_PERIOD)
    counts = np.bincount(distances[again], minlength=1)
    return np.flatnonzero(counts >= LOOP_AGAIN).tolist()


def _repeated_phrases(hashes: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """(texts,) how many phrases of four words come again in their text; some are counted too much.

    Each phrase writes its number into a slot. Who does not find it there was followed by the
    same phrase, or rarely by another one of that slot.
    """
    phrases = phrase_hashes(hashes, 4)
    text = np.repeat(np.arange(len(begins) - 1), np.diff(begins))[: len(phrases)]
    count = 1 << (8 * len(phrases)).bit_length()
    slots = (phrases ^ text.astype(np.uint64)) & np.uint64(count - 1)
    last = np.empty(count, np.int32)
    numbers = np.arange(len(phrases), dtype=np.int32)
    last[slots] = numbers
    return np.bincount(text[last[slots] != numbers], minlength=len(begins) - 1)


def _longest_run(values: np.ndarray, period: int, shortest: int) -> tuple[int, int]:
    """Start and length of the longest stretch that repeats itself; (0, 0) below `shortest`."""
    same = values[period:] == values[:-period]
    if np.count_nonzero(same) < shortest - period:
        return 0, 0
    ends = np.flatnonzero(np.diff(same, prepend=False, append=False))
    lengths = ends[1::2] - ends[::2] + period
    longest = int(lengths.argmax()) if len(lengths) else 0
    if not len(lengths) or lengths[longest] < shortest:
        return 0, 0
    return int(ends[2 * longest]), int(lengths[longest])


def text_key(example: Example) -> bytes:
    """16 bytes, the same for the same turns: case, white space and Unicode forms aside."""
    turns = [f"{t.role}\x1e{t.learn}\x1e{_plain(t.content)}" for t in example.turns]
    return hashlib.blake2b("\x1f".join(turns).encode(), digest_size=16).digest()


def _plain(text: str) -> str:
    """Neither of the separators above is left: they count as white space."""
    return " ".join(one_spelling(text).casefold().split())
