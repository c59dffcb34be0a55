"""What prompts begin with: found, kept within a bound, forgotten in order."""

import torch

from effchal.decoding.prefix_cache import BLOCK, PrefixCache, common_beginning


def ids(length, seed=0):
    return torch.randint(5, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_how_much_prompts_begin_with_alike():
    assert common_beginning([[1, 2, 3]]) == 3
    assert common_beginning([[1, 2, 3], [1, 2], [1, 2, 4]]) == 2
    assert common_beginning([[5, 1, 9], [5, 2, 0], [5, 1, 8]]) == 1
    assert common_beginning([[2], [1], [2]]) == 0


def test_the_prefix_store_keeps_to_its_bound_and_forgets_the_longest_unused(tiny_engine):
    store = tiny_engine.prefix_cache = PrefixCache(float("inf"))
    old, new = ids(2 * BLOCK), ids(2 * BLOCK, seed=1)
    for each in (old, new):
        prefill = tiny_engine.begin(each, ())
        tiny_engine.prefill(prefill, 1000)
        tiny_engine.keep_prefix(prefill)

    def known(prompt):
        return [block[0].shape[1] for block in store.longest(prompt)]

    assert known([*old, 1]) == known([*new, 1]) == [BLOCK, BLOCK]
    assert known(new) == [BLOCK, BLOCK - 1]  # one id at least is left to read
    assert known([*old[: BLOCK + 3], 1, *old]) == [BLOCK, 3]
    store.longest([*old, 1])
    block_bytes = store.size_bytes // 4
    store.limit_bytes = 3 * block_bytes
    third = [*old[:BLOCK], *ids(BLOCK, seed=2)]
    prefill = tiny_engine.begin(third, ())
    assert prefill.reused_tokens == BLOCK
    tiny_engine.prefill(prefill, 1000)
    tiny_engine.keep_prefix(prefill)
    assert store.size_bytes == 3 * block_bytes
    assert [len(known([*each, 1])) for each in (old, new, third)] == [2, 0, 2]
    tiny_engine.clear()
    tiny_engine.prefix_cache = PrefixCache(float("inf"))
