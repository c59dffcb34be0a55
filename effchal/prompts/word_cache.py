"""Encode many texts word by word, each word once, where that gives the ids of the whole text.

A byte-level BPE tokenizer cuts a text into words before it merges anything, and a single space
between two other characters always begins a word. So the ids of what stands between such spaces do
not depend on the rest. Natural text repeats its words, so most of them are looked up.
"""

import json
import re
from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

BORDER = re.compile(r" (?<=\S )(?=\S)")  # a space between two other characters
MOST_WORDS = 500_000  # remembered at a time
Ints = npt.NDArray[Any]
# The patterns of GPT-2, Llama 3 and Qwen 2, by which words are cut. In none does a word hold a
# space behind its first character, unless it is white space alone.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    GPT2,
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{REST}",
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{REST}",
}


class WordCache:
    def __init__(self, backend: Any) -> None:
        """`backend` is a tokenizers.Tokenizer."""
        self._backend = backend
        self._ids: dict[str, bytes] = {}  # of a space and the word, as uint32
        self._ends: dict[str, bytes] = {}  # of what begins or ends a text, as it stands

    def encode(self, texts: list[str]) -> list[Ints]:
        """Ids of each text, (T,) uint32, without the tokens that begin or end one."""
        if len(self._ids) + len(self._ends) > MOST_WORDS:
            self._ids, self._ends = {}, {}
        cut = [text.split(" ") for text in texts]
        for i, words in enumerate(cut):
            if not _at_borders(words):
                cut[i] = BORDER.split(texts[i])
        middles = [self._known(words) for words in cut]
        with_new = [i for i, middle in enumerate(middles) if middle is None]
        self._learn(texts, cut, with_new)
        for i in with_new:
            middles[i] = self._known(cut[i])
        firsts = self._whole([words[0] for words in cut])
        lasts = self._whole([f" {words[-1]}" if len(words) > 1 else "" for words in cut])
        parts: Any = zip(firsts, middles, lasts, strict=True)
        return [np.frombuffer(b"".join(each), np.uint32) for each in parts]

    def _known(self, words: list[str]) -> bytes | None:
        """Ids of all words but the first and the last; None where one is new."""
        try:
            return b"".join(map(self._ids.__getitem__, words[1:-1]))
        except KeyError:
            return None

    def _learn(self, texts: list[str], cut: list[list[str]], which: list[int]) -> None:
        """Take in the new words of some texts; cut those again where a space is no border."""
        known, new = self._ids, set[str]()
        for i in which:
            found = {word for word in cut[i][1:-1] if word not in known}
            if any(not word or word[0].isspace() or word[-1].isspace() for word in found):
                cut[i] = BORDER.split(texts[i])
                found = {word for word in cut[i][1:-1] if word not in known}
            new |= found
        words = list(new)
        known.update(zip(words, self._encode([f" {word}" for word in words]), strict=True))

    def _whole(self, texts: list[str]) -> list[bytes]:
        new = list({text for text in texts if text not in self._ends})
        self._ends.update(zip(new, self._encode(new), strict=True))
        return [self._ends[text] for text in texts]

    def _encode(self, texts: list[str]) -> list[bytes]:
        found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [array("I", each.ids).tobytes() for each in found]


def _at_borders(words: list[str]) -> bool:
    """Whether the first and the last of a text's words, cut at spaces, end at a border.

    Words between them are looked at when they are new.
    """
    first, last = words[0], words[-1]
    return len(words) == 1 or bool(
        first and not first[-1].isspace() and last and not last[0].isspace()
    )


def cuts_at_spaces(backend: Any) -> bool:
    """Whether it is certain that a single space between other characters begins a word.

    Args:
        backend: a tokenizers.Tokenizer that takes special tokens for characters.
    """
    spec = json.loads(backend.to_str())
    first = spec["pre_tokenizer"] or {}
    cuts = first.get("pretokenizers", [first])
    by_pattern = [each for each in cuts if each["type"] == "Split"] if first else []
    by_bytes = [each for each in cuts if each.get("type") == "ByteLevel"]
    return (
        spec["model"]["type"] == "BPE"
        and not spec["model"]["dropout"]
        and (spec["normalizer"] or {"type": "NFC"})["type"] == "NFC"
        and {each.get("type") for each in cuts} <= {"Split", "Digits", "ByteLevel"}
        and all(
            each["pattern"].get("Regex") in PATTERNS
            and each["behavior"] == "Isolated"
            and not each["invert"]
            for each in by_pattern
        )
        and len(by_bytes) == 1
        and not by_bytes[0]["add_prefix_space"]
        and (bool(by_pattern) or by_bytes[0]["use_regex"])
        and not any(map(_may_cross_a_border, spec["added_tokens"]))
    )


def _may_cross_a_border(token: dict[str, Any]) -> bool:
    """Whether a token that is found before words are cut may reach over a border.

    Special tokens are not looked for: they are characters of ordinary text.
    """
    if token["special"]:
        return False
    takes_neighbours = token["lstrip"] or token["rstrip"] or token["single_word"]
    before_another = f"{token['content']}x"  # for a token that ends in a space
    return takes_neighbours or bool(BORDER.search(before_another))
