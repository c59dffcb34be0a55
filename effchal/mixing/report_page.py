"""mix.md: the report of a data mix as tables. Its head is what `effchal data` prints."""

import html
import json
from collections.abc import Iterable, Iterator, Sequence

from effchal.mixing.dropped import Dropped
from effchal.mixing.report import MixReport, SourceReport
from effchal.runs import flat

COUNTS = ("source", "rows read", "filtered", "dropped", "kept", "validation", "several turns")
SHARES = ("source", "weight", "tokens", "learned", "declared", "rows of epoch", "tokens of epoch")
ORIGINS = ("source", "format", "path", "files", "revision", "license", "origin", "homepage")


def page(report: MixReport) -> str:
    """The whole page. What stands above its first heading of the second level is the summary."""
    origins = [[origin(source, name) for name in ORIGINS] for source in report.sources]
    parts = [summary(report), "## Sources", aligned_table(ORIGINS, origins)]
    parts += ["## Left out", *rules(report, "dropped")]
    parts += ["## Found and kept", *rules(report, "reported")]
    parts += ["## Evaluations that were looked for", evaluations(report)]
    parts += ["## Lengths", lengths(report)]
    settings = ((key, json.dumps(value)) for key, value in flat(report.settings).items())
    parts += ["## Settings", aligned_table(("key", "value"), settings)]
    return "\n\n".join(parts) + "\n"


def origin(source: SourceReport, name: str) -> str:
    value = getattr(source, name)
    return "" if value is None else f"{len(value):,}" if name == "files" else str(value)


def summary(report: MixReport) -> str:
    epoch, totals = report.epoch, report.totals
    packing = "Packing: off."
    if epoch.filled is not None:
        packing = (
            f"Packing: rows of {epoch.row_tokens:,} tokens, {percent(epoch.filled)} full "
            f"in the first {epoch.filled_steps:,} steps."
        )
    lines = [
        f"One epoch: {epoch.examples:,} examples, {epoch.tokens:,} tokens, "
        f"{epoch.target_tokens:,} of them learned.",
        f"Lengths: half of the examples have at most {epoch.median_tokens:,.0f} tokens, "
        f"the longest has {epoch.longest_tokens:,}; {totals['truncated']:,} are cut.",
        packing,
        f"Validation: {totals['validation_examples']:,} examples, "
        f"{totals['validation_tokens']:,} tokens.",
        f"Planned: {report.steps:,} steps, {report.epochs:.3g} epochs.",
        f"Digest: {report.sha256}",
    ]
    tables = [
        aligned_table(COUNTS, counts(report.sources)),
        aligned_table(SHARES, shares(report.sources)),
    ]
    return "\n\n".join(["# Data mix", *tables, "\n".join(lines)])


def counts(sources: Sequence[SourceReport]) -> list[list[str]]:
    """What became of the rows, by source and in all."""
    rows = [
        [s.rows, s.filtered, dropped_of(s.dropped), s.kept, s.validation, s.multi_turn]
        for s in sources
    ]
    names = [source.source for source in sources]
    if len(rows) > 1:
        rows.append([sum(column) for column in zip(*rows, strict=True)])
        names.append("all")
    return [[n, *(f"{v:,}" for v in row)] for n, row in zip(names, rows, strict=True)]


def dropped_of(dropped: dict[str, Dropped]) -> int:
    return sum(one.count for one in dropped.values())


def shares(sources: Sequence[SourceReport]) -> list[list[str]]:
    return [
        [
            s.source,
            f"{s.weight:g}",
            f"{s.tokens:,}",
            f"{s.target_tokens:,}",
            *map(percent, (s.declared_share, s.share_rows, s.share_tokens)),
        ]
        for s in sources
    ]


def rules(report: MixReport, kind: str) -> Iterator[str]:
    """Of each source and rule: how many rows, and the first of them."""
    found = False
    for source in report.sources:
        for rule, one in getattr(source, kind).items():
            found = True
            yield f"### {source.source}: {rule}, {one.count:,}"
            if one.examples:
                rows = [(each.id, each.text, each.detail) for each in one.examples]
                yield aligned_table(("row", "text", "why"), rows)
    if not found:
        yield "Nothing."


def evaluations(report: MixReport) -> str:
    rows = [(name, f"{count:,} questions") for name, count in report.checked.items()]
    rows += [(name, f"not checked: {why}") for name, why in report.not_checked.items()]
    return aligned_table(("evaluation", ""), rows) if rows else "None."


def lengths(report: MixReport) -> str:
    bars = report.epoch.lengths
    highest = max(count for _, count in bars)
    rows = [(f"{top:,}", f"{n:,}", "#" * round(40 * n / highest)) for top, n in bars]
    return aligned_table(("tokens up to", "examples of an epoch", ""), rows)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def aligned_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that reads as Markdown and as plain text, with numbers to the right."""
    lines = []
    for column in zip(head, *([cell(each) for each in row] for row in rows), strict=True):
        width = max(3, *map(len, column))
        right = all(each[:1].isdigit() for each in column[1:]) and bool(column[0])
        rule = "-" * (width - 1) + ":" if right else "-" * width
        aligned = [each.rjust(width) if right else each.ljust(width) for each in column]
        lines.append([aligned[0], rule, *aligned[1:]])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*lines, strict=True))


def cell(text: str) -> str:
    """Any text in one line of a table, and none of it markup."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
