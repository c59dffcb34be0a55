"""Many prompts read in few forward passes: what is left of several short ones goes together."""

import itertools
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
        _read_together(prefills, engine)
    else:
        for prefill in prefills:
            while not engine.prefill(prefill, PROMPT_CHUNK):
                pass


@torch.inference_mode()
def _read_together(prefills: list[Prefill], engine: "Engine") -> None:
    device, first = engine.model.device, len(engine.rows)
    ends = list(itertools.accumulate(each.left for each in prefills))
    chunks = [each.chunk(each.left, device) for each in prefills]
    taps = taps_of(each.params.contrast for one in prefills for each in one.sequences)
    states = engine.model.extend(chunks, taps, upload([end - 1 for end in ends], device))
    joined = [number for number, each in enumerate(prefills) if engine.join(each)]
    if joined:
        kept = states if len(joined) == len(prefills) else states[:, upload(joined, device)]
        engine.advance(list(range(first, len(engine.rows))), kept, taps)
