"""transformers' own greedy generate, for bench_decode.py: generate.py MODEL DTYPE < job.json

Any environment with torch and transformers; the project's own will do.
"""

import json
import os
import statistics
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM

job = json.load(sys.stdin)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2])).eval()
prompts = torch.tensor(job["prompts"])


def seconds(new_tokens: int) -> float:
    begun = time.perf_counter()
    with torch.no_grad():
        model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
        )
    return time.perf_counter() - begun


seconds(4)
taken = statistics.median(seconds(job["new_tokens"]) for _ in range(job["runs"]))
tokens = len(prompts) * job["new_tokens"]
result = {
    "system": f"transformers {transformers.__version__}",
    "dtype": sys.argv[2],
    "batch": len(prompts),
}
print("RESULT", json.dumps(result | {"tokens_per_s": round(tokens / taken, 1)}))
