"""Hours of a run: from what the same kind of run took on this machine, else from public figures of the card."""

import statistics
from dataclasses import dataclass

from effchal.config import Config
from effchal.planning.history import Record
from effchal.planning.memory import Cost
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
# The share of them that LoRA training reaches: from a small model with NF4 weights to a large one in bfloat16.
SHARE_LOW, SHARE_USUAL, SHARE_HIGH = 0.10, 0.30, 0.55
START_LOW_S, START_USUAL_S, START_HIGH_S = (
    20.0,
    90.0,
    600.0,
)  # imports and the weights' way to the card
SAVE_S = 20.0  # checkpoint and bundle, where nothing was measured
NEVER_SURE = 0.05  # the least that a measured speed is off


@dataclass(frozen=True)
class Hours:
    expected: float
    low: float
    high: float
    fixed: float  # of the expected ones, what no step takes
    source: str


def measured_hours(cfg: Config, workload: Workload, records: list[Record]) -> Hours:
    """From records of the same kind."""
    speeds = [record.tokens_per_s for record in records]
    speed, newest = statistics.median(speeds), records[0]
    between = (max(speeds) - min(speeds)) / 2 / speed
    off = max(NEVER_SURE, between, 2 * statistics.median(record.spread for record in records))
    validating = [r.validation_tokens_per_s for r in records if r.validation_tokens_per_s]
    start_s = statistics.median(record.start_s for record in records)
    save_s = statistics.median(record.save_s for record in records)
    validation_s = workload.validation_tokens / statistics.median(validating) if validating else 0.0
    at = [
        total_s(cfg, workload, speed * factor, start_s, validation_s, save_s) / 3600
        for factor in (1.0, 1 + off, 1 - min(off, 0.9))
    ]
    fixed = (start_s + 2 * validation_s + 2 * save_s) / 3600
    count = f"{len(records)} {newest.source}{'s' if len(records) > 1 else ''} of this kind"
    return Hours(*at, fixed, source=f"{count} on this machine, {speed:,.0f} tokens/s")


def public_hours(cfg: Config, workload: Workload, gpu: str, cost: Cost) -> Hours | None:
    """From the card's data sheet; None for a card that is not in the table."""
    rate = next((rate for name, rate in TFLOPS.items() if name.lower() in gpu.lower()), None)
    if rate is None:
        return None
    at = []
    for share, start_s in (
        (SHARE_USUAL, START_USUAL_S),
        (SHARE_HIGH, START_LOW_S),
        (SHARE_LOW, START_HIGH_S),
    ):
        speed = share * rate * 1e12 / cost.training
        validation_s = workload.validation_tokens * cost.forward / (share * rate * 1e12)
        at.append(total_s(cfg, workload, speed, start_s, validation_s, SAVE_S) / 3600)
    shares = f"{SHARE_LOW:.0%} to {SHARE_HIGH:.0%}"
    fixed = (START_USUAL_S + 2 * SAVE_S) / 3600
    return Hours(
        *at,
        fixed,
        source=f"public figures of {gpu} ({rate:g} TFLOP/s, of which {shares} are used); not measured",
    )


def total_s(
    cfg: Config,
    workload: Workload,
    tokens_per_s: float,
    start_s: float,
    validation_s: float,
    save_s: float,
) -> float:
    """Seconds from the start of the process to the bundle."""
    steps, train = workload.steps or 0, cfg.train
    steps_s = (workload.tokens or 0) / tokens_per_s
    side_s = max(0, (steps - 1) // train.validate_every) * validation_s
    side_s += max(0, (steps - 1) // train.checkpoint_every) * save_s
    share = cfg.budget.periodic_work_share
    most_s = share / (1 - share) * (start_s + steps_s) if share < 1 else side_s
    return start_s + steps_s + min(side_s, most_s) + 2 * validation_s + 2 * save_s
