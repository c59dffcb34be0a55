"""Time and memory of decoding, DoLa against greedy: bench_decode.py [--peer-python PYTHON]

One JSON line for each measurement.
- Steps: greedy and DoLa in turn, so that a drifting machine slows both; medians. On word problems
  and on tokens that spell nothing: where one token alone is plausible, DoLa of many rows saves its
  premature ones, and how often that happens depends on the text (`one_plausible`).
- Steps of rows that begin alike: what they share attended to once or in each row. WORTH_SHARING
  rests on it.
- Whole answers, prompt included, the median of three, and those of transformers' own generate in
  each dtype where PYTHON has it (the project's own will do).
- COMMAND (--peer) is another system's bench, whose RESULT lines are printed.

The machine must be idle: a second busy thread makes every figure several times worse.
"""

import argparse
import json
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from pathlib import Path
from typing import Any

import torch
from bench_serve import word_problem
from common import ROOT, SMOLLM2, forget_peak, memory_mib, print_result
from machine import median_s, rates
from torch import nn

import effchal.kernels.shared_prefix
from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.contrast import Contrast, Dola, Greedy
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.model.device import pick_device
from effchal.model.load import load_base_model
from effchal.model.structure import head
from effchal.model.tokenizer import load_tokenizer

NEW_TOKENS = 48
PROMPT = list(range(1000, 1012))  # which tokens does not matter for speed
LAYERS = 8
RUNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(SMOLLM2))
    parser.add_argument("--dtype", choices=[dtype.value for dtype in Dtype], default="auto")
    parser.add_argument("--peer-python", help="python that has transformers, for its generate")
    parser.add_argument("--peer", help="command of another system's bench")
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        return print_peak(args.model, args.dtype, args.peak[0], int(args.peak[1]))
    machine = rates()
    print_result({"system": "this machine"} | machine)
    loaded = load(args.model, args.dtype)
    for batch in (1, 8):
        for text, prompts in texts(loaded[1], batch).items():
            report(
                "smollm2_135m",
                loaded,
                {"batch": batch, "text": text, **step_times(loaded, prompts, machine)},
            )
    for batch in (1, 8):
        answers(args, loaded, batch)
    report("smollm2_135m", loaded, layer_sets_times(loaded))
    if Engine(*loaded).model.shares_prefix:
        for rows, shared in ((2, 700), (8, 150), (4, 700), (16, 150), (8, 700), (16, 700)):
            report("smollm2_135m", loaded, sharing_times(loaded, rows, shared))
    for batch in (1, 8):
        report("smollm2_135m", loaded, {"batch": batch, **peaks(args, batch)})
    with tempfile.TemporaryDirectory() as folder:
        like_mistral(Path(folder))
        loaded = load(folder, args.dtype)
        report(
            "mistral's proportions", loaded, {"batch": 1, **step_times(loaded, [PROMPT], machine)}
        )
    if args.peer:
        output = subprocess.run(
            shlex.split(args.peer), capture_output=True, text=True, check=True
        ).stdout
        print(*[line for line in output.splitlines() if line.startswith("RESULT")], sep="\n")
    return None


Loaded = tuple[nn.Module, Any]  # model, tokenizer


def load(path: str, dtype: str) -> Loaded:
    cfg = ModelConfig(name=path, dtype=Dtype(dtype), max_seq_len=128)
    has_tokenizer = (Path(path) / "tokenizer.json").is_file()
    return load_base_model(cfg, pick_device()), load_tokenizer(
        cfg if has_tokenizer else ModelConfig(name=str(SMOLLM2))
    )


def report(name: str, loaded: Loaded, result: dict) -> None:
    parameters = list(loaded[0].parameters())  # a tied head counts once
    share = head(loaded[0]).weight.numel() / sum(parameter.numel() for parameter in parameters)
    about = {"model": name, "dtype": str(parameters[0].dtype), "head_share": round(share, 3)}
    print_result(about | result)


