"""Throughput of the server: python benchmarks/bench_serve.py [--requests 96] [--repeats 3]

96 prompts of GSM8K's 5-shot shape, 64 new tokens each, go to a server of SmolLM2 on
loopback: from eight clients at once, from one, and from eight without the prefix cache.
Beside them runs the 2023 sample server's way, one transformers' generate at a time. The
systems take turns, with a new server for each run. One JSON line a system gives medians,
then come the ratios. While they run, /tokenize and /health are timed.

The shares say how much of this machine's matmul rate the products of all tokens took
(without attention), and how much of its copy bandwidth the weights took, read once for each
decode step.
"""

import argparse
import json
import math
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from common import SMOLLM2
from machine import rates
from prometheus_client.parser import text_string_to_metric_families
from safetensors import safe_open
from server_process import ServerProcess

from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.model.device import pick_device, pick_dtype
from effchal.model.tokenizer import load_tokenizer

NEW_TOKENS = 64
CLIENTS = 8
PORT = 8765
PROBE_EVERY_S = 0.2
EIGHT, ONE, NO_REUSE = "ours, 8 clients", "ours, 1 client", "ours, 8 clients, no prefix cache"
SAMPLE = "one generate at a time"
NAMES = ["Ann", "Ben", "Carla", "Dmitri", "Esra", "Femi", "Greta", "Hiro"]
THINGS = ["apples", "pencils", "stamps", "marbles", "tickets", "shells", "books", "coins"]


def word_problem(draw: random.Random) -> tuple[str, str]:
    """A question and its worked answer, each about as long as GSM8K's."""
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    a, b, c = draw.randrange(10, 90), draw.randrange(2, 9), draw.randrange(5, 40)
    total, half = a + b * c, (a + b * c) // 2
    question = (
        f"{name} has {a} {thing} and buys {b} boxes with {c} {thing} each. On the way home {name} "
        f"gives half of all the {thing} to a friend, who already had {c}. How many {thing} does "
        "the friend have in the end?"
    )
    answer = (
        f"The boxes hold {b} x {c} = {b * c} {thing}. Together that makes {a} + {b * c} = {total} "
        f"{thing}. Half of them are {half} {thing}, which the friend gets. In the end the friend "
        f"has {half} + {c} = {half + c} {thing}. The answer is {half + c}."
    )
    return question, answer


def make_prompts(count: int) -> list[str]:
    """Five examples, the same in front of every question."""
    draw = random.Random(0)
    shots = "".join("Q: {}\nA: {}\n\n".format(*word_problem(draw)) for _ in range(5))
    return [f"{shots}Q: {word_problem(draw)[0]}\nA:" for _ in range(count)]


def ask(server: ServerProcess, prompt: str) -> dict:
    body = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0}
    return server.post("/v1/completions", body)


def probe(server: ServerProcess, stopped: threading.Event, seconds: dict[str, list[float]]) -> None:
    """Time /tokenize and /health until `stopped` is set."""
    text = {"text": "The quick brown fox. " * 40}
    while not stopped.wait(PROBE_EVERY_S):
        for path in seconds:
            start = time.perf_counter()
            server.get(path) if path == "/health" else server.post(path, text)
            seconds[path].append(time.perf_counter() - start)


