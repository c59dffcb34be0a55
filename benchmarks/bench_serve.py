"""Throughput of the server: python benchmarks/bench_serve.py [--requests 96] [--repeats 3] [--dtype auto]

96 prompts of GSM8K's 5-shot shape, 64 new tokens each, to a server of SmolLM2 on loopback: eight clients at once, one
in sequence, eight without the reuse of shared beginnings; beside them the 2023 sample server's way, one transformers'
generate at a time. In turn, a server of its own for each run; one JSON line a system with its medians, and the ratios.
While they run, how long /tokenize and /health take. Beside the rates, the share of this machine's: of its matmul rate,
by the products of the tokens that went through the model (attention left out), and of its copy bandwidth, by one
reading of the weights for each decode step.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import torch
from machine import rates
from prometheus_client.parser import text_string_to_metric_families
from safetensors import safe_open

from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.model.device import multiplies_bfloat16, pick_device, pick_dtype
from effchal.model.load import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = ROOT / "outputs" / "models" / "smollm2_135m"
NEW_TOKENS = 64
CLIENTS = 8
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"
PROBE_EVERY_S = 0.2
EIGHT, ONE, NO_REUSE = "ours, 8 clients", "ours, 1 client", "ours, 8 clients, no shared beginnings"
SAMPLE = "one generate at a time"
NAMES = ["Ann", "Ben", "Carla", "Dmitri", "Esra", "Femi", "Greta", "Hiro"]
THINGS = ["apples", "pencils", "stamps", "marbles", "tickets", "shells", "books", "coins"]


def word_problem(draw: random.Random) -> tuple[str, str]:
    """A question and its worked answer, each about as long as GSM8K's."""
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    a, b, c = draw.randrange(10, 90), draw.randrange(2, 9), draw.randrange(5, 40)
    question = (
        f"{name} has {a} {thing} and buys {b} boxes with {c} {thing} each. On the way home {name} gives half of all "
        f"the {thing} to a friend, who already had {c}. How many {thing} does the friend have in the end?"
    )
    answer = (
        f"The boxes hold {b} x {c} = {b * c} {thing}. Together that makes {a} + {b * c} = {a + b * c} {thing}. Half "
        f"of them are {(a + b * c) // 2} {thing}, which the friend gets. In the end the friend has "
        f"{(a + b * c) // 2} + {c} = {(a + b * c) // 2 + c} {thing}. The answer is {(a + b * c) // 2 + c}."
    )
    return question, answer


def make_prompts(count: int) -> list[str]:
    """Five examples, the same in front of every question."""
    draw = random.Random(0)
    shots = "".join("Q: {}\nA: {}\n\n".format(*word_problem(draw)) for _ in range(5))
    return [f"{shots}Q: {word_problem(draw)[0]}\nA:" for _ in range(count)]


def post(path: str, body: dict) -> dict:
    request = urllib.request.Request(URL + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=3000) as response:
        return json.load(response)


def ask(prompt: str) -> dict:
    body = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0}
    return post("/v1/completions", body)


