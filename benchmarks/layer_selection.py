"""How often selectors of DoLa's layer disagree on real text: layer_selection.py [--model FOLDER]

For every position of the questions and answers that ship with the project: the layer that
Jensen-Shannon divergence picks, the one that the published code's formula picks, and the one that
either picks for a whole batch by the mean over its rows, as published code and transformers do.
Then how often the best token after the contrast differs. Writes
experiments/layer_selection/results.csv.
"""

import argparse
import csv
import json
from collections import Counter

import torch
from common import ROOT, SMOLLM2, admitted_engine, instructions
from torch import Tensor

from effchal.decoding.contrast import Dola, taps_of
from effchal.decoding.engine import Engine
from effchal.decoding.layer_logits import LayerLogits
from effchal.decoding.layers import candidate_layers

BATCH = 8  # texts that decode side by side
POSITIONS_AT_ONCE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(SMOLLM2))
    parser.add_argument("--texts", type=int, default=88)
    args = parser.parse_args()
    engine = admitted_engine(args.model)
    rows = instructions()[: args.texts]
    texts = [
        engine.tokenizer(f"Q: {row['instruction']}\nA: {row['output']}").input_ids for row in rows
    ]
    table = []
    for bucket in ("low", "high"):
        for exit_norm in (False, True):
            layers = candidate_layers(bucket, engine.model.num_layers, engine.model.tied)
            counts = compare(engine, texts, layers, exit_norm)
            positions = counts.pop("positions")
            for (what, a, b), count in sorted(counts.items()):
                row = {
                    "layers": bucket,
                    "exit_norm": exit_norm,
                    "positions": positions,
                    "differs": what,
                }
                table.append(row | {"a": a, "b": b, "share": round(count / positions, 4)})
                print(json.dumps(table[-1]), flush=True)
    with (ROOT / "experiments" / "layer_selection" / "results.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, table[0])
        writer.writeheader()
        writer.writerows(table)


def compare(
    engine: Engine, texts: list[list[int]], layers: tuple[int, ...], exit_norm: bool
) -> Counter:
    """Counts of positions where two selectors pick another layer, or another token."""
    counts: Counter = Counter()
    for first in range(0, len(texts), BATCH):
        batch = texts[first : first + BATCH]
        read = [each(engine, ids, layers, exit_norm) for ids in batch]
        longest = max(len(ids) for ids in batch)
        for at in range(longest):
            alive = [(logits, at) for logits in read if at < len(logits[0])]
            count_position(counts, alive)
    return counts


def each(
    engine: Engine, ids: list[int], layers: tuple[int, ...], exit_norm: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of one text: the best token after contrasting each layer, and divergences by selector.

    Returns:
        (T, K) token ids, and (T, K) for each selector.
    """
    contrast = Dola(layers, exit_norm=exit_norm)
    taps = taps_of([contrast])
    best, divergence = [], {"jsd": [], "official": []}
    with torch.inference_mode():
        every = torch.arange(len(ids))
        states = engine.model.states(torch.tensor([ids]), every[None], None, None, taps, every)
        for part in states.split(POSITIONS_AT_ONCE, dim=1):
            logits: LayerLogits = engine.model.lm_head.logits(part, taps)
            at = torch.arange(part.shape[1])
            single = [Dola((layer,), exit_norm=exit_norm) for layer in layers]
            tokens = [one.scores(logits, at)[0].argmax(-1) for one in single]
            best.append(torch.stack(tokens, dim=-1))
            for selector, found in divergence.items():
                found.append(logits.divergence(selector).T)
    return torch.cat(best), {selector: torch.cat(found) for selector, found in divergence.items()}


def count_position(
    counts: Counter, alive: list[tuple[tuple[Tensor, dict[str, Tensor]], int]]
) -> None:
    """Compare the selectors on the rows of a batch that reach this position."""
    at = alive[0][1]
    tokens = torch.stack([best[at] for (best, _), _ in alive])  # (rows, K)
    picks = {}
    for selector in ("jsd", "official"):
        divergence = torch.stack([found[selector][at] for (_, found), _ in alive])  # (rows, K)
        picks[selector] = divergence.argmax(-1)
        picks[f"{selector}, mean over the batch"] = divergence.mean(0).argmax(-1).expand(len(alive))
    counts["positions"] += len(alive)
    names = list(picks)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            counts["layer", a, b] += int((picks[a] != picks[b]).sum())
            rows = torch.arange(len(alive))
            counts["token", a, b] += int((tokens[rows, picks[a]] != tokens[rows, picks[b]]).sum())


if __name__ == "__main__":
    main()
