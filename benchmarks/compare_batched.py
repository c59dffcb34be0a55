"""Answers in a batch against the same alone: compare_batched.py [--dtype bfloat16]

Prompts are the instructions that ship with the project, every other one after the same examples, so
that lengths differ; with --few-shot all of them, so that a step attends to the examples once for
all rows. One JSON line a decoding: how many answers are the same, how many differ first at a tie
(the two best tokens closer than --tie, or two layers as in compare_dola.py), how many elsewhere.
Then the exit status is 1, unless states are bfloat16.
"""

import argparse
import sys
from collections import Counter

import torch
from common import SMOLLM2, admitted_engine, instructions, print_result
from compare_dola import TIED_LAYERS, margins

from effchal.decoding.contrast import Contrast, Dola, Greedy, Sled
from effchal.decoding.engine import Engine
from effchal.decoding.layers import candidate_layers
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Completion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(SMOLLM2))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--few-shot", action="store_true")
    parser.add_argument("--tie", type=float, default=1e-4, help="nats")
    args = parser.parse_args()
    engine = admitted_engine(args.model, args.dtype)
    exact = engine.model.dtype is torch.float32
    prompts = make_prompts(engine, args.prompts, args.few_shot)
    high = candidate_layers("high", engine.model.num_layers, engine.model.tied)
    found = {}
    contrasts: list[Contrast] = [Greedy(), Dola(high), Sled(high)]
    for contrast in contrasts:
        name = type(contrast).__name__.lower()
        found[name] = compare(engine, prompts, contrast, args)
        setting = {"decoding": name, "dtype": args.dtype, "rounds": not exact, "rows": args.rows}
        print_result(setting | found[name])
    sys.exit(exact and any(each["different"] for each in found.values()))


def make_prompts(engine: Engine, count: int, few_shot: bool) -> list[list[int]]:
    rows = instructions()
    examples = "".join(f"Q: {row['instruction']}\nA: {row['output']}\n\n" for row in rows[-5:])
    engine.hold_prefixes([(engine.tokenizer(examples).input_ids, "")])
    asked = [f"Q: {row['instruction']}\nA:" for row in rows[:count]]
    return [
        engine.tokenizer(examples * (few_shot or i % 2) + text).input_ids
        for i, text in enumerate(asked)
    ]


def compare(
    engine: Engine, prompts: list[list[int]], contrast: Contrast, args: argparse.Namespace
) -> dict:
    params = SamplingParams(max_new_tokens=args.new_tokens, contrast=contrast, alternatives=2)
    counts, tokens, apart = Counter(same=0, tie=0, different=0), 0, 0.0
    batched = engine.generate(prompts, [[params]] * len(prompts), args.rows)
    for ids, (together,) in zip(prompts, list(batched), strict=True):
        alone = engine.complete(ids, params)
        first = next(
            (i for i, (a, b) in enumerate(zip(alone.ids, together.ids, strict=False)) if a != b),
            None,
        )
        same = len(alone.tokens) if first is None else first
        for ours, theirs in zip(alone.tokens[:same], together.tokens[:same], strict=False):
            apart = max(apart, abs(ours.logprob - theirs.logprob))
        tokens += same
        if first is None:
            counts["same"] += 1
        else:
            both = [each for each in (alone, together) if first < len(each.tokens)]  # not ended
            gaps = [gap(each, first) for each in both]
            tie = min(gaps) < args.tie
            if isinstance(contrast, Dola) and not tie:
                chosen = (alone.ids[first], together.ids[first])
                tie = margins(engine, ids + alone.ids[:first], contrast, *chosen)[1] < TIED_LAYERS
            counts["tie" if tie else "different"] += 1
    return {
        "answers": len(prompts),
        **counts,
        "tokens_until_first_difference": tokens,
        "logprobs_apart": apart,
    }


def gap(completion: Completion, at: int) -> float:
    """Nats between the two most probable tokens."""
    first, second = list(completion.tokens[at].top_logprobs.values())[:2]
    return first - second


if __name__ == "__main__":
    main()
