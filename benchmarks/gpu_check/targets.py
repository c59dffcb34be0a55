"""What the figures should be. A target is met, not met, or not measured."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpu_check.session import Session

LIGER, UNSLOTH = "transformers + peft + Liger", "unsloth"
OVER_LIGER = 1.3  # tokens/s
OF_BANDWIDTH, DOLA_OVER_GREEDY = 0.60, 1.08  # of one row
PLANNED_OFF, WAITS = 0.05, 1
NEW_LENGTH_MS = 5.0  # more than a length that was seen


@dataclass(frozen=True)
class Target:
    what: str
    wanted: str
    found: str
    met: bool | None  # None: not measured

    @property
    def verdict(self) -> str:
        return {True: "met", False: "not met", None: "not measured"}[self.met]


def targets(session: Session) -> list[Target]:
    return [*training(session), *decoding(session), *attention(session), *plans(session)]


def judged(
    what: str, wanted: str, values: list[float], good: Callable[[float], bool], form: str = "{:.2f}"
) -> Target:
    """Of several values each must be good."""
    if not values:
        return Target(what, wanted, "-", None)
    found = ", ".join(form.format(each) for each in values)
    return Target(what, wanted, found, all(map(good, values)))


def best(session: Session, system: str, base: str, field: str, least: bool = False) -> list[float]:
    """The best of a system's runs of one long example without dropout; empty: none."""
    about = {"system": system, "base": base, "segments": 1, "dropout": 0.0, "kernels": None}
    runs = session.of("training", **about)
    values = [run[field] for run in runs if field in run]
    return [min(values) if least else max(values)] if values else []


def training(session: Session) -> Iterator[Target]:
    for base in ("bf16", "nf4"):
        for peer, least in ((LIGER, OVER_LIGER), (UNSLOTH, 1.0)):
            ours, theirs = (best(session, s, base, "tokens_per_s") for s in ("effchal", peer))
            ratios = [a / b for a, b in zip(ours, theirs, strict=False)]
            name = f"training {base}: tokens/s over {peer}"
            yield judged(name, f">= {least:g}", ratios, lambda ratio, n=least: ratio >= n)
            memory = (
                best(session, s, base, "allocated_gib", least=True) for s in ("effchal", peer)
            )
            shares = [a / b for a, b in zip(*memory, strict=False)]
            yield judged(f"training {base}: memory over {peer}", "< 1", shares, lambda s: s < 1)


def decoding(session: Session) -> Iterator[Target]:
    for base in ("bf16", "bf16+adapter", "nf4+adapter"):
        greedy, dola = (one_row(session, base, how) for how in ("greedy", "dola"))
        if base == "bf16":
            shares = [run["share_of_bandwidth"] for run in greedy if known(run)]
            yield judged(
                "decoding bf16, 1 row: share of copy bandwidth",
                f">= {OF_BANDWIDTH:g}",
                shares,
                lambda share: share >= OF_BANDWIDTH,
            )
            yield from with_graphs(session, base)
        ratios = [
            d["step_ms"] / g["step_ms"] for d, g in zip(dola, greedy, strict=False) if known(d)
        ]
        yield judged(
            f"decoding {base}, 1 row: DoLa's step over greedy's",
            f"<= {DOLA_OVER_GREEDY:g}",
            ratios,
            lambda ratio: ratio <= DOLA_OVER_GREEDY,
        )
        runs = session.of("decoding", system="effchal", base=base)
        waits = [run["waits"] for run in runs if run.get("waits") is not None]
        worst = [float(max(waits))] if waits else []
        yield judged(
            f"decoding {base}: most waits of the host a step",
            f"<= {WAITS}",
            worst,
            lambda count: count <= WAITS,
            "{:.0f}",
        )


def one_row(session: Session, base: str, how: str, on: bool = True, nth: int = 0) -> list[dict]:
    """The run of one row with graphs or without, at the nth shortest prompt; empty: none."""
    about = {"base": base, "how": how, "rows": 1, "with_graphs": on}
    found = session.of("decoding", system="effchal", **about)
    runs = sorted((run for run in found if "step_ms" in run), key=lambda run: run["tokens"])
    return runs[nth : nth + 1]


def with_graphs(session: Session, base: str) -> Iterator[Target]:
    for nth, prompt in enumerate(("short", "long")):
        on, off = (one_row(session, base, "greedy", which, nth) for which in (True, False))
        ratios = [b["step_ms"] / a["step_ms"] for a, b in zip(on, off, strict=False) if known(a)]
        yield judged(
            f"decoding {base}, 1 row, {prompt} prompt: speed with CUDA graphs over without",
            ">= 1",
            ratios,
            lambda ratio: ratio >= 1,
        )


def known(run: dict) -> bool:
    """Whether it ran on a card: speed of toy sizes on a CPU is judged by nobody."""
    return run.get("waits") is not None


def attention(session: Session) -> Iterator[Target]:
    calls = session.of("attention", dtype="bfloat16", cudnn_as_is=True)
    as_is = [run for run in calls if run["cudnn"] is not None]
    math = [run["call"] for run in as_is if any("math" in name for name in run["kernels"])]
    found = ", ".join(math) or "none"
    yield Target("bf16 calls that take the math kernel", "none", found, not math if as_is else None)
    more = [
        run["new_length_ms"] - run["same_length_ms"] for run in as_is if "same_length_ms" in run
    ]
    worst = [max(more)] if more else []
    yield judged(
        "a new length costs [ms]", f"<= {NEW_LENGTH_MS:g}", worst, lambda ms: ms <= NEW_LENGTH_MS
    )


def plans(session: Session) -> Iterator[Target]:
    for plan in session.of("plan"):
        if "planned_gib" not in plan:
            continue
        base, keep = plan["base"], plan["keep"]
        wanted = {"system": "effchal", "base": base, "keep": keep, "segments": 1, "dropout": 0.0}
        runs = session.of("training", kernels=None, **wanted)
        off = [plan["planned_gib"] / r["allocated_gib"] - 1 for r in runs if "allocated_gib" in r]
        yield judged(
            f"planned over measured peak, {base}, {keep}",
            f"within {PLANNED_OFF:.0%}",
            off,
            lambda each: abs(each) <= PLANNED_OFF,
            "{:+.1%}",
        )
