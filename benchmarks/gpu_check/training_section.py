"""Training at Mistral-7B's shape within a 24 GB card: tokens/s and memory, ours beside its peers.

Each system computes on random weights with the same adapter, in a process of its own.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from effchal.config import TrainConfig
from effchal.config.choices import ActivationCheckpointing
from effchal.kernels.elementwise import allow_compiling
from effchal.model.structure import causal_lm, checkpoint_layers
from effchal.training.layers import prepare_training
from effchal.training.step import make_optimizer, train_step
from gpu_check.measure import ON_CARD, finish, free_memory, host_waits, peak_memory, profile
from gpu_check.models import adapt, large_model, micro_batch, quantise, trainable, uneven_lengths
from gpu_check.session import Session

RANK, DROPOUT, SEGMENTS = 16, 0.05, 8
MAX_NORM = 0.3


def tokens_of(session: Session) -> int:
    return 128 if session.tiny else 2048


def adapted_model(session: Session, base: str, dropout: float = 0.0) -> Any:
    """bf16 or nf4, with an adapter of rank 16 on all linear layers."""
    model = large_model(session.tiny)
    return adapt(quantise(model) if base == "nf4" else model, RANK, dropout).train()


def effchal(session: Session, base: str) -> None:
    """Every checkpointing level with one long example and with several; new lengths; dropout."""
    tokens = tokens_of(session)
    model = adapted_model(session, base)
    for keep in ActivationCheckpointing:
        for segments in (1, SEGMENTS):
            lengths = uneven_lengths(tokens, segments)
            ours(session, model, base, keep, lambda i, n=lengths: n, segments=segments)
    none = ActivationCheckpointing.none
    ours(
        session,
        model,
        base,
        none,
        lambda i: shifted(tokens, i),
        segments=SEGMENTS,
        new_lengths=True,
    )
    allow_compiling(False)
    ours(session, model, base, none, lambda i: [tokens], segments=1, kernels=False)
    allow_compiling(True)
    details(session, model, base)
    del model
    free_memory()
    model = adapted_model(session, base, DROPOUT)
    ours(session, model, base, none, lambda i: [tokens], segments=1, dropout=DROPOUT)


def shifted(tokens: int, step: int) -> list[int]:
    """Lengths that no step before had, of the same sum."""
    lengths = uneven_lengths(tokens, SEGMENTS)
    return [n + (step + 1) * (1 if i % 2 else -1) for i, n in enumerate(lengths)]


def ours(
    session: Session,
    model: Any,
    base: str,
    keep: ActivationCheckpointing,
    lengths: Callable[[int], list[int]],
    **about: Any,
) -> None:
    told = {"system": "effchal", "base": base, "keep": keep.value, "dropout": 0.0} | about

    def work(session: Session) -> None:
        unprepare(model)
        fused = prepare_training(model, keep)
        optimizer = make_optimizer(model, TrainConfig())
        vocabulary = causal_lm(model).config.vocab_size
        batches = [micro_batch(lengths(i), vocabulary, i) for i in range(steps_of(session))]
        step = lambda i: train_step(model, optimizer, [batches[i]], MAX_NORM)  # noqa: E731
        time_steps(session, model, step, told | {"fused": fused})

    session.attempt("training", work, **told)
    clear(model)


def unprepare(model: Any) -> None:
    """Undo what an earlier prepare_training did to layers that stayed the library's."""
    for module in causal_lm(model).modules():
        vars(module).pop("forward", None)
    library_checkpointing(model, False)


def library_checkpointing(model: Any, on: bool) -> None:
    if on:
        checkpoint_layers(model)
        return
    inner = causal_lm(model)
    newer = getattr(inner, "activation_checkpointing_disable", None)  # from transformers 5.23 on
    (newer or inner.gradient_checkpointing_disable)()


def clear(model: Any) -> None:
    for parameter in trainable(model):
        parameter.grad = None
    free_memory()


