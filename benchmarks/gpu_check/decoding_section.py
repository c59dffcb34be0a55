"""Decoding at Mistral-7B's shape: tokens/s, share of the copy bandwidth, waits of the host."""

import functools
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from machine import median_s
from torch import nn

from effchal.config import ServeConfig
from effchal.decoding.contrast import Contrast, Dola, Greedy
from effchal.decoding.engine import Engine
from effchal.decoding.layers import candidate_layers
from effchal.decoding.sampling import SamplingParams
from effchal.kernels.step_graphs import SEEN
from effchal.model.structure import causal_lm
from effchal.serving.metrics import Metrics
from effchal.serving.queued import QueuedPrompt
from effchal.serving.scheduler import Scheduler
from gpu_check.measure import DEVICE, ON_CARD, finish, free_memory, host_waits, peak_memory, profile
from gpu_check.models import adapt, large_model, make_tokenizer, quantise, random_ids
from gpu_check.recorder import Counted, forget, graphs
from gpu_check.session import Session

ROWS, TINY_ROWS = (1, 8, 16), (1, 3)
RANK, WARM = 16, SEEN + 2  # graphs are recorded by then
REQUESTS, NEW_TOKENS, SHARED, OWN = 32, 64, 512, 128  # of the scheduler's prompts
TINY_REQUESTS = (4, 8, 40, 10)


def model_of(session: Session, base: str) -> Any:
    """bf16, bf16+adapter or nf4+adapter."""
    model = large_model(session.tiny)
    kind, _, adapter = base.partition("+")
    model = quantise(model) if kind == "nf4" else model
    return adapt(model, RANK).eval() if adapter else model


def decoding(session: Session, base: str) -> None:
    model = model_of(session, base)
    tokenizer = make_tokenizer(causal_lm(model).config.vocab_size)
    read = weight_bytes(model)
    layers = candidate_layers("low", causal_lm(model).config.num_hidden_layers, tied=False)
    hows: dict[str, tuple[Contrast, float]] = {
        "greedy": (Greedy(), 0.0),
        "dola": (Dola(layers), 0.0),
        "sampled": (Greedy(), 0.8),
    }
    for about in kinds(session, base):
        contrast, temperature = hows[about["how"]]
        params = SamplingParams(10**6, temperature, 0.95, contrast=contrast, ignore_eos=True)
        engine = functools.partial(
            Engine, model, tokenizer, Counted if about["with_graphs"] else None
        )
        session.attempt(
            "decoding", lambda s, e=engine, p=params, t=about: steps(s, e(), p, t, read), **about
        )
        free_memory()
    if base == "bf16":
        for rows in rows_of(session):
            told = {"system": "transformers generate", "base": base, "how": "greedy", "rows": rows}
            session.attempt("decoding", lambda s, t=told: generate(s, model, t), **told)
        session.attempt("serving", lambda s: serving(s, Engine(model, tokenizer, Counted)))


def kinds(session: Session, base: str) -> Iterator[dict[str, Any]]:
    """Ways to decode, rows, whether these are of one length, tokens of a prompt, and graphs."""
    for rows in rows_of(session):
        for how in ("greedy", "dola", "sampled"):
            for even in (True, False) if rows == rows_of(session)[1] else (True,):
                for with_graphs in (True, False) if even and how != "sampled" else (True,):
                    told = {"system": "effchal", "base": base, "how": how, "rows": rows}
                    told |= {"even": even, "tokens": prompt_tokens(session)}
                    yield told | {"with_graphs": with_graphs}
    if base == "bf16":  # a graph masks columns, which takes another attention kernel
        told = {"system": "effchal", "base": base, "how": "greedy", "rows": 1, "even": True}
        for with_graphs in (True, False):
            yield told | {"tokens": 8 * prompt_tokens(session), "with_graphs": with_graphs}


def rows_of(session: Session) -> tuple[int, ...]:
    return TINY_ROWS if session.tiny else ROWS


def prompt_tokens(session: Session) -> int:
    return 20 if session.tiny else 512


