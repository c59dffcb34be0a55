"""Attention of new tokens by Triton's interpreter: against torch's, and within decode steps."""

import os

import pytest
import torch
import torch.nn.functional as F
from support.random_models import MODELS, check_paths_agree, random_model

from effchal.kernels import fused_forward

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs triton and TRITON_INTERPRET=1"
)


@pytest.mark.parametrize(
    ("rows", "kv_heads", "queries", "size", "columns", "window"),
    [
        (1, 2, 4, 16, 70, None),
        (3, 2, 1, 20, 300, 40),
        (4, 1, 7, 64, 512, None),
        (2, 2, 20, 16, 9000, 1000),
    ],
)
def test_it_is_torchs_attention_and_reads_no_column_that_nobody_sees(
    rows, kv_heads, queries, size, columns, window
):
    from effchal.kernels.triton_attention import attention_of_new_tokens

    draw = torch.Generator().manual_seed(0)
    q = torch.randn(rows, kv_heads, queries, size, generator=draw)
    k, v = (torch.randn(rows, kv_heads, columns + 8, size, generator=draw) for _ in range(2))
    k, v = k[:, :, :columns], v[:, :, :columns]
    ends = torch.randint(1, columns + 1, (rows, 1), generator=draw)
    place = torch.arange(columns)[None]
    seen = (place < ends) & (place >= ends - (window or columns))
    mask = torch.zeros(rows, 1, 1, columns).masked_fill_(~seen[:, None, None], -torch.inf)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
    for part in (k, v):
        part.masked_fill_(~seen[:, None, :, None], torch.nan)
    found = attention_of_new_tokens(q, k, v, mask, 0.3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", MODELS)
def test_steps_by_it_give_the_states_of_the_models_own(name, monkeypatch):
    calls = []
    kernel = fused_forward.attention_by_kernel.kernel
    counted = lambda *given: calls.append(0) or kernel(*given)  # noqa: E731
    monkeypatch.setattr(fused_forward.attention_by_kernel, "kernel", counted)
    monkeypatch.setattr("effchal.kernels.fused_forward.is_compiled", lambda x: True)
    check_paths_agree(random_model(*MODELS[name]))
    assert calls
