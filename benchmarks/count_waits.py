"""How often the host waits for a GPU in a step of decoding, counted without a GPU.

    python benchmarks/count_waits.py [--rows 4]

The tiny model lies on a GPU that is not there, see made_up_gpu.py. One JSON line for each way to
decode, with the waits of a step and where they are.
"""

import argparse
import json
from collections import Counter
from typing import Any

import torch
from made_up_gpu import DEVICE, made_up_gpu
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.contrast import Dola, Sled
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.kernels.step_graphs import Record
from effchal.model.load import load_base_model
from effchal.model.tokenizer import load_tokenizer

STEPS = 3
SAMPLED = {"temperature": 0.8, "top_p": 0.9}
WAYS: dict[str, list[dict[str, Any]]] = {
    "greedy": [{}],
    "dola": [{"contrast": Dola((0, 1))}],
    "dola, exit_norm": [{"contrast": Dola((0, 1), exit_norm=True)}],
    "sled": [{"contrast": Sled((0, 1))}],
    "sampled": [{"temperature": 0.8}],
    "sampled, top_p": [SAMPLED],
    "sampled, top_k": [{"temperature": 0.8, "top_k": 20, "min_p": 0.1}],
    "alternatives": [{"alternatives": 5}],
    "repetition penalty": [{"repetition_penalty": 1.2}],
    "all of them": [
        {},
        {"contrast": Dola((0, 1))},
        {"contrast": Dola((0, 1), exit_norm=True), "alternatives": 2},
        {"contrast": Sled((0, 1)), **SAMPLED},
        {"temperature": 0.8, "top_k": 20, "repetition_penalty": 1.2},
    ],
}


def tiny_engine(dtype: torch.dtype, record: Record | None = None) -> Engine:
    """Call inside `made_up_gpu`."""
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
    with _disable_current_modes():
        model, tokenizer = load_base_model(cfg, torch.device("cpu")), load_tokenizer(cfg)
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                made_up = torch.empty(weight.shape, dtype=dtype, device=DEVICE)
                module._parameters[name] = nn.Parameter(made_up, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, device=DEVICE)
    return Engine(model, tokenizer, record)


def waits_of_steps(
    ways: list[dict[str, Any]],
    rows: int,
    dtype: torch.dtype,
    record: Record | None = None,
    before: int = 0,
) -> Counter[str]:
    """Places of the waits of STEPS steps with so many rows of each way.

    Args:
        record: of CUDA graphs.
        before: steps that do not count, e.g. until graphs are recorded.
    """
    with made_up_gpu() as waits:
        engine = tiny_engine(dtype, record)
        for row in range(rows):
            for way in ways:
                params = SamplingParams(max_new_tokens=before + STEPS + 2, seed=row, **way)
                engine.start(list(range(5, 9 + row)), [params])
        assert len(engine.rows) == rows * len(ways)
        for _ in range(before):
            engine.step()
        waits.places.clear()
        for _ in range(STEPS):
            engine.step()
        assert len(engine.rows) == rows * len(ways)
        return waits.places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4, help="of each way to decode")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    options = parser.parse_args()
    for name, ways in WAYS.items():
        places = waits_of_steps(ways, options.rows, getattr(torch, options.dtype))
        found = {place: count / STEPS for place, count in places.items()}
        line = {"decoding": name, "waits_per_step": places.total() / STEPS, "where": found}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