def dola(engine: Engine) -> Dola:
    """Eight layers spread over the model."""
    return Dola(
        tuple(range(1, engine.model.num_layers, engine.model.num_layers // LAYERS))[:LAYERS]
    )


def texts(tokenizer: Any, batch: int) -> dict[str, list[list[int]]]:
    """Prompts by kind, a row each."""
    draw = random.Random(0)
    problems = [tokenizer.encode(f"Q: {word_problem(draw)[0]}\nA:") for _ in range(batch)]
    return {"word problems": problems, "none": spelling_nothing(batch)}


def spelling_nothing(batch: int) -> list[list[int]]:
    return [[token + row for token in PROMPT] for row in range(batch)]


def start(loaded: Loaded, prompts: list[list[int]], with_dola: bool) -> Engine:
    """An engine with a row for each prompt, which no end-of-sequence token ends."""
    engine = Engine(*loaded)
    engine.ends = set()
    params = SamplingParams(
        max_new_tokens=10 * NEW_TOKENS, contrast=dola(engine) if with_dola else Greedy()
    )
    for prompt in prompts:
        engine.start(prompt, [params])
    return engine


@torch.inference_mode()
def step_times(loaded: Loaded, prompts: list[list[int]], machine: dict) -> dict:
    engines = {"greedy": start(loaded, prompts, False), "dola": start(loaded, prompts, True)}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(NEW_TOKENS):
        for name, each in engines.items():
            begun = time.perf_counter()
            each.step()
            times[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(each[4:]) for name, each in times.items()}
    ratios = [d / g for g, d in zip(times["greedy"][4:], times["dola"][4:], strict=True)]
    weights = sum(
        parameter.numel() * parameter.element_size() for parameter in loaded[0].parameters()
    )
    # The least that a step can take: every weight read once.
    reading_s = weights / (machine["copy_gb_per_s"] * 1e9)
    layers = [token.layer for row in engines["dola"].rows for token in row.sequences[0].tokens]
    return {
        "one_plausible": round(layers.count(None) / len(layers), 2),
        "greedy_ms": round(1000 * median["greedy"], 2),
        "dola_ms": round(1000 * median["dola"], 2),
        "greedy_tokens_per_s": round(len(prompts) / median["greedy"], 1),
        "greedy_share_of_roofline": round(reading_s / median["greedy"], 2),
        "dola_over_greedy": round(statistics.median(ratios), 3),
    }


def answers(args: argparse.Namespace, loaded: Loaded, batch: int) -> None:
    """Greedy answers of NEW_TOKENS to `batch` prompts, ours and transformers'."""
    prompts = spelling_nothing(batch)
    engine = Engine(*loaded)
    engine.ends = set()
    variants = [[SamplingParams(max_new_tokens=NEW_TOKENS)]] * batch
    taken = median_s(lambda: list(engine.generate(prompts, variants, batch)), runs=RUNS)
    ours = batch * NEW_TOKENS / taken
    report(
        "smollm2_135m",
        loaded,
        {"system": "effchal", "batch": batch, "tokens_per_s": round(ours, 1)},
    )
    if not args.peer_python:
        return
    job = json.dumps({"prompts": prompts, "new_tokens": NEW_TOKENS, "runs": RUNS})
    best = 0.0
    for dtype in ("float32", "bfloat16"):
        peer = ROOT / "benchmarks" / "peers" / "generate.py"
        command = [args.peer_python, str(peer), args.model, dtype]
        output = subprocess.run(
            command, input=job, capture_output=True, text=True, check=True
        ).stdout
        line = next(line for line in output.splitlines() if line.startswith("RESULT"))
        print(line, flush=True)
        best = max(best, json.loads(line.removeprefix("RESULT"))["tokens_per_s"])
    print_result({"batch": batch, "effchal_over_transformers_best": round(ours / best, 2)})


@torch.inference_mode()
def layer_sets_times(loaded: Loaded) -> dict:
    """One token after a prompt of 400: one layer set, and eight from the same forward pass."""
    engine = Engine(*loaded)
    layers = dola(engine).layers
    prompt = [1000 + i for i in range(400)]
    sets: dict[str, list[Contrast]] = {
        "one": [Dola(layers)],
        "eight": [Dola(layers), *[Dola((layer,)) for layer in layers[:7]]],
    }
    times: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(9):
        for name, contrasts in sets.items():
            begun = time.perf_counter()
            params = [SamplingParams(max_new_tokens=1, contrast=each) for each in contrasts]
            engine.start(prompt, params)
            times[name].append(time.perf_counter() - begun)
    ratio = statistics.median([b / a for a, b in zip(times["one"], times["eight"], strict=True)])
    return {"one_token_after": len(prompt), "eight_sets_over_one": round(ratio, 3)}


@torch.inference_mode()
def sharing_times(loaded: Loaded, rows: int, shared: int) -> dict:
    """Steps of rows that begin with the same tokens, attended to once a step and in each row."""
    engine = start(
        loaded,
        [[1000 + i for i in range(shared)] + prompt for prompt in spelling_nothing(rows)],
        False,
    )
    times: dict[bool, list[float]] = {True: [], False: []}
    with unittest.mock.patch.object(effchal.kernels.shared_prefix, "WORTH_SHARING", 0):
        for _ in range(NEW_TOKENS // 2):
            for share in times:
                engine.model._fused.shares_prefix = share
                begun = time.perf_counter()
                engine.step()
                times[share].append(time.perf_counter() - begun)
    once, each = (statistics.median(times[share][2:]) for share in times)
    ratio = statistics.median(
        [a / b for a, b in zip(times[True][2:], times[False][2:], strict=True)]
    )
    return {
        "rows": rows,
        "shared_tokens": shared,
        "columns_saved": shared * (rows - 1),
        "once_ms": round(1000 * once, 1),
        "each_ms": round(1000 * each, 1),
        "once_over_each": round(ratio, 3),
    }


def peaks(args: argparse.Namespace, batch: int) -> dict:
    """Peak resident memory of a process that only decodes, after loading; median of three."""
    found = {}
    for method in ("greedy", "dola"):
        command = [sys.executable, __file__, "--model", args.model, "--dtype", args.dtype]
        command += ["--peak", method, str(batch)]
        runs = [
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for _ in range(3)
        ]
        found[method] = statistics.median(float(run) for run in runs)
    return {f"{name}_peak_mib": round(mib, 1) for name, mib in found.items()} | {
        "dola_peak_over_greedy": round(found["dola"] / found["greedy"], 3)
    }


@torch.inference_mode()
def print_peak(path: str, dtype: str, method: str, batch: int) -> None:
    loaded = load(path, dtype)
    forget_peak()
    engine = start(loaded, spelling_nothing(batch), method == "dola")
    for _ in range(NEW_TOKENS):
        engine.step()
    print(memory_mib("VmHWM"))


def like_mistral(folder: Path) -> None:
    """Random weights in Mistral-7B's proportions: a quarter of its width."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=8000,
        hidden_size=1024,
        intermediate_size=3584,
        num_hidden_layers=32,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=128,
        tie_word_embeddings=False,
    )
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
