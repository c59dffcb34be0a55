"""What a run has to compute: steps, tokens, and the largest micro-batch it meets."""

from collections.abc import Callable
from dataclasses import dataclass

from effchal.config import Config, DataSourceConfig
from effchal.mixing.packing import IGNORE_INDEX, EncodedExample, TrainingOrder, first_fit
from effchal.planning.memory import Load

LOOKED_AT = 5000  # steps of a longer run, whose tokens are then scaled
Size = tuple[int, int]  # tokens and target tokens of an example


@dataclass(frozen=True)
class Workload:
    source: str  # where the sizes come from
    steps: int | None  # None: nothing is known of the data
    tokens: int | None  # of all steps
    largest: Load
    validation: Load | None  # the largest micro-batch of a validation
    validation_tokens: int  # of one validation


SizesOfStep = Callable[[int], list[Size]]


@dataclass
class KnownData:
    """Sizes of all examples, so that a change of the config can be followed without reading the data again."""

    order: TrainingOrder
    validation: list[EncodedExample]

    def workload(self, cfg: Config) -> Workload:
        """Of the run that `cfg` asks for, which differs from the order's own config in what needs no other data."""
        per_epoch = self.order.examples // self.order.epochs
        examples = per_epoch * cfg.train.epochs
        steps = -(-examples // cfg.train.examples_per_step)
        steps = min(steps, cfg.train.max_steps or steps)
        rows: list[list[Size]] = []
        several, tokens = False, 0
        known: dict[int, Size] = {}  # by identity: every epoch comes back to the same examples
        looked_at = min(steps, self.order.steps, LOOKED_AT)
        for step in range(looked_at):
            examples_here = self.order.examples_of_step(step)
            for example in examples_here:
                if id(example) not in known:
                    known[id(example)] = size_of(example, cfg.model.max_seq_len)
            sizes = [known[id(example)] for example in examples_here]
            packed = packed_rows(cfg, sizes)
            tokens += sum(size for size, _ in sizes)
            several = several or len(packed) > 1
            rows += packed
        tokens = tokens * steps // looked_at
        validation_sizes = [size_of(example, cfg.model.max_seq_len) for example in self.validation]
        validation = (
            largest_of(packed_rows(cfg, validation_sizes), False) if validation_sizes else None
        )
        return Workload(
            *("the data itself", steps, tokens, largest_of(rows, several), validation),
            validation_tokens=sum(size for size, _ in validation_sizes),
        )


def size_of(example: EncodedExample, max_seq_len: int) -> Size:
    targets = example.targets[:max_seq_len]
    return len(targets), max(1, sum(target != IGNORE_INDEX for target in targets))


def packed_rows(cfg: Config, sizes: list[Size]) -> list[list[Size]]:
    train = cfg.train
    rows = first_fit(
        [tokens for tokens, _ in sizes],
        cfg.model.max_seq_len,
        train.micro_batch_size,
        train.packing,
    )
    return [[sizes[i] for i in row] for row in rows]


def largest_of(rows: list[list[Size]], several: bool) -> Load:
    """The most of each, though they may come from different rows."""
    return Load(
        tokens=max(sum(tokens for tokens, _ in row) for row in rows),
        targets=max(sum(targets for _, targets in row) for row in rows),
        longest=max(tokens for row in rows for tokens, _ in row),
        several=several,
    )


def stated_workload(cfg: Config) -> Workload:
    """Where the data is not at hand: full micro-batches, and the sizes that data_mix states of its sources."""
    train, mix = cfg.train, cfg.data_mix
    row = cfg.model.max_seq_len * train.micro_batch_size
    largest = Load(row, row, cfg.model.max_seq_len)
    sources = list(mix.sources.values())
    if any(source.examples is None or source.tokens is None for source in sources):
        if train.max_steps is None:
            return Workload("full micro-batches", None, None, largest, largest, 0)
        tokens = train.max_steps * train.examples_per_step * cfg.model.max_seq_len
        return Workload(
            "full examples up to train.max_steps", train.max_steps, tokens, largest, largest, 0
        )
    learnt = 1 - mix.validation_fraction
    examples, tokens = (
        sum(source.weight * part(source) for source in sources) for part in (_examples, _tokens)
    )
    steps = -(-round(examples * learnt) * train.epochs // train.examples_per_step)
    share = min(1.0, train.max_steps / steps) if train.max_steps else 1.0
    validation_tokens = sum(_tokens(source) for source in sources) * mix.validation_fraction
    return Workload(
        "sizes that data_mix states",
        *(
            max(1, round(steps * share)),
            round(tokens * learnt * train.epochs * share),
            largest,
            largest,
        ),
        validation_tokens=round(validation_tokens),
    )


def _examples(source: DataSourceConfig) -> float:
    return source.examples or 0


def _tokens(source: DataSourceConfig) -> float:
    return source.tokens or 0
