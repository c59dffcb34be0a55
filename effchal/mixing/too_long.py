"""What to do with a conversation of too many tokens, other than cut its end."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from effchal.prompts.encoder import PromptEncoder, Turn


def split_by_turns(
    turns: Sequence[Turn], prompts: PromptEncoder, limit: int
) -> Iterator[list[Turn]]:
    """Parts of at most `limit` tokens, split where a question follows an answer.

    Each part begins with the system turn. A part of one question and its answer may still be
    too long.
    """
    system = [turn for turn in turns[:1] if turn.role == "system"]
    part: list[Turn] = []
    for exchange in _exchanges(turns[len(system) :]):
        longer = [*part, *exchange]
        if part and len(prompts.conversation_ids([*system, *longer])[0]) > limit:
            yield [*system, *part]
            longer = exchange
        part = longer
    yield [*system, *part]


def _exchanges(turns: Sequence[Turn]) -> Iterator[list[Turn]]:
    """Question and answer, with what stands between them."""
    exchange: list[Turn] = []
    for turn in turns:
        if exchange and exchange[-1].role == "assistant" and turn.role != "assistant":
            yield exchange
            exchange = []
        exchange.append(turn)
    yield exchange


def shortened(turns: Sequence[Turn], prompts: PromptEncoder, limit: int) -> Iterator[list[Turn]]:
    """The conversation with the beginning of its longest question left out, so that it fits.

    The cut stands between two words where there are some. Where all questions together are too
    short to make room, the conversation stays as it is.
    """
    result, excess = list(turns), 0
    asked = [i for i, turn in enumerate(turns) if turn.role in ("user", "tool")]
    for i in sorted(asked, key=lambda i: -len(turns[i].content)):
        excess = len(prompts.conversation_ids(result)[0]) - limit
        while excess > 0 and result[i].content:
            content = result[i].content
            tokens = max(1, len(prompts.text_ids(content)))
            start = max(1, min(len(content), -(-excess * len(content) // tokens)))
            space = content.find(" ", start)
            kept = content[space + 1 :] if 0 <= space < start + 50 else content[start:]
            result[i] = replace(turns[i], content=kept)
            excess = len(prompts.conversation_ids(result)[0]) - limit
    yield list(turns) if excess > 0 else result
