"""Host memory of the processes that share a model: what each takes while it loads and trains.

    python scripts/check_shard_memory.py

Random weights of 1.2 GB in bfloat16 are made in a temporary folder and trained for one step on the
CPU. Prints the peak of each process, as its proportional share (PSS) of the pages that it has:
pages of the weights' file that two processes see count half in each. Linux has this.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from check_ranks import ENVIRONMENT, TRAIN

LAYERS, HIDDEN, MLP = 12, 2048, 5632
WORDS = [
    *("model=tiny", "data_mix=quickstart", "budget.hours=0.3", "model.max_seq_len=64"),
    *("train.examples_per_step=2", "train.max_steps=1", "train.validate_every=100", "lora.r=4"),
    *("data_mix.validation_fraction=0.02", "rules=none"),
]
RUNS = [
    (1, "data", "bfloat16", "null"),
    (2, "data", "bfloat16", "null"),
    (2, "fsdp", "bfloat16", "null"),
    (2, "fsdp", "float32", "null"),
    (2, "fsdp", "bfloat16", "nf4"),
]


def make_model(folder: Path) -> float:
    """Save a model in the form of builtin:tiny, but large. Returns the GiB of its file."""
    import torch
    import transformers

    from effchal.model.tiny import tiny_folder

    config = transformers.AutoConfig.from_pretrained(tiny_folder())
    config.update({"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "head_dim": HIDDEN // 16})
    config.update({"intermediate_size": MLP, "num_attention_heads": 16, "num_key_value_heads": 16})
    config.dtype = torch.bfloat16
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_folder()).save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**30


def proportional(process: psutil.Process) -> tuple[float, float]:
    """GiB of a process: its share of all its pages, and of those that are no file's."""
    kinds = {}
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, kib, *_ = line.split()
        kinds[name] = int(kib) / 2**20
    return kinds["Pss:"], kinds["Pss_Anon:"]


def peaks(command: list[str]) -> tuple[list[tuple[float, float]], int]:
    """Run it. Returns the peaks of each process with a rank, the largest last; the exit code."""
    found: dict[int, tuple[float, float]] = {}
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as main:
        while main.poll() is None:
            try:
                ours = psutil.Process(main.pid)
                for each in [ours, *ours.children()]:
                    now, before = proportional(each), found.get(each.pid, (0.0, 0.0))
                    found[each.pid] = max(now[0], before[0]), max(now[1], before[1])
            except (OSError, psutil.Error, KeyError, ValueError):
                pass  # one ended meanwhile
            time.sleep(0.05)
    return sorted(found.values()), main.returncode


def main() -> None:
    good = []
    with tempfile.TemporaryDirectory() as top:
        size = make_model(Path(top, "model"))
        print(f"a file of {size:.2f} GiB\n")
        print("| processes | base model | GiB of each, at most | without files' pages |")
        print("|---|---|---|---|")
        for number, (gpus, parallel, dtype, quantization) in enumerate(RUNS):
            words = [f"model.name={top}/model", f"train.gpus={gpus}", f"train.parallel={parallel}"]
            words += [f"model.dtype={dtype}", f"model.quantization={quantization}"]
            found, code = peaks([*TRAIN, *WORDS, *words, f"hydra.run.dir={top}/{number}"])
            found = found[-gpus:]
            totals, own = (" and ".join(f"{each[i]:.2f}" for each in found) for i in (0, 1))
            what = quantization if quantization != "null" else dtype
            print(f"| {gpus}, {parallel} | {what} | {totals} | {own} |", flush=True)
            good.append(code == 0)
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
