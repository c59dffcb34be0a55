"""What each process of a run takes of some examples: shares of about as many tokens."""

from collections.abc import Sequence

from effchal.config import Config
from effchal.mixing.encode import EncodedExample
from effchal.mixing.packing import MicroBatch, idle_like, pack_for, rows_for


def shares_of(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices of the examples of each rank, in their order; each example once.

    The longest goes first, to the rank with the fewest tokens so far.
    """
    loads = [0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        rank = loads.index(min(loads))
        loads[rank] += sizes[index]
        shares[rank].append(index)
    return [sorted(share) for share in shares]


def micro_batches_of_rank(
    cfg: Config, examples: Sequence[EncodedExample], rank: int, ranks: int, divisor: int = 1
) -> list[MicroBatch]:
    """What one of so many processes computes of these examples; each has as many micro-batches.

    Sharded weights are gathered at each use, by all processes together. So the processes that have
    fewer micro-batches end with idle ones.

    Args:
        divisor: of a micro-batch's size, see best_fit.
    """
    if ranks == 1:
        return pack_for(cfg, examples, divisor)
    sizes = [len(example.ids) for example in examples]
    shares = shares_of(sizes, ranks)
    counts = [len(rows_for(cfg, [sizes[i] for i in share], divisor)) for share in shares]
    own = pack_for(cfg, [examples[i] for i in shares[rank]], divisor)
    like = own[0] if own else pack_for(cfg, examples, divisor)[0]
    return own + [idle_like(like)] * (max(counts) - len(own))
