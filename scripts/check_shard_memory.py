"""Host memory of the processes that load a model together, each of which keeps a share of it.

    python scripts/check_shard_memory.py

Random weights of 1.2 GB in bfloat16 are made in a temporary folder. Two processes load and shard
them on the CPU. Prints what each took at most, beyond what it had with its libraries: its share of
all its pages (PSS, where a page that two processes see counts half), and of those that are no
file's, which the system cannot take back. Linux has this.
"""

import os
import sys
import tempfile
import threading
from multiprocessing import get_context
from pathlib import Path

import torch
import transformers

from effchal.config import Config, LoraConfig, ModelConfig, TrainConfig
from effchal.config.choices import Dtype, Parallel, Quantization
from effchal.model.load import add_adapter
from effchal.model.tiny import tiny_folder
from effchal.training.build import load_for_training, prepare_layers
from effchal.training.launch import free_port, places
from effchal.training.ranks import joined

LAYERS, HIDDEN, MLP, HEADS = 12, 2048, 5632, 16
SIZE = 2  # processes
RUNS = {
    "bfloat16": (Dtype.bfloat16, None),
    "float32": (Dtype.float32, None),
    "NF4": (Dtype.bfloat16, Quantization.nf4),
}
CPU = torch.device("cpu")


def make_model(folder: Path) -> float:
    """Save a model in the form of builtin:tiny, but large. Returns the GiB of its file."""
    config = transformers.AutoConfig.from_pretrained(tiny_folder())
    config.update({"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "intermediate_size": MLP})
    config.update({"num_attention_heads": HEADS, "num_key_value_heads": HEADS})
    config.update({"head_dim": HIDDEN // HEADS, "dtype": torch.bfloat16})
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_folder()).save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**30


def pages() -> tuple[float, float]:
    """GiB of this process: its share of all its pages, and of those that are no file's."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kinds = {line.split()[0]: int(line.split()[1]) / 2**20 for line in lines}
    return kinds["Pss:"], kinds["Pss_Anon:"]


def load_share(rank: int, port: int, folder: Path, name: str, results) -> None:
    """Load and shard as a run does, and tell the peaks."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(SIZE)}
    os.environ |= shared | places(rank)
    dtype, quantization = RUNS[name]
    cfg = Config(
        model=ModelConfig(name=str(folder), dtype=dtype, quantization=quantization, max_seq_len=64),
        lora=LoraConfig(r=4),
        train=TrainConfig(gpus=SIZE, parallel=Parallel.fsdp),
    )
    with joined(lambda: False) as ranks:
        before, peak, over = pages(), [0.0, 0.0], threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                peak[:] = map(max, peak, pages())

        watching = threading.Thread(target=watch)
        watching.start()
        model = add_adapter(load_for_training(cfg, CPU), cfg.lora, 0)
        prepare_layers(cfg, model, CPU, ranks)
        over.set()
        watching.join()
        results.put([most - had for most, had in zip(peak, before, strict=True)])
        ranks.gather(None)  # until all have told


def main() -> None:
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as top:
        size = make_model(Path(top, "model"))
        print(f"a file of {size:.2f} GiB\n")
        print("| base model | GiB of each process | without files' pages |\n|---|---|---|")
        for name in RUNS:
            port, results = free_port(), context.SimpleQueue()
            given = (port, Path(top, "model"), name, results)
            started = [context.Process(target=load_share, args=(r, *given)) for r in range(SIZE)]
            for each in started:
                each.start()
            for each in started:
                each.join()
            if any(each.exitcode for each in started):
                sys.exit(f"error: a process failed to load in {name}")
            found = sorted(results.get() for _ in started)
            totals, own = (" and ".join(f"{each[i]:.2f}" for each in found) for i in (0, 1))
            print(f"| {name} | {totals} | {own} |", flush=True)


if __name__ == "__main__":
    main()
