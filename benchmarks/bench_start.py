"""Seconds to the first word, and memory to load a model: bench_start.py [--repeats 5]

One JSON line for each: the wall clock of a command that computes nothing, and of a plan, median.
Then what loading SmolLM2-135M adds to a process that has its libraries already, at its peak and
after, against the bytes of the weights it computes with, and its time against that of one copy.
Last, the seconds that the admission check adds: of SmolLM2, and of Mistral-7B's config in a plan.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, SMOLLM2, forget_peak, memory_mib, print_result
from machine import rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(SMOLLM2))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--load", metavar="DTYPE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.model, args.load)))
        return
    with tempfile.TemporaryDirectory() as folder:
        plan = ["effchal.plan", "model=mistral_7b", f"hydra.run.dir={folder}"]
        for arguments in (["effchal.train", "--help"], ["effchal.train", "--cfg", "job"], plan):
            time_command([sys.executable, "-m", *arguments], args.repeats)
    copy_gb_per_s = rates()["copy_gb_per_s"]
    print_result({"system": "this machine", "copy_gb_per_s": copy_gb_per_s})
    for dtype in ("float32", "bfloat16"):
        command = [sys.executable, __file__, "--model", args.model, "--load", dtype]
        runs = [
            json.loads(
                subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            )
            for _ in range(3)
        ]
        result = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        share = None  # in bfloat16 the file is mapped, and nothing is copied
        if dtype == "float32":
            copied_gb = (result["read_mib"] + result["weights_mib"]) * 2**20 / 1e9
            share = copied_gb / copy_gb_per_s / result["load_s"]
        print_result({"dtype": dtype, **result, "share_of_copy_rate": share and round(share, 3)})


def time_command(command: list[str], repeats: int) -> None:
    times = [seconds(command) for _ in range(repeats)]
    result = {
        "command": " ".join(["python", *command[1:4]]),
        "seconds": round(statistics.median(times), 2),
    }
    # The largest child so far; the commands come in the order of their size.
    result["peak_gib"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2)
    print_result(result | {"runs": [round(each, 2) for each in times]})


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def load(name: str, dtype: str) -> dict:
    """MiB that loading adds to the process; the system may drop pages of the mapped file."""
    import torch

    from effchal.config import ModelConfig
    from effchal.config.choices import Dtype
    from effchal.model.load import load_base_model

    cfg = ModelConfig(name=name, dtype=Dtype(dtype))
    tiny = ModelConfig(name="builtin:tiny", dtype=Dtype(dtype))
    load_base_model(tiny, torch.device("cpu"))  # so that libraries are loaded
    before = status()
    forget_peak()
    begun = time.perf_counter()
    model = load_base_model(cfg, torch.device("cpu"))
    took_s = time.perf_counter() - begun
    after = status()
    sizes = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    weights = sum(sizes.values()) / 2**20  # a tied head counts once
    checked = admission_seconds(model)
    return {
        **checked,
        "read_mib": round(
            sum(path.stat().st_size for path in Path(name).glob("*.safetensors")) / 2**20, 1
        ),
        "weights_mib": round(weights, 1),
        "load_s": round(took_s, 2),
        "peak_mib": round(after["VmHWM"] - before["VmRSS"], 1),
        "peak_over_weights": round((after["VmHWM"] - before["VmRSS"]) / weights, 3),
        "after_over_weights": round((after["VmRSS"] - before["VmRSS"]) / weights, 3),
        "file_pages_after_mib": round(after["RssFile"] - before["RssFile"], 1),
    }


def admission_seconds(model) -> dict[str, float]:
    """Seconds of the check of a loaded model, and of one by a config alone."""
    from effchal.admission.admit import admit, admit_architecture
    from effchal.config import ModelConfig
    from effchal.planning.meta_model import shape_config

    shape = shape_config(ModelConfig(name="mistralai/Mistral-7B-v0.1", revision="0" * 40))
    begun = time.perf_counter()
    admit(model)
    loaded = time.perf_counter()
    admit_architecture(shape)
    ended = time.perf_counter()
    return {
        "admission_s": round(loaded - begun, 2),
        "admission_in_plan_s": round(ended - loaded, 2),
    }


def status() -> dict[str, float]:
    return {name: memory_mib(name) for name in ("VmHWM", "VmRSS", "RssFile")}


if __name__ == "__main__":
    main()
