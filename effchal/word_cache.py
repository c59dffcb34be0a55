"""Encode many texts word by word, each word once, where that gives the ids of the whole text.

A byte-level BPE tokenizer cuts a text into words before it merges anything, and a single space
between two other characters always begins a word. So the ids of what stands between such spaces do
not depend on the rest. Natural text repeats its words, so most of them are looked up.
"""

import json
import re
from itertools import chain
from typing import Any

BORDER = re.compile(r" (?<=\S )(?=\S)")  # a space between two other characters
MOST_WORDS = 500_000  # remembered at a time
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
        self._ids: dict[str, list[int]] = {}  # of a space and the word

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without the tokens that begin or end one."""
        if len(self._ids) > MOST_WORDS:
            self._ids = {}
        cut = [BORDER.split(text) for text in texts]
        result = self._encode([words.pop(0) for words in cut])
        for ids, words in zip(result, cut, strict=True):
            found: list[Any] = list(map(self._ids.get, words))
            if None in found:
                self._learn({word for word, known in zip(words, found, strict=True) if not known})
                found = list(map(self._ids.get, words))
            ids += chain.from_iterable(found)
        return result

    def _learn(self, words: set[str]) -> None:
        self._ids.update(zip(words, self._encode([f" {word}" for word in words]), strict=True))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [
            each.ids for each in self._backend.encode_batch_fast(texts, add_special_tokens=False)
        ]


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
