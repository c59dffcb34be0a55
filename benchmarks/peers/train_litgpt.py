"""litgpt's finetune_lora on bench_train.py's work: train_litgpt.py JOB.json; one JSON line.

Needs litgpt==0.5.13 and torch==2.13.0 in an environment of its own (torch first).
The code follows litgpt's documentation.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
job = json.loads(Path(sys.argv[1]).read_text())


def litgpt(*arguments):
    command = [sys.executable, "-m", "litgpt", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


with tempfile.TemporaryDirectory() as folder:
    checkpoint = Path(folder) / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
    shutil.copytree(job["model"], checkpoint)
    pairs = Path(folder) / "pairs.json"
    pairs.write_text(
        json.dumps([{"instruction": q, "input": "", "output": a} for q, a in job["pairs"]])
    )
    litgpt("convert_to_litgpt", checkpoint)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = litgpt(
        *("finetune_lora", checkpoint, "--devices", 1, "--out_dir", Path(folder) / "out"),
        *("--precision", {"bfloat16": "bf16-true", "float32": "32-true"}[job["dtype"]]),
        *("--data", "JSON", "--data.json_path", pairs, "--data.val_split_fraction", 0.05),
        *("--train.max_seq_length", job["max_seq_len"], "--train.max_steps", job["steps"]),
        *("--train.micro_batch_size", 2, "--train.global_batch_size", job["examples_per_step"]),
        *("--eval.initial_validation", "false", "--eval.final_validation", "false"),
        *(
            "--lora_r",
            job["r"],
            "--lora_alpha",
            job["alpha"],
            "--lora_query",
            "true",
            "--lora_key",
            "true",
        ),
        *("--lora_value", "true", "--lora_projection", "true", "--lora_mlp", "true"),
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "system": "litgpt 0.5.13",
        "tokens": int(re.search(r"Tokens w/ Prompt\s*:\s*(\d+)", output)[1]),
        "seconds": float(re.search(r"Training Time\s*:\s*([\d.]+)", output)[1]),
        "cpu_s": round(
            used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 2
        ),  # of its start, too
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
        "losses": [float(loss) for loss in re.findall(r"loss train: ([\d.]+)", output)],
    }
print("RESULT", json.dumps(result))
