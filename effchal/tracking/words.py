"""Amounts, durations and times as a person reads them."""

import math
import time
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def clock_time(seconds_from_now: float) -> str:
    """When that is: 14:32, or Tue 14:32 where it is another day."""
    now = time.time()
    then, today = time.localtime(now + seconds_from_now), time.localtime(now)
    same_day = (then.tm_year, then.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same_day else "%a %H:%M", then)


def amount(done: float, total: float | None, unit: str) -> str:
    """How much of how much: `3,072 of 12,000 rows`. Bytes (unit B) are told in MB."""
    if unit == "B":
        parts, unit = [f"{each / 1e6:.1f}" for each in (done, total) if each is not None], "MB"
    else:
        parts = [f"{each:,.0f}" for each in (done, total) if each is not None]
    return f"{' of '.join(parts)} {unit}".rstrip()


def rate(per_s: float, unit: str) -> str:
    if unit == "B":
        return f"{per_s / 1e6:.1f} MB/s"
    return f"{per_s:,.0f} {unit}/s" if per_s >= 10 else f"{per_s:.2g} {unit}/s"


def per_second(tokens_per_s: float) -> str:
    if tokens_per_s >= 1000:
        return f"{tokens_per_s / 1000:.1f}k"
    return f"{tokens_per_s:.0f}"


def sparkline(values: Sequence[float]) -> str:
    """One block for each value, from the lowest to the highest; a blank for one that is none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)

    def block(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return BLOCKS[round((value - low) / span * (len(BLOCKS) - 1)) if span else 3]

    return "".join(map(block, values))


def one_line(text: str, length: int) -> str:
    """A text without line ends, cut to so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