class Server:
    """Ours, in a process of its own."""

    def __init__(self, dtype: str, *overrides: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        command = [
            *(
                sys.executable,
                "-m",
                "effchal.serve",
                "model=smollm2_135m",
                "prompt=plain",
                "lora=none",
            ),
            *(
                f"model.dtype={dtype}",
                f"serve.port={PORT}",
                f"hydra.run.dir={self.folder.name}",
                *overrides,
            ),
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)

    def __enter__(self) -> "Server":
        while True:
            try:
                urllib.request.urlopen(f"{URL}/ready", timeout=5)
                return self
            except OSError:
                if self.process.poll() is not None:
                    raise
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def memory_gib(self) -> float:
        """Resident, of the worker."""
        return (
            max(child.memory_info().rss for child in psutil.Process(self.process.pid).children())
            / 2**30
        )


def probe(stopped: threading.Event, seconds: dict[str, list[float]]) -> None:
    """Time /tokenize and /health until told to stop."""
    while not stopped.wait(PROBE_EVERY_S):
        for path in seconds:
            start = time.perf_counter()
            if path == "/health":
                urllib.request.urlopen(URL + path, timeout=60).read()
            else:
                post(path, {"text": "The quick brown fox. " * 40})
            seconds[path].append(time.perf_counter() - start)


def p99(values: list[float]) -> float:
    return sorted(values)[max(0, -(-len(values) * 99 // 100) - 1)]


def read_and_steps() -> tuple[float, float]:
    """Prompt tokens that went through the model so far, not those whose states were reused; decode steps."""
    with urllib.request.urlopen(URL + "/metrics", timeout=60) as response:
        families = text_string_to_metric_families(response.read().decode())
        found = {
            (sample.name, sample.labels.get("how")): sample.value
            for each in families
            for sample in each.samples
        }
    return found["effchal_prompt_tokens_total", "read"], found["effchal_batch_rows_count", None]


def weights() -> tuple[int, int]:
    """Of all layers' products, and of the head, which is the embedding matrix."""
    with safe_open(SMOLLM2 / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, no dict
    layers = sum(
        math.prod(shape) for name, shape in shapes.items() if ".layers." in name and len(shape) == 2
    )
    return layers, math.prod(shapes["model.embed_tokens.weight"])


def shares(
    machine: dict, dtype: str, requests: int, new: int, read: float, steps: float, spent_s: float
) -> dict:
    """What the work must take at this machine's rates, over what it took."""
    layers, head = weights()
    in_float32 = dtype == "float32" or not multiplies_bfloat16(
        pick_device()
    )  # the arithmetic, and the packed head
    flop = 2 * (
        layers * (read + new - requests) + head * new
    )  # a request's first token comes with its prompt
    read_bytes = steps * (
        layers * (4 if dtype == "float32" else 2) + head * (4 if in_float32 else 2)
    )
    matmul = machine[f"{'' if in_float32 else 'bf16_'}matmul_gflop_per_s"]
    return {
        "share_of_matmul_rate": round(flop / 1e9 / matmul / spent_s, 2),
        "share_of_copy_rate": round(read_bytes / 1e9 / machine["copy_gb_per_s"] / spent_s, 2),
    }


def run_server(options: argparse.Namespace, machine: dict, clients: int, *overrides: str) -> dict:
    """All requests, by so many clients, to a server of their own."""
    prompts = make_prompts(options.requests)
    seconds: dict[str, list[float]] = {"/tokenize": [], "/health": []}
    with Server(options.dtype, *overrides) as server:
        ask("warm up")
        read_before, steps_before = read_and_steps()
        stopped = threading.Event()
        prober = threading.Thread(target=probe, args=(stopped, seconds))
        prober.start()
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(ask, prompts))
        spent = time.perf_counter() - start
        stopped.set()
        prober.join()
        memory = server.memory_gib()
        read, steps = read_and_steps()
    new = sum(answer["usage"]["completion_tokens"] for answer in answers)
    prompt_tokens = statistics.median(answer["usage"]["prompt_tokens"] for answer in answers)
    waits = {
        f"{path[1:]}_p99_ms": round(1000 * p99(values), 1)
        for path, values in seconds.items()
        if values
    }
    work = (len(prompts), new, read - read_before, steps - steps_before, spent)
    more = {"prompt_tokens": prompt_tokens, "memory_gib": round(memory, 2), **waits}
    return throughput(len(prompts), new, spent) | more | shares(machine, options.dtype, *work)


def throughput(requests: int, new: int, spent_s: float) -> dict:
    result = {"requests": requests, "new_tokens": new, "seconds": round(spent_s, 1)}
    return result | {
        "requests_per_s": round(requests / spent_s, 3),
        "new_tokens_per_s": round(new / spent_s, 1),
    }


def run_sample_server(options: argparse.Namespace) -> dict:
    """The sample server's way, without the cost of HTTP: whoever asks, one generate at a time.

    In one thread: a lock around many would have each of them bring threads of its own to two cores.
    """
    from transformers import AutoModelForCausalLM

    device, dtype = pick_device(), getattr(torch, options.dtype)
    model = AutoModelForCausalLM.from_pretrained(str(SMOLLM2), dtype=dtype).to(device).eval()
    tokenizer = load_tokenizer(ModelConfig(name=str(SMOLLM2)))

    @torch.inference_mode()
    def generate(prompt: str) -> int:
        ids = tokenizer(prompt, return_tensors="pt").input_ids.to(device)
        found = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        return found.shape[1] - ids.shape[1]

    prompts = make_prompts(options.sample_requests)
    generate("warm up")
    start = time.perf_counter()
    new = sum(map(generate, prompts))
    return throughput(len(prompts), new, time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument(
        "--sample-requests", type=int, default=16, help="for the sample server's way, which is slow"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    options.dtype = str(pick_dtype(Dtype(options.dtype), pick_device())).removeprefix("torch.")
    os.environ["NO_PROXY"] = "127.0.0.1"
    machine = rates()
    print(
        "RESULT",
        json.dumps({"system": "this machine", "dtype": options.dtype, **machine}),
        flush=True,
    )
    systems = {
        EIGHT: lambda: run_server(options, machine, CLIENTS),
        ONE: lambda: run_server(options, machine, 1),
        NO_REUSE: lambda: run_server(options, machine, CLIENTS, "serve.prefix_gib=0"),
        SAMPLE: lambda: run_sample_server(options),
    }
    results: dict[str, list[dict]] = {name: [] for name in systems}
    for _ in range(options.repeats):
        for name, system in systems.items():
            results[name].append(system())
            print("RUN", json.dumps({"system": name} | results[name][-1]), flush=True)
    for name, runs in results.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        each = [run["requests_per_s"] for run in runs]
        print(
            "RESULT",
            json.dumps({"system": name, **medians, "requests_per_s_by_round": each}),
            flush=True,
        )
    for other in (ONE, SAMPLE, NO_REUSE):
        pairs = zip(results[EIGHT], results[other], strict=True)
        ratios = [a["requests_per_s"] / b["requests_per_s"] for a, b in pairs]
        line = {
            "rate of": EIGHT,
            "over that of": other,
            "median": round(statistics.median(ratios), 2),
        }
        print("RATIO", json.dumps(line | {"by_round": [round(ratio, 2) for ratio in ratios]}))


if __name__ == "__main__":
    main()
