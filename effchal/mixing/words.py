"""Texts as words, whatever their spelling, and hashes of words and of phrases, without a loop."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

# A character of Chinese, Japanese or Korean is a word of its own.
_ONE_WORD = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3])")
# At most so many rows and so many characters are hashed at a time; a longer row goes alone. Thus
# arrays of short rows fit a processor's cache, and those of long rows stay small.
TOGETHER, CHARACTERS = 64, 500_000
_NO_WORD = re.compile("[^\\w\x00-\x7f]")
_WORD = re.compile("[0-9a-z\u0080-\U0010ffff]+")
_IS_WORD = np.zeros(256, np.bool_)
_IS_WORD[[*b"0123456789abcdefghijklmnopqrstuvwxyz", *range(128, 256)]] = True
_BASE, _INVERSE = 0x9E3779B97F4A7C15, pow(0x9E3779B97F4A7C15, -1, 2**64)


def plain(text: str) -> str:
    """The text in small letters and in one spelling (Unicode NFKC), with ASCII's signs alone."""
    if text.isascii():
        return text.lower()
    # Again after it: the small letter of a composed character may be two.
    text = one_spelling(one_spelling(text).casefold())
    for character in set(text):
        if character > "\x7f" and _NO_WORD.match(character):
            text = text.replace(character, " ")
    return _ONE_WORD.sub(r" \1 ", text) if _ONE_WORD.search(text) else text


def one_spelling(text: str) -> str:
    """Characters that mean the same, as the same (Unicode NFKC)."""
    is_so = unicodedata.is_normalized("NFKC", text)  # a fraction of the time of normalising
    return text if is_so else unicodedata.normalize("NFKC", text)


def words(text: str) -> list[str]:
    """Letters and digits in a row are a word."""
    return _WORD.findall(plain(text))


def parts(sizes: Iterable[int]) -> Iterator[slice]:
    """Rows to hash together, by the characters of each row."""
    start = end = total = 0
    for size in sizes:
        if end > start and (end - start == TOGETHER or total + size > CHARACTERS):
            yield slice(start, end)
            start, total = end, 0
        end, total = end + 1, total + size
    if end > start:
        yield slice(start, end)


def word_hashes(text: str) -> np.ndarray:
    """(words,) uint64, the same for the same word on every machine."""
    return joined_hashes((text,))[0]


@lru_cache(maxsize=16)  # one rule after another asks for the same rows
def joined_hashes(texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(all words,) uint64 hashes of texts one after another, and (texts + 1,) where each begins.

    Many short texts together take a fraction of the time that they take alone.
    """
    contents = [plain(text).encode() for text in texts]
    content = np.frombuffer(b"\n".join([b"", *contents, b""]), np.uint8)
    edges = np.flatnonzero(np.diff(_IS_WORD.take(content))) + 1
    hashes = _mixed(_windows(content + np.uint64(1), edges[::2], edges[1::2]))
    begins = np.cumsum([0, *(len(each) + 1 for each in contents)])
    return hashes, np.searchsorted(edges[::2], begins)


def phrase_hashes(hashes: np.ndarray, length: int) -> np.ndarray:
    """(words - length + 1,) uint64: of each `length` words in a row; none in a shorter text."""
    starts = np.arange(max(0, len(hashes) - length + 1))
    return _mixed(_windows(hashes, starts, starts + length))


def _windows(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(windows,) uint64: polynomials, modulo 2^64, of the values from each start to its end."""
    up, down = _powers(len(values))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * up[: len(values)], out=sums[1:])
    return (sums[ends] - sums[starts]) * down[starts]


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Each bit of a hash in all bits of the new one (the end of MurmurHash3)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """At least `count` + 1 powers of the base and of its inverse; few tables for all sizes."""
    bits = max(14, count.bit_length())
    return _kept_powers(bits) if bits <= 20 else _new_powers(bits)  # a huge text leaves nothing


def _new_powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    up, down = (np.full(2**bits, base, np.uint64) for base in (_BASE, _INVERSE))
    for table in (up, down):
        table[0] = 1
        np.cumprod(table, out=table)
    return up, down


_kept_powers = lru_cache(_new_powers)
