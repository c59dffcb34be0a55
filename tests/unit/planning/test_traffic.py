"""Bytes that operations move, by hand and by the counter."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from effchal.planning.traffic import Traffic

N = 1000
BYTES = 4 * N
IDS = functools.partial(torch.empty, 10, dtype=torch.int64)


def counted(action, *shapes):
    """Bytes and launches of an action on float32 tensors of these shapes."""
    with FakeTensorMode():
        tensors = [torch.empty(shape) for shape in shapes]
        with Traffic() as traffic:
            action(*tensors)
    return traffic.bytes, traffic.launches


@pytest.mark.parametrize(
    ("action", "shapes", "expected"),
    [
        (lambda a, b: a + b, [(N,), (N,)], (3 * BYTES, 1)),
        (lambda a, b: a.add_(b), [(N,), (N,)], (3 * BYTES, 1)),
        (lambda a: a.to(torch.bfloat16), [(N,)], (BYTES + BYTES // 2, 1)),
        (lambda a, b: a * b, [(N, N), (N,)], (2 * N * BYTES + BYTES, 1)),
        (lambda a, b: a * b.expand(N, N), [(N, N), (N,)], (2 * N * BYTES + BYTES, 1)),
        (lambda a: a.view(10, -1).t()[:5].detach(), [(N,)], (0, 0)),
        (lambda a: torch.empty_like(a), [(N,)], (0, 0)),
        (lambda a: a.new_zeros(N), [(5,)], (BYTES, 1)),
        (lambda a, b: torch.mul(a, b, out=a), [(N,), (N,)], (3 * BYTES, 1)),  # out is not read
        (lambda a, b: a.copy_(b), [(N,), (N,)], (2 * BYTES, 1)),
        (lambda a, b: a @ b, [(N, N), (N, N)], (0, 1)),
        (lambda a, b: F.linear(a, b), [(N, N), (N, N)], (0, 1)),
        (lambda a: a[:10].sum(), [(N,)], (44, 1)),
        (
            lambda a: a.index_select(0, torch.empty(10, dtype=torch.int64)),
            [(N, N)],
            (20 * BYTES, 1),
        ),
    ],
    ids=lambda value: None,
)
def test_what_an_operation_moves(action, shapes, expected):
    assert counted(action, *shapes) == expected


def test_attention_is_a_product():
    def attend(a):
        F.scaled_dot_product_attention(a, a, a, is_causal=True)

    moved, launches = counted(attend, (1, 4, 128, 64))
    assert launches >= 1
    assert moved < 4 * 4 * 128 * 128  # no matrix of scores
