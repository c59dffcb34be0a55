"""How rows of several adapters are put in order, and read what they have in common."""

import pytest
import torch
import torch.nn.functional as F

from effchal.kernels.row_adapters import RowAdapters
from effchal.kernels.shared_prefix import (
    at_equal_distances,
    attention_with_shared_prefix,
    shared_reads,
)

CPU = torch.device("cpu")
SHARED, OWN = 37, 5


@pytest.mark.parametrize(
    ("adapters", "calls"),
    [
        ("aaaa", 1),
        ("ababab", 1),
        ("bbaacc", 1),
        ("abcabcab", 1),
        ("aabbc", 1),
        ("abbc", 3),  # no three of them stand at equal distances
        ("aaaaaaab", 2),  # one call would have 14 rows with its padding
        ("abcd", 1),
    ],
)
def test_rows_of_any_order_attend_as_each_alone(adapters, calls):
    torch.manual_seed(0)
    rows = len(adapters)
    common = {name: torch.randn(2, 3, SHARED, 16) for name in sorted(set(adapters))}
    q, own = torch.randn(rows, 3, 2, 16), torch.randn(2, rows, 3, OWN, 16)
    k, v = (
        torch.stack([torch.cat([common[name][i], own[i, row]], dim=1) for row, name in at])
        for i, at in [(i, list(enumerate(adapters))) for i in (0, 1)]
    )
    reads = shared_reads(tuple(adapters))
    found = attention_with_shared_prefix(q, k, v, None, SHARED, reads, 0.25)
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.25)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(reads.reads) == calls
    assert reads.spared == rows - len(set(adapters))


def test_one_row_of_each_adapter_stands_at_equal_distances():
    assert at_equal_distances([[4], [9]]) == (4, 9)
    assert at_equal_distances([[5, 0], [1, 6], [2]]) == (0, 1, 2)
    assert at_equal_distances([[0], [1], [3]]) is None


def test_tokens_of_one_adapter_stand_together():
    rows = RowAdapters()
    rows.choose(["b", "", "a", "b", "a"], CPU)
    assert rows.order.tolist() == [1, 2, 4, 0, 3]
    assert rows.order[rows.back].tolist() == [0, 1, 2, 3, 4]
    assert rows.parts == [("a", slice(1, 3)), ("b", slice(3, 5))]
    rows.choose(["", "a", "a"], CPU)  # so they stand already
    assert (rows.order, rows.back, rows.parts) == (None, None, [("a", slice(1, 3))])
    rows.choose(["a", "a"], CPU)
    assert (rows.order, rows.parts) == (None, [("a", None)])
    rows.choose([], CPU)
    assert rows.parts == []
