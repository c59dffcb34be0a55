"""What adapters on one base model cost together: bench_adapters.py [--prompts 200] [--requests 96]

Two random adapters of SmolLM2 (r 16 on all linear layers), which change what it says. Prompts have
GSM8K's 5-shot shape. One JSON line each:

serving: eight clients ask one adapter's scheduler, then one with both adapters and the base, each
request for the next of the three. It says how many answers are those of each model alone.
evaluation: `effchal evaluate` with answers of one token: one adapter, greedy; then both adapters
and the base, each under greedy and eight sets of premature layers, together and one after another.

For a card: --random takes random bfloat16 weights of Mistral-7B's shape, with a tokenizer of bytes.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_serve import make_prompts
from gpu_check.measure import free_memory
from gpu_check.models import large_model
from transformers import AutoTokenizer

from effchal.bundle import write_bundle
from effchal.cli.compose import compose_config
from effchal.config import Config, LoraConfig, ServeConfig
from effchal.decoding.engine import Engine
from effchal.decoding.prefix_cache import common_beginning
from effchal.decoding.sampling import SamplingParams
from effchal.evaluation.run import run
from effchal.model.adapter_names import BASE
from effchal.model.device import pick_device
from effchal.model.load import add_adapter, load_base_model
from effchal.model.tiny import tiny_folder
from effchal.model.tokenizer import load_tokenizer
from effchal.model_source import check_model_source, load_engine
from effchal.serving.metrics import Metrics
from effchal.serving.queued import QueuedPrompt
from effchal.serving.scheduler import Scheduler

CLIENTS, NEW_TOKENS = 8, 32
GREEDY = SamplingParams(max_new_tokens=NEW_TOKENS)
MODEL = ["model=smollm2_135m", "prompt=plain", "model.dtype=float32"]
RANDOM = ["prompt=plain", "model.dtype=bfloat16", "model.max_seq_len=4096"]
LAYER_SETS = "[[0],[5],[10],[15],[0,5],[10,15],[0,10,20],[0,5,10,15,20,25]]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200, help="of the evaluation")
    parser.add_argument("--requests", type=int, default=96, help="to the schedulers, each time")
    parser.add_argument("--repeats", type=int, default=3, help="of the schedulers' work")
    of_random = "weights of Mistral-7B's shape, 14.5 GB in the folder for temporary files"
    parser.add_argument("--random", action="store_true", help=of_random)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        if args.random:
            in_thread(lambda: write_random(Path(home, "base")))
            free_memory()
            MODEL[:] = [*RANDOM, f"model.name={home}/base"]
        bundles = in_thread(  # see engine_of
            lambda: [make_bundle(Path(home, name), seed) for seed, name in enumerate("ab")]
        )
        if args.requests:
            print(
                "RESULT",
                json.dumps({"part": "serving"} | serving(bundles, args.requests, args.repeats)),
                flush=True,
            )
        if args.prompts:
            found = evaluation(bundles, Path(home), args.prompts)
            print("RESULT", json.dumps({"part": "evaluation"} | found), flush=True)


def write_random(folder: Path) -> None:
    large_model(tiny=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder()).save_pretrained(folder)


def make_bundle(folder: Path, seed: int) -> Path:
    cfg = compose_config([*MODEL, f"name={folder.name}"])
    cfg.lora = LoraConfig(r=16, alpha=32, target_modules="all-linear")
    model = add_adapter(load_base_model(cfg.model, pick_device()), cfg.lora, seed)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    write_bundle(folder, cfg, model, load_tokenizer(cfg.model))
    return folder


def config_of(bundle: Path | None, *words: str) -> Config:
    cfg = compose_config([*MODEL, "lora=none", *words])
    return cfg if bundle is None else replace(cfg, bundle=str(bundle), name=bundle.name)


def engine_of(bundle: Path | None) -> Engine:
    """Loaded in a thread that ends, as a server's is.

    Compute threads belong to the thread that uses them. If those of the main thread stayed, there
    would be more than cores, and the scheduler's would sleep between any two operations.
    """
    return in_thread(lambda: load_engine(check_model_source(config_of(bundle))))


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def serving(bundles: list[Path], count: int, repeats: int) -> dict[str, object]:
    alone, shared = engine_of(bundles[0]), engine_of(None)
    folders = [bundle / "adapter" for bundle in bundles]
    names = in_thread(lambda: [shared.model.load_adapter(folder) for folder in folders])
    prompts = [alone.tokenizer(text).input_ids for text in make_prompts(count)]
    rows = [[*names, BASE][i % 3] for i in range(count)]
    seconds: dict[str, list[float]] = {"one": [], "three": []}
    for _ in range(repeats):
        seconds["one"].append(ask(alone, prompts, [BASE] * count)[0])
        spent, found = ask(shared, prompts, rows)
        seconds["three"].append(spent)
    one, three = (statistics.median(each) for each in seconds.values())
    models = [alone, engine_of(bundles[1]), engine_of(None)]
    expected = [models[i % 3].complete(ids, GREEDY).ids for i, ids in enumerate(prompts)]
    equal = sum(a == b for a, b in zip(found, expected, strict=True))
    return {
        "requests": count,
        "repeats": repeats,
        "one_adapter_s": round(one, 2),
        "two_adapters_and_base_s": round(three, 2),
        "throughput_ratio": round(one / three, 3),
        "answers_as_alone": f"{equal} of {count}",
    }


def ask(engine: Engine, prompts: list[list[int]], rows: list[str]) -> tuple[float, list[list[int]]]:
    """Seconds, and the ids of each answer, with eight clients."""
    cfg = ServeConfig(max_rows=CLIENTS)
    scheduler = in_thread(lambda: Scheduler(engine, cfg, Metrics()))

    def client(pair: tuple[list[int], str]) -> list[int]:
        queued = QueuedPrompt(pair[0], [GREEDY], adapter=pair[1])
        scheduler.submit([queued])
        queued.finished.wait()
        if queued.error is not None:
            raise queued.error
        return queued.completions[0].ids

    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(client, zip(prompts, rows, strict=True)))
    spent = time.perf_counter() - start
    scheduler.stop()
    return spent, found


def evaluation(bundles: list[Path], home: Path, count: int) -> dict[str, object]:
    file = home / "questions.jsonl"
    shape = {"answers": ["4"], "max_new_tokens": 1}
    lines = [json.dumps({"prompt": text} | shape) for text in make_prompts(count)]
    file.write_text("\n".join(lines) + "\n")
    words = ["scenario.entries=[]", f"scenario.data=[{file}]", "evaluate.resamples=100"]
    sets = ["decoding=dola_low", f"sweep.premature_layers={LAYER_SETS}", "sweep.controls=false"]
    one = config_of(bundles[0], *words)
    all_three = [config_of(each, *words, *sets) for each in (None, *bundles)]
    places = [home / f"together_{i}" for i in range(3)]
    others = list(zip(all_three[1:], places[1:], strict=True))

    def together() -> None:
        run(all_three[0], places[0], others)
        for cfg, place in others:
            run(cfg, place)

    def in_turn() -> None:
        for number, cfg in enumerate(all_three):
            run(cfg, home / f"in_turn_{number}")

    if pick_device().type == "cuda":
        run(one, home / "first")  # it compiles kernels, which the others find
    spent = {
        "one_adapter_greedy_s": timed(lambda: run(one, home / "one")),
        "three_models_nine_decodings_s": timed(together),
        "in_turn_s": timed(in_turn),
    }
    ratio = spent["three_models_nine_decodings_s"] / spent["one_adapter_greedy_s"]
    return {"prompts": count} | spent | {"ratio": round(ratio, 2)} | least(bundles[0], count)


def least(bundle: Path, count: int) -> dict[str, float]:
    """The arithmetic that no order of the work saves, in 10^12 operations, and its ratio.

    Each model has keys and values of its own of every token from the second layer on, as the
    first layer's adapters change what the second one reads. Three models could share the base
    products of the first layer's queries, keys and values. Of the last layer, a prompt needs keys
    and values alone, but for the position that answers. Left out: attention, norms, and what the
    adapters themselves add.
    """
    engine = engine_of(bundle)
    prompts = [engine.tokenizer(text).input_ids for text in make_prompts(count)]
    shots = common_beginning(prompts)
    tokens = shots + sum(len(ids) - shots for ids in prompts)
    shape = engine.model.config
    width, heads = shape.hidden_size, shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or width // heads
    key_value = 2 * width * shape.num_key_value_heads * size
    query = width * heads * size
    layer = key_value + query + heads * size * width + 3 * width * shape.intermediate_size
    layers, head = shape.num_hidden_layers, width * shape.vocab_size
    answers = (layer - key_value) + head  # at the one position of each question that answers
    one = tokens * ((layers - 1) * layer + key_value) + count * answers
    taps = len({number for each in json.loads(LAYER_SETS) for number in each})
    saved = 2 * tokens * (query + key_value)
    three = 3 * (one + count * taps * head) - saved
    return {
        "tokens_of_one": tokens,
        "teraflop_one": round(2 * one / 1e12, 2),
        "teraflop_three": round(2 * three / 1e12, 2),
        "least_ratio": round(three / one, 2),
    }


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return round(time.perf_counter() - start, 1)


if __name__ == "__main__":
    main()
