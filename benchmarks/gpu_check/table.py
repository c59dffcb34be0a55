"""The tables at the end of a check."""

from collections.abc import Sequence

from gpu_check.session import Session
from gpu_check.targets import Target

TRAINING = {
    "system": "system",
    "base": "base",
    "keep": "checkpointing",
    "dropout": "dropout",
    "segments": "examples",
    "new_lengths": "new lengths",
    "kernels": "own kernels",
    "tokens_per_s": "tokens/s",
    "share_of_product_rate": "of product rate",
    "allocated_gib": "GiB",
    "reserved_gib": "reserved",
}
DECODING = {
    "system": "system",
    "base": "base",
    "how": "decoding",
    "rows": "rows",
    "even": "even",
    "tokens": "prompt",
    "with_graphs": "graphs",
    "step_ms": "ms a step",
    "tokens_per_s": "tokens/s",
    "share_of_bandwidth": "of bandwidth",
    "waits": "waits",
    "graphs": "recorded",
    "recording_ms": "recording, ms",
    "allocated_gib": "GiB",
}
ATTENTION = {
    "call": "call",
    "dtype": "dtype",
    "cudnn": "cuDNN",
    "kernels": "kernels",
    "new_length_ms": "new length, ms",
    "same_length_ms": "same length, ms",
}
KERNELS = {
    "kernel": "kernel",
    "compiled": "compiled",
    "off": "off",
    "ms": "ms",
    "uncompiled_ms": "uncompiled, ms",
    "ok": "holds",
}
COLUMNS = {"kernels": KERNELS, "attention": ATTENTION, "training": TRAINING, "decoding": DECODING}
LARGEST = 8  # kernels of a profile
PROOFS = ("kernels", "gradients", "dropout", "answers", "resume")


def report(session: Session, targets: list[Target], missing: list[str], seconds: float) -> str:
    """All of a check as Markdown. missing: proofs that did not run."""
    (about,) = session.of("machine")[:1] or [{}]
    lines = [f"# {about.get('card', 'unknown card')}", ""]
    lines += [f"- {key}: {value}" for key, value in about.items() if key not in ("section", "card")]
    if session.tiny:
        lines += ["- toy sizes: only the proofs mean something"]
    lines += ["", "## Proofs", "", *proofs(session, missing)]
    for section, columns in COLUMNS.items():
        lines += ["", f"## {section.capitalize()}", "", *rows_of(session.of(section), columns)]
    for line in session.of("waits"):
        lines += ["", f"Waits of the host, {line['base']}, {line['what']}: {shown(line['waits'])}."]
    for line in session.of("serving"):
        told = ", ".join(f"{k} {v}" for k, v in line.items() if k != "section")
        lines += ["", f"Scheduler: {told}."]
    judged = [[each.what, each.wanted, each.found, each.verdict] for each in targets]
    lines += ["", "## Targets", "", *grid(judged, ["what", "wanted", "found", ""])]
    lines += ["", "## Profiles", *profiles(session), "", f"{seconds:.0f} seconds in all."]
    return "\n".join(lines) + "\n"


def profiles(session: Session) -> list[str]:
    """The largest kernels of each profile."""
    lines = []
    for profile in session.of("profile"):
        busy, wall = shown(profile["kernels_ms"]), shown(profile["wall_ms"])
        head = f"{profile['what']}, {profile['base']}: {profile['launches']} launches"
        lines += ["", f"### {head}, {busy} of {wall} ms", ""]
        rows = [[shown(ms), str(count), name] for ms, count, name in profile["largest"][:LARGEST]]
        lines += grid(rows, ["ms", "launches", "kernel"])
    return lines


def proofs(session: Session, missing: list[str]) -> list[str]:
    rows = []
    for name in PROOFS:
        lines = session.of(name)
        good = sum(line.get("ok") is True for line in lines)
        verdict = "did not run" if name in missing else f"{good} of {len(lines)} hold"
        rows.append([name, verdict])
    lines = grid(rows, ["proof", "outcome"])
    for line in failed(session):
        told = ", ".join(f"{k} {v}" for k, v in line.items() if k not in ("section", "ok"))
        lines += ["", f"FAILED {line['section']}: {told}"]
    return lines


def failed(session: Session) -> list[dict]:
    """Proofs that do not hold or did not run, and measurements of effchal that an error ended.

    A lack of memory is a finding, and a peer's error is no fault of ours.
    """
    proofs = [
        line
        for name in PROOFS
        for line in session.of(name)
        if line.get("ok") is False or "error" in line or "skipped" in line
    ]
    measured = [
        line
        for line in session.results
        if line.get("system") == "effchal" and line.get("error") not in (None, "out of memory")
    ]
    return proofs + measured


def rows_of(lines: Sequence[dict], columns: dict[str, str]) -> list[str]:
    cells = []
    for line in lines:
        row = [shown(line.get(key)) for key in columns]
        trouble = line.get("error") or line.get("skipped")
        if trouble:
            row[-1] = str(trouble)[:120]
        cells.append(row)
    return grid(cells, list(columns.values())) if cells else ["not measured"]


def shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
        case list():
            return ", ".join(map(str, value)) or "-"
    return str(value)


def grid(rows: list[list[str]], header: list[str]) -> list[str]:
    """A Markdown table whose columns also line up as text."""
    whole = [header, *rows]
    widths = [max(len(str(row[i])) for row in whole) for i in range(len(header))]
    text = [
        "| " + " | ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in whole
    ]
    return [text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]]
