"""Each Triton kernel against its plain twin in float32, and the time of both."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.functional import quantize_4bit
from machine import median_s
from torch import Tensor

from effchal.kernels import dropout, elementwise
from effchal.kernels.elementwise import OneKernel
from effchal.kernels.frozen_weight import unpack_by_kernel
from effchal.kernels.fused_forward import attention_by_kernel
from effchal.kernels.guarded_kernel import distance
from gpu_check.measure import ON_CARD
from gpu_check.session import Session

ROWS, HIDDEN, MLP, HEADS, SIZE = 2048, 4096, 14336, 48, 128  # of Mistral-7B
TURNING = 40  # heads of queries and keys
LENGTHS, COLUMNS = 8, 2048  # rows and cached tokens of a decode step
OFF = 2**-6  # of the largest number; rounding to bfloat16 once changes 2**-9


def kernels(session: Session) -> None:
    """On a CPU nothing is compiled, and the functions themselves are held against float32."""
    for operation, given in cases(shrunk_by=32 if session.tiny else 1):
        name = operation.function.__name__
        work = functools.partial(proof, operation=operation, given=given)
        session.attempt("kernels", work, kernel=name)
    if ON_CARD:
        session.attempt("kernels", unpacked, kernel="unpack_4_bits")
        session.attempt("kernels", attended, kernel="attention_of_new_tokens")


def cases(shrunk_by: int) -> list[tuple[OneKernel, tuple]]:
    rows, hidden, mlp = (size // shrunk_by for size in (ROWS, HIDDEN, MLP))
    x, dy, gain = made(rows, hidden), made(rows, hidden), made(hidden)
    gate_up, heads = made(rows, 2 * mlp), made(rows, HEADS, SIZE)
    cos, sin = made(rows, 1, SIZE // 2), made(rows, 1, SIZE // 2)
    least, seed = round(0.95 * 2**dropout.BITS), 2**61 + 7
    return [
        (elementwise.normed, (x, gain, 1e-5)),
        (elementwise.normed_backward, (dy, x, gain, 1e-5, dy)),
        (elementwise.rotated, (heads, cos, sin, TURNING, -1.0)),
        (elementwise.gated, (gate_up, "silu")),
        (elementwise.gated_backward, (gate_up, made(rows, mlp), "silu")),
        (dropout.dropped, (x, least, seed)),
        (dropout.added_dropped, (dy, x, least, seed)),
    ]


def made(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda" if ON_CARD else "cpu")


def proof(session: Session, operation: OneKernel, given: tuple) -> None:
    upcast = [
        each.float() if torch.is_tensor(each) and each.is_floating_point() else each
        for each in given
    ]
    name, function = operation.function.__name__, operation.function
    kernel = operation.guarded.kernel if ON_CARD else function
    off = distance(kernel(*given), function(*upcast))
    tell(session, name, off, OFF, lambda: kernel(*given), lambda: function(*given))


def unpacked(session: Session) -> None:
    """NF4 weights have bitsandbytes' bits."""
    packed, state = quantize_4bit(made(MLP, HIDDEN), compress_statistics=True, quant_type="nf4")
    found, true = (torch.empty(MLP, HIDDEN, dtype=state.dtype, device="cuda") for _ in range(2))
    ours = functools.partial(unpack_by_kernel.kernel, packed, state, found)
    theirs = functools.partial(unpack_by_kernel.twin, packed, state, true)
    tell(session, "unpack_4_bits", distance(ours(), theirs()), 0.0, ours, theirs)


def attended(session: Session) -> None:
    """Some rows of different lengths, in bfloat16, against torch's attention in float32."""
    q = made(LENGTHS, 8, 4, SIZE)
    k, v = (made(LENGTHS, 8, COLUMNS, SIZE) for _ in range(2))
    ends = torch.arange(1, LENGTHS + 1, device=q.device)[:, None] * COLUMNS // LENGTHS
    unseen = torch.arange(COLUMNS, device=q.device)[None] >= ends
    mask = q.new_zeros(LENGTHS, 1, 1, COLUMNS).masked_fill_(unseen[:, None, None], -torch.inf)
    given, scale = (q, k, v, mask), SIZE**-0.5
    ours = functools.partial(attention_by_kernel.kernel, *given, scale)
    plain = functools.partial(attention_by_kernel.twin, *given, scale)
    true = attention_by_kernel.twin(*(each.float() for each in given), scale)
    tell(session, "attention_of_new_tokens", distance(ours(), true), OFF, ours, plain)


def tell(
    session: Session,
    kernel: str,
    off: float,
    most: float,
    compiled: Callable[[], Any],
    uncompiled: Callable[[], Any],
) -> None:
    session.tell(
        "kernels",
        kernel=kernel,
        compiled=ON_CARD,
        off=off,
        ms=1000 * median_s(compiled, runs=20, warm=3),
        uncompiled_ms=1000 * median_s(uncompiled, runs=20, warm=3),
        ok=off <= most,
    )
