"""The variable-length kernel of CUDA: when it is taken, and what it is asked for.

The kernel itself runs on a card alone; here a plain twin answers in its place.
"""

import pytest
import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen as torchs
from torch.utils._python_dispatch import TorchDispatchMode

from effchal.kernels import attention, varlen
from effchal.kernels.attention import DocumentLengths, packed_attention

LENGTHS = (7, 20, 1, 12)


class Operations(TorchDispatchMode):
    """Names of what runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def heads(dtype=torch.float32, device="cpu", size=16):
    shapes = [(1, 4, sum(LENGTHS), size)] + [(1, 2, sum(LENGTHS), size)] * 2
    generator = None if device != "cpu" else torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=dtype, device=device, generator=generator) for shape in shapes]


def run(module, tensors, **options):
    return packed_attention(module, *tensors, None, documents=DocumentLengths(LENGTHS), **options)[
        0
    ]


def plain_twin(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa=None):
    """What the documentation of varlen_attn says, by a dense mask."""
    assert torch.equal(cu_q, cu_k)
    assert cu_q.dtype == torch.int32
    assert max_q == max_k == int(cu_q.diff().max())
    assert enable_gqa in (None, q.shape[1] != k.shape[1])  # torch 2.11 has no such argument
    before, after = window_size
    places = torch.arange(len(q))
    example = torch.bucketize(places, cu_q[1:], right=True)
    ahead = places[None] - places[:, None]
    seen = (example[:, None] == example[None]) & (ahead <= after)
    seen = seen if before < 0 else seen & (ahead >= -before)
    q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
    mixed = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, seen, scale=scale, enable_gqa=True
    )
    return mixed[0].transpose(0, 1)


@pytest.mark.parametrize("grouped", [True, False], ids=["enable_gqa", "torch 2.11"])
@pytest.mark.parametrize("window", [None, 5, 12, 4096])
def test_the_kernel_is_asked_for_the_same_attention(monkeypatch, window, grouped):
    tensors, module = heads(), torch.nn.Module()
    expected = run(module, tensors, scaling=0.3, sliding_window=window)
    monkeypatch.setattr(attention, "runs_varlen", lambda query: True)
    monkeypatch.setattr(varlen, "_asks_for_grouped_heads", lambda: grouped)
    monkeypatch.setattr(torchs, "varlen_attn", plain_twin)
    found = run(module, tensors, scaling=0.3, sliding_window=window)
    assert torch.allclose(found, expected, atol=1e-6)


def pretend_capability(monkeypatch, capability):
    """A card of this capability. A torch built for CUDA would start it for a fake tensor, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(fake_tensor, "init_gpu_context", lambda device: None)


@pytest.mark.parametrize(
    ("dtype", "size", "capability", "taken"),
    [
        (torch.bfloat16, 128, (9, 0), True),
        (torch.bfloat16, 128, (8, 0), True),
        (torch.bfloat16, 128, (7, 5), False),  # T4
        (torch.float32, 128, (9, 0), False),
        (torch.bfloat16, 320, (9, 0), False),
        (torch.bfloat16, 60, (9, 0), False),
    ],
)
def test_it_is_one_launch_for_all_examples_where_the_card_has_it(
    monkeypatch, dtype, size, capability, taken
):
    pretend_capability(monkeypatch, capability)
    varlen._has_kernel.cache_clear()
    varlen.ends_of.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), Operations() as operations:
        mixed = run(torch.nn.Module(), heads(dtype, "cuda:0", size), sliding_window=6)
    varlen._has_kernel.cache_clear()
    varlen.ends_of.cache_clear()
    assert mixed.shape == (1, sum(LENGTHS), 4, size)
    assert operations.names.count("torch_attn::_varlen_attn") == (1 if taken else 0)


@pytest.mark.parametrize(("dtype", "window"), [(torch.float32, None), (torch.bfloat16, 6)])
def test_grouped_heads_never_meet_a_mask_or_float32_on_a_card(monkeypatch, dtype, window):
    pretend_capability(monkeypatch, (7, 5))
    varlen._has_kernel.cache_clear()
    asked = []
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F,
        "scaled_dot_product_attention",
        lambda q, k, v, *rest, **options: (
            asked.append((k.shape[1], options["enable_gqa"])) or plain(q, k, v, *rest, **options)
        ),
    )
    with FakeTensorMode():
        run(torch.nn.Module(), heads(dtype, "cuda:0"), sliding_window=window)
    varlen._has_kernel.cache_clear()
    assert asked == [(4, False)] * len(LENGTHS)
