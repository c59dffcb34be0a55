"""Each compiled kernel against its function in float32, and the time of both."""

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from machine import median_s

from effchal.kernels import dropout, elementwise
from effchal.kernels.elementwise import OneKernel, is_compiled
from gpu_check.measure import ON_CARD
from gpu_check.session import Session

ROWS, HIDDEN, MLP, HEADS, SIZE = 2048, 4096, 14336, 48, 128  # of Mistral-7B
TURNING = 40  # heads of queries and keys
OFF = 2**-6  # of the largest number; rounding to bfloat16 once changes 2**-9


def kernels(session: Session) -> None:
    """On a CPU nothing is compiled, and the functions themselves are held against float32."""
    for operation, given in cases(shrunk_by=32 if session.tiny else 1):
        name = operation.function.__name__
        session.attempt("kernels", lambda s, o=operation, g=given: proof(s, o, g), kernel=name)
    if ON_CARD:
        session.attempt("kernels", unpacked, kernel="unpack_4_bits")


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


def made(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda" if ON_CARD else "cpu")


def proof(session: Session, operation: OneKernel, given: tuple) -> None:
    upcast = [
        each.float() if torch.is_tensor(each) and each.is_floating_point() else each
        for each in given
    ]
    true = operation.function(*upcast)
    off = float((operation(*given) - true).abs().max() / true.abs().max())
    session.tell(
        "kernels",
        kernel=operation.function.__name__,
        compiled=is_compiled(given[0]),
        off=off,
        ms=1000 * median_s(lambda: operation(*given), runs=20, warm=3),
        uncompiled_ms=1000 * median_s(lambda: operation.function(*given), runs=20, warm=3),
        ok=off <= OFF,
    )


def unpacked(session: Session) -> None:
    """NF4 weights have bitsandbytes' bits."""
    from effchal.kernels.triton_elementwise import unpack_4_bits

    packed, state = quantize_4bit(made(MLP, HIDDEN), compress_statistics=True, quant_type="nf4")
    found, true = (torch.empty(MLP, HIDDEN, dtype=state.dtype, device="cuda") for _ in range(2))
    dequantize_4bit(packed, state, out=true)
    unpack_4_bits(packed, state, found)
    session.tell(
        "kernels",
        kernel="unpack_4_bits",
        compiled=True,
        off=float((found.float() - true.float()).abs().max()),
        ms=1000 * median_s(lambda: unpack_4_bits(packed, state, found), runs=20, warm=3),
        uncompiled_ms=1000
        * median_s(lambda: dequantize_4bit(packed, state, out=true), runs=20, warm=3),
        ok=torch.equal(found, true),
    )
