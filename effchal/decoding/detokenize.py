"""Token ids -> text, one token at a time, and stop sequences matched on that text."""

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are no whole character yet


class TokenTexts:
    """The text that each token adds to the ones before it; joined, they are the decoded whole.

    Decoding ids one by one would drop the spaces of SentencePiece and break characters whose bytes
    lie in several tokens. A token that only begins a character adds "", and the one that completes
    it adds the character. `tokenizers.decoders.DecodeStream` (0.23) does not do it: after a prompt
    that ends inside a character it gives out the prompt's tail, and some bytes make it raise.
    """

    WINDOW = 8  # tokens of context, enough for spaces and characters

    def __init__(
        self, tokenizer: Any, context: Sequence[int] = (), spell_special: bool = False
    ) -> None:
        """
        Args:
            context: ids before the first token, e.g. the prompt; none at the start of a text.
            spell_special: whether special tokens are part of the text; otherwise they add "".
        """
        self._tokenizer, self._skip_special = tokenizer, not spell_special
        self._ids = list(context[-self.WINDOW :])
        self._start, self._read = 0, len(self._ids)  # _ids[_start:_read] was given out last

    def _decode(self, ids: Sequence[int], skip_special: bool | None = None) -> str:
        skip = self._skip_special if skip_special is None else skip_special
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
        return text

    def special(self, token_id: int) -> str:
        """How a special token is spelled; "" for any other token."""
        if self._decode([token_id], skip_special=True):
            return ""
        return self._decode([token_id], skip_special=False)

    def peek(self, token_id: int) -> str:
        """What `token_id` would add now."""
        window = self._ids[self._start :]
        before = self._decode(window[: self._read - self._start])
        after = self._decode([*window, token_id])
        return "" if after.endswith(REPLACEMENT) else after[len(before) :]

    def add(self, token_id: int) -> str:
        """Append one token; the text that it adds."""
        added = self.peek(token_id)
        self._ids.append(token_id)
        if added:
            self._start, self._read = self._read, len(self._ids)
        return added

    def rest(self) -> str:
        """What a character cut off at the end decodes to: "" or replacement characters."""
        before = self._decode(self._ids[self._start : self._read])
        return self._decode(self._ids[self._start :])[len(before) :]


def find_stop(text: str, stops: Sequence[str], already_searched: int) -> int | None:
    """Index where the earliest stop sequence begins, or None.

    Args:
        already_searched: characters at the front that held no stop the last time.
    """
    found = []
    for stop in stops:
        index = text.find(stop, max(0, already_searched - len(stop) + 1))
        if index >= 0:
            found.append(index)
    return min(found, default=None)


def stop_begun(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of `text` that may be the beginning of a stop sequence."""
    return max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )


def end_of_first_line(text: str) -> int | None:
    """Index of the first line break after some text, or None."""
    start = len(text) - len(text.lstrip())
    index = text.find("\n", start)
    return index if index >= 0 else None
