"""Shares of a step: each example once, about as many tokens for each, as many micro-batches."""

import numpy as np
import pytest

from effchal.config import Config
from effchal.mixing.encode import EncodedExample
from effchal.mixing.shares import micro_batches_of_rank, shares_of

SIZES = [7, 300, 12, 12, 250, 90, 5, 41, 180, 3, 66, 130]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 20])
def test_each_example_is_in_one_share_and_the_shares_are_alike(ranks):
    shares = shares_of(SIZES, ranks)
    assert sorted(index for share in shares for index in share) == list(range(len(SIZES)))
    sizes = [[SIZES[index] for index in share] for share in shares]
    least = min(map(sum, sizes))
    # A share had the fewest tokens when it got its last example, which is its shortest.
    assert all(sum(own) - min(own) <= least for own in sizes if own)
    assert all(share == sorted(share) for share in shares)
    assert shares_of([], ranks) == [[]] * ranks


@pytest.mark.parametrize("ranks", [1, 2, 3, 20])
def test_ranks_have_as_many_micro_batches_which_hold_each_target_once(ranks):
    cfg = Config()
    cfg.model.max_seq_len, cfg.train.micro_batch_size = 320, 1
    examples = [
        EncodedExample(str(i), np.full(size, 1), np.full(size, i), False)
        for i, size in enumerate(SIZES)
    ]
    found = [micro_batches_of_rank(cfg, examples, rank, ranks) for rank in range(ranks)]
    assert len({len(own) for own in found}) == 1
    batches = [batch for own in found for batch in own]
    assert sum(batch.tokens for batch in batches) == sum(SIZES)
    assert sum(batch.target_tokens for batch in batches) == sum(SIZES)
    ids = sorted(name for batch in batches for name in batch.example_ids)
    assert ids == sorted(str(i) for i in range(len(SIZES)))
    idle = [batch for batch in batches if batch.is_idle]
    assert all(batch.input_ids.shape == (1, 1) and batch.tokens == 0 for batch in idle)
    assert len(idle) == sum(not batch.example_ids for batch in batches)
    assert bool(idle) == (ranks == 20)