def details(session: Session, model: Any, base: str) -> None:
    """Waits of the host in a step of two micro-batches, and where the time of a step goes."""
    unprepare(model)
    prepare_training(model, ActivationCheckpointing.none)
    optimizer = make_optimizer(model, TrainConfig())
    batch = micro_batch(uneven_lengths(tokens_of(session), 4), causal_lm(model).config.vocab_size)
    step = lambda count: train_step(model, optimizer, [batch] * count, MAX_NORM)  # noqa: E731
    step(2)
    waits = host_waits(lambda: step(2))
    session.tell("waits", what="training step of 2 micro-batches", base=base, waits=waits)
    session.tell("profile", what="training step", base=base, **profile(lambda: step(1)))
    clear(model)


def transformers_and_peft(session: Session, base: str, name: str = "transformers + peft") -> None:
    """As their documentation trains: autocast, the model's own loss over all logits."""
    model = adapted_model(session, base)
    with_liger = "Liger" in name
    if with_liger:
        from liger_kernel.transformers import apply_liger_kernel_to_mistral

        apply_liger_kernel_to_mistral(model=causal_lm(model))
    vocabulary, tokens = causal_lm(model).config.vocab_size, tokens_of(session)
    for keep in ("none", "full"):
        told = {"system": name, "base": base, "keep": keep, "segments": 1, "dropout": 0.0}

        def work(session: Session, keep: str = keep, told: dict = told) -> None:
            library_checkpointing(model, keep == "full")
            if keep == "full":
                model.enable_input_require_grads()
            optimizer = torch.optim.AdamW(trainable(model), fused=True)
            rows = [micro_batch([tokens], vocabulary, i) for i in range(steps_of(session))]
            step = lambda i: plain_step(model, optimizer, rows[i].input_ids)  # noqa: E731
            time_steps(session, model, step, told)

        session.attempt("training", work, **told)
        clear(model)


def liger(session: Session, base: str) -> None:
    transformers_and_peft(session, base, "transformers + peft + Liger")


def plain_step(model: Any, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> None:
    with torch.autocast(ids.device.type, torch.bfloat16):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    torch.nn.utils.clip_grad_norm_(trainable(model), MAX_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def steps_of(session: Session) -> int:
    return 3 if session.tiny else 7


def time_steps(
    session: Session, model: Any, step: Callable[[int], Any], told: dict[str, Any]
) -> None:
    """Tokens/s of all steps but the first two, and the peak of memory."""
    times, tokens = [], tokens_of(session)
    with peak_memory() as memory:
        for i in range(steps_of(session)):
            finish()
            begun = time.perf_counter()
            step(i)
            finish()
            times.append(time.perf_counter() - begun)
    taken = statistics.median(times[2:])
    session.tell("training", **told, **speed(session, model, tokens, taken, told), **memory)


def speed(
    session: Session, model: Any, tokens: int, taken: float, told: dict[str, Any]
) -> dict[str, Any]:
    flop = operations(model, tokens, told.get("segments", 1))
    rate = session.rates.get("bf16_tflops", math.nan)
    found = {"tokens": tokens, "tokens_per_s": round(tokens / taken), "step_ms": 1000 * taken}
    if ON_CARD:
        found["share_of_product_rate"] = round(flop / taken / 1e12 / rate, 3)
    return found


def operations(model: Any, tokens: int, segments: int) -> float:
    """Floating-point operations that a step cannot do without."""
    frozen = sum(
        module.in_features * module.out_features
        for name, module in model.named_modules()
        if hasattr(module, "in_features")
        and not hasattr(module, "base_layer")
        and "lora_" not in name
    )
    adapter = sum(parameter.numel() for parameter in trainable(model))
    config = causal_lm(model).config
    attended = 7 * config.num_hidden_layers * config.hidden_size * tokens / segments
    return tokens * (4.0 * frozen + 6.0 * adapter + attended)
