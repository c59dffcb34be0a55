"""A kernel takes its twin's place only after a trial; what goes wrong is told once."""

import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from effchal.kernels.guarded_kernel import FEW, GuardedKernel


def doubled(x, gain, more):
    """The twin."""
    return 2 * x * gain + more


@pytest.fixture
def guarded(monkeypatch):
    """Makes a guarded kernel of a function, whose inputs are written down."""

    def make(function):
        seen = []
        kernel = lambda *given: seen.append(tuple(map(len, given))) or function(*given)  # noqa: E731
        module = SimpleNamespace(doubled=kernel)
        monkeypatch.setitem(sys.modules, "effchal.kernels.made_up", module)
        return GuardedKernel("made_up", doubled), seen

    return make


def given(rows=FEW + 5, columns=8, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randn(*s, generator=draw).to(dtype) for s in ((rows, columns), (columns,), (rows, 1))
    ]


def test_a_trial_takes_few_rows_and_comes_once_a_kind_of_input(guarded):
    call, seen = guarded(doubled)
    for _ in range(2):
        assert torch.equal(call(*given()), doubled(*given()))
    call(*given(columns=4))
    rows = FEW + 5
    assert seen == [(FEW, 8, FEW), (rows, 8, rows), (rows, 8, rows), (FEW, 4, FEW), (rows, 4, rows)]


def broken(*_):
    raise ValueError("no such target\nmore")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (broken, "which is slower and may take more memory: ValueError: no such target"),
        (lambda *some: 1.1 * doubled(*some), "its result is 0.1 from its plain twin's"),
        (lambda *some: doubled(*some) * torch.nan, "its result is nan from"),
    ],
)
def test_a_kernel_that_fails_or_differs_is_left_for_good(guarded, caplog, function, told):
    call, seen = guarded(function)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(call(*given()), doubled(*given()))
        call(*given(columns=4))
    assert len(seen) == 1
    (message,) = caplog.messages
    assert told in message


def test_numbers_that_prove_nothing_leave_the_trial_for_later(guarded, caplog):
    call, seen = guarded(doubled)
    x, gain, more = given()
    assert call(x * torch.nan, gain, more).isnan().all()
    assert not call(0 * x, gain, 0 * more).any()
    assert not seen
    call(x, gain, more)
    assert len(seen) == 2
    assert not caplog.messages


def test_a_lack_of_memory_is_the_callers(guarded):
    def lacking(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    call, _ = guarded(lacking)
    with pytest.raises(torch.OutOfMemoryError):
        call(*given())


def test_rounding_is_no_difference(guarded):
    call, seen = guarded(lambda *some: doubled(*(each.float() for each in some)).bfloat16())
    call(*given(dtype=torch.bfloat16))
    assert len(seen) == 2


def test_a_kernel_that_fails_at_another_size_is_left_then(guarded, caplog):
    def short(x, *others):
        if len(x) > FEW:
            raise RuntimeError("out of resource: shared memory")
        return doubled(x, *others)

    call, seen = guarded(short)
    for _ in range(2):
        assert torch.equal(call(*given()), doubled(*given()))
    assert len(seen) == 2
    (message,) = caplog.messages
    assert "RuntimeError: out of resource" in message