def steps_of(session: Session) -> int:
    return 3 if session.tiny else 40


def steps(
    session: Session, engine: Engine, params: SamplingParams, told: dict[str, Any], read: int
) -> None:
    """Median of a step's seconds, once a few are done. read: bytes of the weights."""
    length, times = told["tokens"], []
    forget()
    with peak_memory() as memory:
        for row in range(told["rows"]):
            ids = random_ids(length - (0 if told["even"] else row), 500, row)
            engine.start(ids, [params])
        for _ in range(WARM + steps_of(session)):
            finish()
            begun = time.perf_counter()
            engine.step()
            finish()
            times.append(time.perf_counter() - begun)
    waits = host_waits(engine.step)
    taken = statistics.median(times[WARM:])
    found = rates(session, told, taken, read)
    session.tell("decoding", **told, **found, waits=waits, **graphs(), **memory)
    if told["rows"] == 1 and told["how"] != "sampled":
        with_or_without = "with graphs" if told["with_graphs"] else "without graphs"
        what = f"decode step, {told['how']}, 1 row, {length} tokens, {with_or_without}"
        session.tell("profile", what=what, base=told["base"], **profile(engine.step))


def rates(session: Session, told: dict[str, Any], taken: float, read: int) -> dict[str, Any]:
    """Speed, and the share of the copy bandwidth that reading every weight once takes."""
    found = {"step_ms": 1000 * taken, "tokens_per_s": round(told["rows"] / taken, 1)}
    if ON_CARD:
        bandwidth = session.rates.get("copy_gb_per_s", math.nan) * 1e9
        found["share_of_bandwidth"] = round(read / bandwidth / taken, 3)
    return found


def weight_bytes(model: nn.Module) -> int:
    """Of all weights that a step reads whole: not the embeddings."""
    found = {
        parameter
        for part in model.modules()
        if not isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
    }
    return sum(parameter.numel() * parameter.element_size() for parameter in found)


@torch.inference_mode()
def generate(session: Session, model: Any, told: dict[str, Any]) -> None:
    """Greedy steps of transformers' own loop, its prefill left out."""
    rows, length, count = told["rows"], prompt_tokens(session), steps_of(session)
    ids = torch.tensor([random_ids(length, 500, row) for row in range(rows)], device=DEVICE)

    def answer(new: int) -> None:
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
        )

    all_s, first_s = (median_s(lambda new=new: answer(new), runs=1) for new in (count, 1))
    taken = (all_s - first_s) / (count - 1)
    session.tell("decoding", **told, **rates(session, told, taken, weight_bytes(model)))


def serving(session: Session, engine: Engine) -> None:
    """The scheduler without HTTP: requests that come at once and begin alike."""
    sizes = (REQUESTS, NEW_TOKENS, SHARED, OWN)
    requests, new, shared, own = TINY_REQUESTS if session.tiny else sizes
    scheduler = Scheduler(engine, ServeConfig(), Metrics())
    beginning = random_ids(shared, 500, 0)
    params = SamplingParams(new, ignore_eos=True)
    try:
        answer_all(scheduler, [QueuedPrompt(beginning + random_ids(own, 500, 1), [params])])
        prompts = [
            QueuedPrompt(beginning + random_ids(own, 500, 2 + i), [params]) for i in range(requests)
        ]
        taken = answer_all(scheduler, prompts)
    finally:
        scheduler.stop()
    session.tell(
        "serving",
        base="bf16",
        requests=requests,
        new_tokens=new,
        prompt_tokens=shared + own,
        tokens_per_s=round(requests * new / taken, 1),
        requests_per_s=round(requests / taken, 2),
    )


def answer_all(scheduler: Scheduler, prompts: list[QueuedPrompt]) -> float:
    """Seconds until all are answered."""
    begun = time.perf_counter()
    scheduler.submit(prompts)
    for prompt in prompts:
        if not prompt.finished.wait(120):
            raise TimeoutError("the scheduler did not answer within 120 s")
        if prompt.error is not None:
            raise prompt.error
    return time.perf_counter() - begun
