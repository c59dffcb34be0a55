"""Trains in a process of its own, for bench_train.py and compare_trl.py: train_worker.py JOB"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import ALL_LINEAR, print_result
from torch import nn

from effchal.cli.compose import compose_config
from effchal.config import LoraConfig, ModelConfig, TrainConfig
from effchal.config.choices import ActivationCheckpointing, Dtype, LossOn, Schedule
from effchal.kernels.attention import use_packed_attention
from effchal.mixing.encode import EncodedExample, EncodeWork, targets_of
from effchal.mixing.packing import MicroBatch, pack
from effchal.model.device import pick_device
from effchal.model.load import add_adapter, load_base_model
from effchal.model.structure import head
from effchal.prompts.encoder import Turn
from effchal.training.layers import prepare_training
from effchal.training.step import make_optimizer, train_step

OPERATIONS = 14  # shown by a profile


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    model, examples = prepare(job)
    result = (profile if job.get("profile") else train)(job, model, examples)
    how = "the library's layers" if job.get("library") else job.get("keep", "none")
    print_result({"system": f"effchal, {how}"} | result)


def prepare(job: dict) -> tuple[nn.Module, list[EncodedExample]]:
    """Model with adapter, and the job's pairs as examples whose every token is a target."""
    cfg = ModelConfig(name=job["model"], dtype=Dtype(job["dtype"]), max_seq_len=job["max_seq_len"])
    work = EncodeWork(cfg, compose_config(["prompt=chatml"]).prompt, cfg.max_seq_len, LossOn.all)
    pairs = [
        (Turn("user", question), Turn("assistant", answer)) for question, answer in job["pairs"]
    ]
    batch = work.encode(pairs, work.prompts)
    wide = [(ids.astype(np.int64), learned) for ids, learned in batch.examples()]
    examples = [
        EncodedExample(f"row:{i}", ids, targets_of(ids, learned), False)
        for i, (ids, learned) in enumerate(wide)
    ]
    lora = LoraConfig(r=job["r"], alpha=job["alpha"], target_modules=ALL_LINEAR)
    model = add_adapter(load_base_model(cfg, pick_device()), lora, job["seed"])
    if job.get("library"):
        use_packed_attention(model)
    else:
        prepare_training(
            model, ActivationCheckpointing(job.get("keep", "none")), job.get("compile", False)
        )
    return model.train(), examples


def train(job: dict, model: nn.Module, examples: list[EncodedExample]) -> dict:
    """Tokens and seconds of all steps but the first, peak memory, losses, operations."""
    cfg = TrainConfig(lr=job["lr"], schedule=Schedule.constant)
    optimizer, per_step = make_optimizer(model, cfg), job["examples_per_step"]
    device = pick_device()
    tokens, seconds, cpu_s, flop, losses, norms = 0, 0.0, 0.0, 0.0, [], []
    for step in range(job["steps"]):
        for group in optimizer.param_groups:  # linear to zero, as the peers' default
            group["lr"] = job["lr"] * (1 - step / job["steps"])
        begun, cpu_begun = time.perf_counter(), time.process_time()
        batch = [examples[(step * per_step + i) % len(examples)] for i in range(per_step)]
        capacity = 1 if job.get("ids") else job["max_seq_len"]
        micro_batches = [mb.to(device) for mb in pack(batch, capacity, not job.get("ids"))]
        stats = train_step(model, optimizer, micro_batches, job.get("max_grad_norm", 1.0))
        losses.append(stats.loss)
        norms.append(stats.grad_norm)
        if step:
            seconds += time.perf_counter() - begun
            cpu_s += time.process_time() - cpu_begun
            tokens += stats.tokens
            flop += sum(arithmetic(model, job["r"], micro_batch) for micro_batch in micro_batches)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu_s, 2),
        "peak_gib": round(peak_gib, 2),
    }
    return result | {"flop": flop, "losses": losses, "norms": norms}


def profile(job: dict, model: nn.Module, examples: list[EncodedExample]) -> dict:
    """Processor time of the second step: share of each operation."""
    optimizer, device = make_optimizer(model, TrainConfig(lr=job["lr"])), pick_device()
    micro_batches = [
        mb.to(device) for mb in pack(examples[: job["examples_per_step"]], job["max_seq_len"], True)
    ]
    train_step(model, optimizer, micro_batches, 1.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        train_step(model, optimizer, micro_batches, 1.0)
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    shares = {name: round(us / sum(spent.values()), 3) for name, us in spent.items()}
    largest = sorted(shares.items(), key=lambda item: -item[1])[:OPERATIONS]
    return {"cpu_s": sum(spent.values()) / 1e6, **dict(largest)}


def arithmetic(model: nn.Module, r: int, micro_batch: MicroBatch) -> float:
    """Floating-point operations that a step cannot do without.

    Frozen products forward and backward to the inputs, three for each of LoRA's, and causal
    attention: half a square, five products in the backward pass to the forward's two.
    """
    layers = [m for m in model.modules() if hasattr(m, "base_layer")]
    frozen = sum(layer.base_layer.weight.numel() for layer in layers)
    adapters = sum(r * sum(layer.base_layer.weight.shape) for layer in layers)
    width = sum(
        layer.base_layer.weight.shape[1]
        for name, layer in model.named_modules()
        if name.endswith("o_proj")
    )
    attention = sum(7 * 2 * width * length * length / 2 for length in micro_batch.lengths)
    per_token = 2 * 2 * frozen + 2 * 3 * adapters
    return (
        micro_batch.tokens * per_token
        + micro_batch.target_tokens * 2 * 2 * head(model).weight.numel()
        + attention
    )


if __name__ == "__main__":
    main()
