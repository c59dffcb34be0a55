"""What prompts begin with: found, kept within a bound, forgotten in order."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from effchal.decoding.kv_cache import RowCache
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
        return [block[0].shape[2] for block in store.longest(prompt)]

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


class Copies(TorchDispatchMode):
    """Counts operations that write a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("clone", "copy_", "stack", "cat")
        return func(*args, **(kwargs or {}))


def filled(layers, tokens, sizes=(8,)):
    """A cache of one row with random keys and values; layers take turns with the sizes."""
    cache = RowCache()
    cache.resize(1, tokens)
    cache.add_row()
    cache.extend(0, 1, tokens, torch.device("cpu"))
    for layer in range(layers):
        cache.update(*torch.randn(2, 1, 2, tokens, sizes[layer % len(sizes)]), layer)
    cache.commit()
    return cache


@pytest.mark.parametrize("sizes", [(8,), (8, 4)])
def test_a_prefix_comes_back_as_it_was(sizes):
    cache, store, prompt = filled(4, 100, sizes), PrefixCache(float("inf")), ids(100)
    store.insert(prompt, cache, 0)
    again = RowCache()
    again.resize(1, 100)
    again.fill(again.add_row(), store.longest(prompt))
    for kept, whole in zip(again._keys + again._values, cache._keys + cache._values, strict=True):
        assert torch.equal(kept[:, :, : 3 * BLOCK], whole[:, :, : 3 * BLOCK])


def test_a_block_of_a_prefix_is_one_copy_of_all_layers():
    cache, store, prompt = filled(32, 1000), PrefixCache(float("inf")), ids(1000)
    with Copies() as copies:
        store.insert(prompt, cache, 0)
    assert copies.count == 1000 // BLOCK  # it was 64 for each
    again = RowCache()
    again.resize(1, 1000)
    with Copies() as copies:
        again.fill(again.add_row(), store.longest(prompt))
    assert copies.count == 2 * 32


def test_a_resize_that_lacks_memory_leaves_a_cache_that_is_whole(monkeypatch):
    cache = filled(4, 100)
    before = [part.clone() for part in cache._keys + cache._values]
    allocate, calls = cache._allocate, []

    def short_of_memory(*size):
        calls.append(size)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("injected")
        return allocate(*size)

    monkeypatch.setattr(cache, "_allocate", short_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        cache.resize(2, 200)
    assert all(part.shape[2] >= cache.capacity[1] == 100 for part in cache._keys + cache._values)
    cache.resize(2, 200)  # once there is memory
    for old, new in zip(before, cache._keys + cache._values, strict=True):
        assert torch.equal(old, new[:1, :, :100])
