"""Hours of a run: from earlier runs of its kind on this machine, else from public GPU figures."""

import statistics
from dataclasses import dataclass

from effchal.config import Config
from effchal.planning.flops import Cost
from effchal.planning.history import Record
from effchal.planning.workload import Workload

# Dense bfloat16 matrix products with float32 sums, TFLOP/s, from the makers' data sheets.
TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 6000 Ada": 364.0,
    "RTX 4090": 165.2,
    "A6000": 154.8,
    "A10G": 70.0,
    "A10": 125.0,
    "L4": 121.0,
    "RTX 3090": 71.0,
}
# Share of these that LoRA training reaches. The lowest: a small model with NF4 weights; the
# highest: a large one in bfloat16.
SHARE_LOW, SHARE_USUAL, SHARE_HIGH = 0.10, 0.30, 0.55
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


def public_hours(cfg: Config, workload: Workload, gpu: str, cost: Cost) -> Hours | None:
    """Hours by the card's data sheet; None for a card that is not in the table."""
    rate = next((rate for name, rate in TFLOPS.items() if name.lower() in gpu.lower()), None)
    if rate is None:
        return None

    def timing(share: float, start_s: float) -> Timing:
        flops = share * rate * 1e12
        validation_s = workload.validation_tokens * cost.forward / flops
        return Timing(flops / cost.training, start_s, validation_s, SAVE_S)

    expected = timing(SHARE_USUAL, START_USUAL_S)
    fastest, slowest = timing(SHARE_HIGH, START_LOW_S), timing(SHARE_LOW, START_HIGH_S)
    shares = f"{SHARE_LOW:.0%} to {SHARE_HIGH:.0%}"
    source = f"public figures of {gpu} ({rate:g} TFLOP/s, of which {shares} are used); not measured"
    return hours_of(cfg, workload, expected, fastest, slowest, source)
