"""Hours of a run: from earlier runs of its kind on this machine, else from a card's data sheet."""

import statistics
from dataclasses import dataclass

from effchal.config import Config
from effchal.config.choices import Dtype
from effchal.planning.cards import Card
from effchal.planning.flops import Cost
from effchal.planning.history import Record
from effchal.planning.workload import Workload


@dataclass(frozen=True)
class Reached:
    """What is reached of a data sheet's figures.

    Assumed, but for the slowest host: that of an H100's virtual machine, see experiments/gpu.
    """

    products: float  # share of the rate
    bandwidth: float  # share, in operations that are not products
    launch_s: float  # host's time to start an operation; the card computes meanwhile


FASTEST = Reached(products=0.90, bandwidth=0.92, launch_s=3e-6)
USUAL = Reached(products=0.65, bandwidth=0.80, launch_s=6e-6)
SLOWEST = Reached(products=0.35, bandwidth=0.50, launch_s=60e-6)
# Imports, and loading the weights.
START_LOW_S, START_USUAL_S, START_HIGH_S = 20.0, 90.0, 600.0
SAVE_S = 20.0  # checkpoint and bundle, where nothing was measured
LEAST_ERROR = 0.05  # of a measured speed, relative


@dataclass(frozen=True)
class Hours:
    expected: float
    low: float
    high: float
    fixed: float  # part of the expected hours that does not depend on the steps
    source: str


@dataclass(frozen=True)
class Timing:
    """What the hours of a run follow from."""

    tokens_per_s: float
    start_s: float  # from the start of the process to the first step
    validation_s: float  # one validation
    save_s: float  # one checkpoint and bundle

    @property
    def fixed_s(self) -> float:
        return self.start_s + 2 * self.validation_s + 2 * self.save_s

    def total_s(self, cfg: Config, workload: Workload) -> float:
        """Seconds from the start of the process to the bundle."""
        steps, train = workload.steps or 0, cfg.train
        steps_s = (workload.tokens or 0) / self.tokens_per_s
        periodic_s = max(0, (steps - 1) // train.validate_every) * self.validation_s
        periodic_s += max(0, (steps - 1) // train.checkpoint_every) * self.save_s
        share = cfg.budget.periodic_work_share
        if share < 1:
            periodic_s = min(periodic_s, share / (1 - share) * (self.start_s + steps_s))
        return steps_s + periodic_s + self.fixed_s


def hours_of(
    cfg: Config, workload: Workload, expected: Timing, fastest: Timing, slowest: Timing, source: str
) -> Hours:
    return Hours(
        expected=expected.total_s(cfg, workload) / 3600,
        low=fastest.total_s(cfg, workload) / 3600,
        high=slowest.total_s(cfg, workload) / 3600,
        fixed=expected.fixed_s / 3600,
        source=source,
    )


def measured_hours(cfg: Config, workload: Workload, records: list[Record]) -> Hours:
    """Hours by records of the same kind."""
    speeds = [record.tokens_per_s for record in records]
    speed, newest = statistics.median(speeds), records[0]
    between = (max(speeds) - min(speeds)) / 2 / speed
    error = max(LEAST_ERROR, between, 2 * statistics.median(record.spread for record in records))
    validating = [r.validation_tokens_per_s for r in records if r.validation_tokens_per_s]
    start_s = statistics.median(record.start_s for record in records)
    save_s = statistics.median(record.save_s for record in records)
    validation_s = workload.validation_tokens / statistics.median(validating) if validating else 0.0
    expected, fastest, slowest = (
        Timing(speed * factor, start_s, validation_s, save_s)
        for factor in (1.0, 1 + error, 1 - min(error, 0.9))
    )
    count = f"{len(records)} {newest.source}{'s' if len(records) > 1 else ''} of this kind"
    source = f"{count} on this machine, {speed:,.0f} tokens/s"
    return hours_of(cfg, workload, expected, fastest, slowest, source)


def public_hours(cfg: Config, workload: Workload, card: Card, cost: Cost) -> Hours:
    """Hours by a card's data sheet: products at its rate, all else at its bandwidth."""
    rate = card.tflops_float32 if cfg.model.dtype is Dtype.float32 else card.tflops

    def token_s(reached: Reached, flops: float, traffic: float, launches: float) -> float:
        products_s = flops / (reached.products * rate * 1e12)
        traffic_s = traffic / (reached.bandwidth * card.bandwidth * 1e9)
        return max(products_s + traffic_s, launches * reached.launch_s)

    def timing(reached: Reached, start_s: float) -> Timing:
        validation_s = token_s(reached, cost.forward, cost.forward_traffic, 0.0)
        training_s = token_s(reached, cost.training, cost.training_traffic, cost.launches)
        validation_s *= workload.validation_tokens / cfg.train.gpus
        return Timing(cfg.train.gpus / training_s, start_s, validation_s, SAVE_S)

    expected = timing(USUAL, START_USUAL_S)
    fastest, slowest = timing(FASTEST, START_LOW_S), timing(SLOWEST, START_HIGH_S)
    several = f"{cfg.train.gpus} times " if cfg.train.gpus > 1 else ""
    source = (
        f"{several}the data sheet of {card.name} ({rate:g} TFLOP/s, {card.bandwidth:,.0f} GB/s), "
        f"{expected.tokens_per_s:,.0f} tokens/s; estimated, not measured on this card"
    )
    source += "; without what the GPUs tell each other" if cfg.train.gpus > 1 else ""
    return hours_of(cfg, workload, expected, fastest, slowest, source)
