"""Our DoLa against transformers' own, token by token: compare_dola.py --peer-python <python>

Batch 1, selector official, relative_top 0.1, float32, greedy, the same layers. Prompts are the
instructions that ship with the project. A difference counts as a tie where, at the first token that
differs, our scores of the two tokens or our divergences of the two best layers are closer than
rounding can tell. <python>: see benchmarks/peers/dola.py.
"""

import argparse
import json
import math
import subprocess

import torch
from common import ROOT, SMOLLM2, admitted_engine, instructions, print_result

from effchal.decoding.contrast import Dola, taps_of
from effchal.decoding.engine import Engine
from effchal.decoding.layer_logits import LayerLogits
from effchal.decoding.sampling import SamplingParams

# Nats between scores: early logits reach hundreds, where float32 steps by 3e-5.
TIE = 1e-2
TIED_LAYERS = 1e-3  # of the divergence, relative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--model", default=str(SMOLLM2))
    parser.add_argument("--prompts", type=int, default=56)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, nargs="+", default=list(range(16, 30, 2)))
    args = parser.parse_args()
    engine = admitted_engine(args.model)
    engine.ends = set()  # as in the peer: every answer has all its tokens
    rows = instructions()[: args.prompts]
    prompts = [engine.tokenizer(row["instruction"]).input_ids for row in rows]
    job = json.dumps({"prompts": prompts, "layers": args.layers, "new_tokens": args.new_tokens})
    command = [args.peer_python, str(ROOT / "benchmarks" / "peers" / "dola.py"), args.model]
    peer = json.loads(
        subprocess.run(command, input=job, capture_output=True, text=True, check=True).stdout
    )
    contrast = Dola(tuple(args.layers), selector="official")
    counts = {"same": 0, "tie": 0, "different": 0}
    tokens = 0
    for number, (ids, theirs) in enumerate(zip(prompts, peer["answers"], strict=True)):
        ours = engine.complete(
            ids, SamplingParams(max_new_tokens=args.new_tokens, contrast=contrast)
        ).ids
        first = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None
        )
        tokens += len(ours) if first is None else first
        if first is None:
            counts["same"] += 1
            continue
        gap, layer_gap = margins(engine, ids + ours[:first], contrast, ours[first], theirs[first])
        tie = gap < TIE or layer_gap < TIED_LAYERS
        counts["tie" if tie else "different"] += 1
        print(f"prompt {number}, token {first}: scores {gap:.1e} apart, layers {layer_gap:.1e}")
    result = {
        "system": f"transformers {peer['version']}",
        "prompts": len(prompts),
        "layers": args.layers,
    }
    print_result(result | counts | {"tokens_until_first_difference": tokens})


@torch.inference_mode()
def margins(
    engine: Engine, ids: list[int], contrast: Dola, ours: int, theirs: int
) -> tuple[float, float]:
    """Distance of our scores of two tokens, and relative distance of the two largest divergences.

    Jensen-Shannon divergences crowd below ln 2, so with jsd it is relative to what the largest
    lacks of that.
    """
    taps = taps_of([contrast])
    positions, last = torch.arange(len(ids))[None], torch.tensor([len(ids) - 1])
    states = engine.model.states(torch.tensor([ids]), positions, None, None, taps, last)
    logits: LayerLogits = engine.model.lm_head.logits(states, taps)
    scores, _ = contrast.scores(logits, torch.tensor([0]))
    best, second = logits.divergence(contrast.selector)[:, 0].topk(2).values.tolist()
    scale = math.log(2) - best if contrast.selector == "jsd" else best
    return abs(float(scores[0, ours] - scores[0, theirs])), (best - second) / scale


if __name__ == "__main__":
    main()
