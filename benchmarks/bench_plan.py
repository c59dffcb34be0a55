"""Predicted against measured memory of a training step.

    python benchmarks/bench_plan.py [--out FOLDER] [--published]

27 settings on a CPU: SmolLM2-135M and two random models of other shapes, LoRA on float32,
bfloat16 and NF4 weights, three levels of activation checkpointing, three lengths and
micro-batches, r 8 and 64. torch's profiler measures the peak of allocated tensors, the kernel
the resident memory; a process for each setting. --published compares with figures that others
published for 7B and 8B models on a GPU, and measures nothing.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import ALL_LINEAR, SMOLLM2, forget_peak, memory_mib, print_result

COLUMNS = (
    "model",
    "dtype",
    "quantization",
    "checkpointing",
    "max_seq_len",
    "micro_batch_size",
    "r",
)
MIB = 2**20


def settings() -> list[tuple]:
    """(model, dtype, quantization, checkpointing, max_seq_len, micro_batch_size, r)"""
    small = [
        ("smollm2", "float32", None, "none", 128, 1, 8),
        ("smollm2", "float32", None, "none", 256, 2, 64),
        ("smollm2", "float32", None, "none", 512, 3, 8),
        ("smollm2", "float32", None, "selective", 512, 1, 64),
        ("smollm2", "float32", None, "full", 512, 2, 8),
        ("smollm2", "float32", None, "full", 256, 1, 64),
        # Short: bfloat16 is slow on a CPU without the arithmetic.
        ("smollm2", "bfloat16", None, "none", 32, 1, 8),
        ("smollm2", "bfloat16", None, "full", 16, 2, 64),
        ("smollm2", "float32", "nf4", "none", 128, 1, 8),
        ("smollm2", "float32", "nf4", "none", 256, 2, 64),
        ("smollm2", "float32", "nf4", "full", 512, 1, 8),
    ]
    others = []
    for name in ("mistral-like", "qwen3-like"):
        others += [
            (name, "float32", None, "none", 128, 1, 8),
            (name, "float32", None, "none", 512, 2, 64),
            (name, "float32", None, "selective", 256, 3, 8),
            (name, "float32", None, "full", 512, 3, 8),
            (name, "bfloat16", None, "none", 64, 1, 64),
            (name, "bfloat16", None, "full", 32, 2, 8),
            (name, "float32", "nf4", "none", 256, 2, 8),
            (name, "float32", "nf4", "full", 512, 1, 64),
        ]
    return small + others


def random_models(folder: Path) -> dict[str, str]:
    from transformers import AutoModelForCausalLM, MistralConfig, Qwen3Config

    shapes = {
        "mistral-like": MistralConfig(
            vocab_size=16000,
            hidden_size=512,
            intermediate_size=1792,
            num_hidden_layers=12,
            num_attention_heads=8,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        ),
        "qwen3-like": Qwen3Config(
            vocab_size=32000,
            hidden_size=384,
            intermediate_size=1152,
            num_hidden_layers=10,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=64,
            tie_word_embeddings=True,
        ),
    }
    for name, shape in shapes.items():
        AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).save_pretrained(folder / name)
    return {"smollm2": str(SMOLLM2)} | {name: str(folder / name) for name in shapes}


def config_of(setting: tuple, path: str):
    from effchal.config import Config, LoraConfig, ModelConfig, TrainConfig
    from effchal.config.choices import ActivationCheckpointing, Dtype, Quantization

    _, dtype, quantization, checkpointing, length, rows, r = setting
    return Config(
        model=ModelConfig(
            name=path,
            dtype=Dtype(dtype),
            quantization=quantization and Quantization(quantization),
            max_seq_len=length,
        ),
        lora=LoraConfig(r=r, target_modules=ALL_LINEAR),
        train=TrainConfig(
            activation_checkpointing=ActivationCheckpointing(checkpointing),
            micro_batch_size=rows,
            examples_per_step=2 * rows,
        ),
    )


def predict(setting: tuple, path: str) -> dict:
    from effchal.planning.memory import allocator_bytes, plan_memory
    from effchal.planning.workload import MicroBatchSize

    cfg = config_of(setting, path)
    tokens = cfg.model.max_seq_len * cfg.train.micro_batch_size
    size = MicroBatchSize(tokens, tokens // 2, cfg.model.max_seq_len)
    memory = plan_memory(cfg, torch.device("cpu"), size, None)
    without_optimizer = sum(size for part, size in memory.parts.items() if part != "optimizer")
    return {"live": without_optimizer, "allocator": allocator_bytes(memory, torch.device("cpu"))}


def worker(job: dict) -> None:
    """Two micro-batches forward and backward, twice; prints the peaks of resident memory and
    of allocated tensors."""
    import psutil

    from effchal.mixing.packing import MicroBatch
    from effchal.model.load import add_adapter, load_base_model
    from effchal.training.layers import prepare_training
    from effchal.training.step import target_loss

    cfg = config_of(tuple(job["setting"]), job["path"])
    import bitsandbytes  # noqa: F401  what a run imports anyway is no part of its plan

    before = psutil.Process().memory_info().rss
    model = add_adapter(load_base_model(cfg.model, torch.device("cpu")), cfg.lora, 0)
    prepare_training(model, cfg.train.activation_checkpointing)
    model.train()
    length, rows = cfg.model.max_seq_len, cfg.train.micro_batch_size
    vocabulary = model.get_base_model().config.vocab_size
    torch.manual_seed(0)

    def micro_batch() -> MicroBatch:
        ids = torch.randint(vocabulary, (1, length * rows))
        positions = torch.arange(length).repeat(rows)[None]
        targets = torch.arange(0, length * rows, 2)
        return MicroBatch(ids, positions, targets, ids[0, targets], (length,) * rows, [])

    def step() -> None:
        for _ in range(2):
            batch = micro_batch()
            (target_loss(model, batch) / batch.target_tokens).backward()

    forget_peak()
    step()
    resident = int(memory_mib("VmHWM") * 2**20)
    model.zero_grad(set_to_none=True)
    print(json.dumps({"live": live_peak(model, step), "resident": resident, "beside": before}))


def live_peak(model: torch.nn.Module, step: Callable[[], None]) -> int:
    """Bytes of the model's tensors, and the peak that torch's profiler sees during `step`."""
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_of(model)}
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        step()
    live = peak = 0
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return sum(kept.values()) + peak


def tensors_of(model: torch.nn.Module):
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        while state is not None:
            yield from (
                t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor)
            )
            state = state.state2


def measure(setting: tuple, path: str) -> dict:
    job = json.dumps({"setting": setting, "path": path})
    command = [sys.executable, __file__, "--worker", job]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for memory.csv")
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(json.loads(args.worker))
    if args.published:
        from published import compare

        return compare()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = random_models(Path(folder))
        for setting in settings():
            path = paths[setting[0]]
            measured = measure(setting, path)
            live, resident = measured["live"], measured["resident"]
            beside = measured["beside"]
            planned = predict(setting, path)
            predicted, whole = planned["live"], planned["live"] + planned["allocator"] + beside
            row = dict(zip(COLUMNS, setting, strict=True)) | {
                "live_predicted_mib": round(predicted / MIB, 1),
                "live_measured_mib": round(live / MIB, 1),
                "live_off": round(predicted / live - 1, 4),
                "resident_predicted_mib": round(whole / MIB),
                "resident_measured_mib": round(resident / MIB),
                "resident_off": round(whole / resident - 1, 4),
            }
            rows.append(row)
            print_result(row)
    for kind, aim in (("live", 0.05), ("resident", 0.15)):
        off = sorted(abs(row[f"{kind}_off"]) for row in rows)
        within = sum(each <= aim for each in off)
        spread = f"median {off[len(off) // 2]:.1%}, worst {off[-1]:.1%}"
        print(f"{kind}: {within} of {len(rows)} settings within {aim:.0%}, {spread}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        with (args.out / "memory.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return None


if __name__ == "__main__":
    main()