def p99(values: list[float]) -> float:
    return sorted(values)[max(0, -(-len(values) * 99 // 100) - 1)]


def read_and_steps(server: ServerProcess) -> tuple[float, float]:
    """Prompt tokens that went through the model so far, without reused ones; decode steps."""
    found = {
        (sample.name, sample.labels.get("how")): sample.value
        for family in text_string_to_metric_families(server.get("/metrics"))
        for sample in family.samples
    }
    return found["effchal_prompt_tokens_total", "read"], found["effchal_batch_rows_count", None]


def weights() -> tuple[int, int]:
    """Weights of all layers' products, and of the head, which is the embedding matrix."""
    with safe_open(SMOLLM2 / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, no dict
    layers = sum(
        math.prod(shape) for name, shape in shapes.items() if ".layers." in name and len(shape) == 2
    )
    return layers, math.prod(shapes["model.embed_tokens.weight"])


@dataclass(frozen=True)
class Work:
    """What a server did for its clients."""

    requests: int
    new_tokens: int
    read_tokens: float  # prompt tokens that were not reused
    steps: float
    seconds: float

    def shares(self, machine: dict, dtype: str) -> dict:
        """The time that the work must take at this machine's rates, over what it took."""
        layers, head = weights()
        computed = pick_dtype(Dtype(dtype), pick_device())
        # A request's first token comes with its prompt.
        in_layers = self.read_tokens + self.new_tokens - self.requests
        flop = 2 * (layers * in_layers + head * self.new_tokens)
        step_bytes = (layers + head) * computed.itemsize
        name = "matmul" if computed is torch.float32 else "bf16_matmul"
        matmul = machine[f"{name}_gflop_per_s"]
        copied_gb_per_s = self.steps * step_bytes / 1e9 / self.seconds
        return {
            "share_of_matmul_rate": round(flop / 1e9 / matmul / self.seconds, 2),
            "share_of_copy_rate": round(copied_gb_per_s / machine["copy_gb_per_s"], 2),
        }


def run_server(options: argparse.Namespace, machine: dict, clients: int, *overrides: str) -> dict:
    """Send all requests, from so many clients, to a new server."""
    prompts = make_prompts(options.requests)
    waits: dict[str, list[float]] = {"/tokenize": [], "/health": []}
    dtype = f"model.dtype={options.dtype}"
    with ServerProcess("smollm2_135m", PORT, dtype, *overrides) as server:
        ask(server, "warm up")
        read_before, steps_before = read_and_steps(server)
        stopped = threading.Event()
        prober = threading.Thread(target=probe, args=(server, stopped, waits))
        prober.start()
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(partial(ask, server), prompts))
        spent_s = time.perf_counter() - start
        stopped.set()
        prober.join()
        memory_gib = server.memory_mib() / 1024
        read, steps = read_and_steps(server)
    new = sum(answer["usage"]["completion_tokens"] for answer in answers)
    work = Work(len(prompts), new, read - read_before, steps - steps_before, spent_s)
    result = throughput(len(prompts), new, spent_s)
    result["prompt_tokens"] = statistics.median(a["usage"]["prompt_tokens"] for a in answers)
    result["memory_gib"] = round(memory_gib, 2)
    for path, values in waits.items():
        if values:
            result[f"{path[1:]}_p99_ms"] = round(1000 * p99(values), 1)
    return result | work.shares(machine, options.dtype)


def throughput(requests: int, new: int, spent_s: float) -> dict:
    return {
        "requests": requests,
        "new_tokens": new,
        "seconds": round(spent_s, 1),
        "requests_per_s": round(requests / spent_s, 3),
        "new_tokens_per_s": round(new / spent_s, 1),
    }


def run_sample_server(options: argparse.Namespace) -> dict:
    """The sample server's way without the cost of HTTP: one generate at a time.

    In one thread. Behind a lock, each of many threads would start compute threads of its own.
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
    machine = rates()
    print_line("RESULT", {"system": "this machine", "dtype": options.dtype, **machine})
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
            print_line("RUN", {"system": name} | results[name][-1])
    report(results)


def report(results: dict[str, list[dict]]) -> None:
    for name, runs in results.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        each = [run["requests_per_s"] for run in runs]
        print_line("RESULT", {"system": name, **medians, "requests_per_s_by_round": each})
    for other in (ONE, SAMPLE, NO_REUSE):
        pairs = zip(results[EIGHT], results[other], strict=True)
        ratios = [round(a["requests_per_s"] / b["requests_per_s"], 2) for a, b in pairs]
        line = {"rate of": EIGHT, "over that of": other, "median": statistics.median(ratios)}
        print_line("RATIO", line | {"by_round": ratios})


def print_line(kind: str, values: dict) -> None:
    print(kind, json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
