"""Forward passes over several prompts, beside rows that decode or without them."""

import itertools
from collections.abc import Iterable
from collections.abc import Sequence as Listed
from typing import TYPE_CHECKING

import torch

from effchal.decoding.contrast import taps_of
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Prefill, Sequence
from effchal.decoding.transfer import upload

if TYPE_CHECKING:
    from effchal.decoding.engine import Engine

PROMPT_CHUNK = 1024  # prompt tokens in one forward pass
PromptPart = tuple[Prefill, int]  # and how many of its tokens are read next


def start_all(
    engine: "Engine",
    prompts: Listed[list[int]],
    variants: Listed[list[SamplingParams]],
    adapters: Listed[str],
) -> list[list[Sequence]]:
    """Prefill prompts and choose each answer's first token; the sequences of each prompt.

    Prompts of one adapter that fit are read together: products of few tokens, such as a question
    behind known examples, are slower than those of many.
    """
    started: list[list[Sequence]] = [[] for _ in prompts]
    for adapter in dict.fromkeys(adapters):
        together: list[Prefill] = []
        for number, ids in enumerate(prompts):
            if adapters[number] != adapter:
                continue
            prefill = engine.begin(ids, variants[number], adapter)
            started[number] = prefill.sequences
            if not fit([*together, prefill], engine):
                read(together, engine)
                together = []
            together.append(prefill)
        read(together, engine)
    return started


def fit(prefills: list[Prefill], engine: "Engine") -> bool:
    """Whether one forward pass may read all that is left of them. An echo needs every state."""
    tokens = sum(each.left for each in prefills)
    few = engine.model.fits_together(tokens) and tokens <= PROMPT_CHUNK
    return few and engine.model.reads_in_chunks and not any(each.echoes for each in prefills)


def read(prefills: list[Prefill], engine: "Engine") -> None:
    """Read prompts to their ends: one alone in chunks, several in one forward pass."""
    if len(prefills) > 1:
        step(engine, [(each, each.left) for each in prefills], with_rows=False)
    else:
        for prefill in prefills:
            while not engine.prefill(prefill, PROMPT_CHUNK):
                pass


def parts_in_step(engine: "Engine", prefills: Iterable[Prefill], tokens: int) -> list[PromptPart]:
    """What the next step reads of prompts beside the rows: of the first ones, in their order.

    Args:
        tokens: at most so many of all together.
    """
    parts: list[PromptPart] = []
    rows, left = len(engine.rows), tokens
    for each in prefills:
        count = min(left, each.left)
        fits = engine.model.fits_together(rows + tokens - left + count)
        if not count or each.echoes or not fits:
            break
        parts.append((each, count))
        left -= count
    return parts


@torch.inference_mode()
def step(engine: "Engine", prompts: Listed[PromptPart], with_rows: bool) -> None:
    """One forward pass over the next tokens of prompts and, `with_rows`, of every row."""
    device, first = engine.model.device, len(engine.rows)
    chunks = [prefill.chunk(tokens, device) for prefill, tokens in prompts]
    contrasts = [each.params.contrast for prefill, _ in prompts for each in prefill.sequences]
    rows = list(range(first)) if with_rows else []
    ends = itertools.accumulate((tokens for _, tokens in prompts), initial=len(rows))
    last = [end - 1 for end in itertools.islice(ends, 1, None)]  # of each prompt's tokens
    at = torch.arange(len(rows), device=device)
    at = torch.cat([at, upload(last, device)]) if last else at
    taps = taps_of([*engine.contrasts(), *contrasts] if rows else contrasts)
    new = [engine.next_ids(), *chunks] if rows else chunks
    states = engine.model.extend(new, taps, at)  # (K + 1, rows + prompts, D)
    chosen = list(rows)  # positions whose next token is wanted
    for position, (prefill, _) in enumerate(prompts, len(rows)):
        if not prefill.left and engine.join(prefill):
            chosen.append(position)
    if chosen:
        kept = states if len(chosen) == len(at) else states[:, upload(chosen, device)]
        engine.advance([*rows, *range(first, len(engine.rows))], kept, taps)
