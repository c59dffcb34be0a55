"""Which attention kernel each call of ours takes, and what a length costs that is new."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from machine import median_s

from effchal.config.choices import ActivationCheckpointing
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.training.layers import prepare_training
from effchal.training.step import target_loss
from gpu_check.measure import ON_CARD, attention_kernels, finish, free_memory
from gpu_check.models import adapt, large_model, make_tokenizer, micro_batch, random_ids, trainable
from gpu_check.session import Session

LAYERS = 2
CUTS = (1, 3, 7)  # tokens less, for lengths that nothing has seen


def attention(session: Session) -> None:
    """Training with and without a window, in bf16 and float32; prefill and decode steps."""
    length = 60 if session.tiny else 600
    for dtype in (torch.bfloat16, torch.float32):
        for windowed in (False, True):
            model = training_model(session, dtype, length // 2 if windowed else None)
            what = "training, beyond the window" if windowed else "training"
            told = {"call": what, "dtype": str(dtype).removeprefix("torch.")}
            with_and_without_cudnn(
                session, told, lambda lengths, m=model: learn(m, lengths), length
            )
            del model
            free_memory()
    decode(session, length)


def training_model(session: Session, dtype: torch.dtype, window: int | None) -> Any:
    model = large_model(session.tiny, LAYERS).to(dtype)
    model.config.sliding_window = window
    for layer in model.model.layers:
        layer.self_attn.sliding_window = window
    model = adapt(model).train()
    prepare_training(model, ActivationCheckpointing.none)
    return model


def learn(model: Any, lengths: list[int]) -> None:
    target_loss(model, micro_batch(lengths, model.config.vocab_size)).backward()
    for parameter in trainable(model):
        parameter.grad = None


def with_and_without_cudnn(
    session: Session, told: dict, work: Callable[[list[int]], None], length: int
) -> None:
    """Time lengths that are new and the same ones again, as our code leaves cuDNN and otherwise."""
    lengths = [length, length // 3]
    for cudnn, shift in settings_of_cudnn():
        with cudnn_attention(cudnn):
            kernels = attention_kernels(lambda: work(lengths))
            first, again = [], []
            for cut in CUTS:
                other = [each - cut - shift for each in lengths]
                first.append(median_s(lambda o=other: work(o), runs=1, warm=0))
                again.append(median_s(lambda o=other: work(o), runs=3, warm=0))
        session.tell(
            "attention",
            **told,
            cudnn=cudnn,
            cudnn_as_is=shift == 0,
            kernels=kernels,
            new_length_ms=round(1000 * statistics.median(first), 2),
            same_length_ms=round(1000 * statistics.median(again), 2),
        )


def settings_of_cudnn() -> list[tuple[bool | None, int]]:
    """As it is left by this package, then the other way; each with a shift of the lengths."""
    if not ON_CARD:
        return [(None, 0)]
    as_is = torch.backends.cuda.cudnn_sdp_enabled()
    return [(as_is, 0), (not as_is, 1)]


@contextlib.contextmanager
def cudnn_attention(enabled: bool | None) -> Iterator[None]:
    if enabled is None:
        yield
        return
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def decode(session: Session, length: int) -> None:
    """Prefill, and steps of rows that are as long and not as long; every step is a new length."""
    model = large_model(session.tiny, LAYERS)
    tokenizer = make_tokenizer(model.config.vocab_size)
    rows = {"1 row": [length], "4 even rows": [length] * 4}
    rows["4 uneven rows"] = [length - 7 * i for i in range(4)]
    for name, lengths in rows.items():
        for cudnn, shift in settings_of_cudnn():
            engine = Engine(model, tokenizer)
            with cudnn_attention(cudnn):
                prompts = [random_ids(each + shift, 500, i) for i, each in enumerate(lengths)]
                kernels = attention_kernels(lambda e=engine, p=prompts: start(e, p))
                times = [timed_step(engine) for _ in range(6)]
            session.tell(
                "attention",
                call=f"decode, {name}",
                dtype="bfloat16",
                cudnn=cudnn,
                cudnn_as_is=shift == 0,
                kernels=kernels,
                new_length_ms=round(1000 * statistics.median(times), 2),
            )
            engine.clear()


def start(engine: Engine, prompts: list[list[int]]) -> None:
    """Prefill prompts, and a step of all their rows."""
    params = SamplingParams(max_new_tokens=10**6, ignore_eos=True)
    for prompt in prompts:
        engine.start(prompt, [params])
    engine.step()


def timed_step(engine: Engine) -> float:
    finish()
    begun = time.perf_counter()
    engine.step()
    finish()
    return time.perf_counter() - begun
