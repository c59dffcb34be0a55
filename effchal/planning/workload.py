"""What a run has to compute: steps, tokens, and its largest micro-batch."""

from dataclasses import dataclass

from effchal.config import Config
from effchal.mixing.encode import IGNORE_INDEX, EncodedExample
from effchal.mixing.order import examples_of_run
from effchal.mixing.packing import rows_for
from effchal.mixing.prepare import PreparedData
from effchal.mixing.shares import shares_of

SAMPLED_STEPS = 5000  # of a longer run; its tokens are then scaled


@dataclass(frozen=True)
class ExampleSize:
    tokens: int
    targets: int


@dataclass(frozen=True)
class MicroBatchSize:
    """The most that one micro-batch of a run holds."""

    tokens: int
    targets: int
    longest: int  # tokens of its longest example
    several: bool = True  # a step has more than one micro-batch


@dataclass(frozen=True)
class Workload:
    source: str  # where the sizes come from
    steps: int | None  # None: nothing is known of the data
    tokens: int | None  # of all steps
    largest: MicroBatchSize
    validation: MicroBatchSize | None  # the largest micro-batch of a validation
    validation_tokens: int  # of one validation
    epochs: float | None = None  # that the steps come to


def workload_of(cfg: Config, data: PreparedData) -> Workload:
    """Workload of the run that `cfg` asks for.

    `cfg` may differ from the config that the data was prepared for, in keys that ask for
    no other data: lengths and numbers of examples and steps.
    """
    order = data.order
    examples = examples_of_run(cfg.train, order.of_epoch)
    steps = -(-examples // cfg.train.examples_per_step)
    rows: list[list[ExampleSize]] = []
    several, tokens = False, 0
    known: dict[int, ExampleSize] = {}  # every epoch has the same examples
    sampled = min(steps, order.steps, SAMPLED_STEPS)
    for step in range(sampled):
        indices = order.indices_of_step(step)
        for index in indices:
            if index not in known:
                known[index] = size_of(order.encoded[index], cfg.model.max_seq_len)
        sizes = [known[index] for index in indices]
        tokens += sum(size.tokens for size in sizes)
        for share in shares_of([size.tokens for size in sizes], cfg.train.gpus):
            packed = packed_rows(cfg, [sizes[i] for i in share])
            several = several or len(packed) > 1
            rows += packed
    validating = [size_of(example, cfg.model.max_seq_len) for example in data.validation]
    return Workload(
        source="the data itself",
        steps=steps,
        tokens=tokens * steps // sampled,
        largest=largest_of(rows, several),
        validation=largest_of(packed_rows(cfg, validating), False) if validating else None,
        validation_tokens=sum(size.tokens for size in validating),
        epochs=examples / order.of_epoch,
    )


def size_of(example: EncodedExample, max_seq_len: int) -> ExampleSize:
    targets = example.targets[:max_seq_len]
    return ExampleSize(len(targets), max(1, int((targets != IGNORE_INDEX).sum())))


def packed_rows(cfg: Config, sizes: list[ExampleSize]) -> list[list[ExampleSize]]:
    rows = rows_for(cfg, [size.tokens for size in sizes])
    return [[sizes[i] for i in row] for row in rows]


def largest_of(rows: list[list[ExampleSize]], several: bool) -> MicroBatchSize:
    """The maximum of each size; they may come from different micro-batches."""
    return MicroBatchSize(
        tokens=max(sum(size.tokens for size in row) for row in rows),
        targets=max(sum(size.targets for size in row) for row in rows),
        longest=max(size.tokens for row in rows for size in row),
        several=several,
    )


def stated_workload(cfg: Config) -> Workload:
    """Workload without the data: full micro-batches, and the sizes that data_mix states."""
    train, mix = cfg.train, cfg.data_mix
    row = cfg.model.max_seq_len * int(train.micro_batch_size)
    largest = MicroBatchSize(row, row, cfg.model.max_seq_len)
    sources = list(mix.sources.values())
    if any(source.examples is None or source.tokens is None for source in sources):
        if train.max_steps is None:
            return Workload("full micro-batches", None, None, largest, largest, 0)
        tokens = train.max_steps * train.examples_per_step * cfg.model.max_seq_len
        source = "full examples up to train.max_steps"
        return Workload(source, train.max_steps, tokens, largest, largest, 0)
    sizes = [(source.weight, source.examples or 0, source.tokens or 0) for source in sources]
    validation_shares = [
        min(mix.validation_fraction, mix.validation_max / max(1, n)) for _, n, _ in sizes
    ]
    parts = list(zip(sizes, validation_shares, strict=True))
    of_epoch = round(sum(weight * count * (1 - share) for (weight, count, _), share in parts))
    epoch_tokens = sum(weight * tokens * (1 - share) for (weight, _, tokens), share in parts)
    examples = max(1, examples_of_run(train, of_epoch))
    epochs = examples / max(1, of_epoch)
    return Workload(
        source="sizes that data_mix states",
        steps=-(-examples // train.examples_per_step),
        tokens=round(epoch_tokens * epochs),
        largest=largest,
        validation=largest,
        validation_tokens=round(sum(tokens * share for (_, _, tokens), share in parts)),
        epochs=epochs,
    )
