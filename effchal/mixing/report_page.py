"""mix.md: the report of a data mix as tables. Its head is what `effchal data` prints."""

import html
from collections.abc import Iterable, Sequence

from effchal.mixing.report import MixReport, SourceReport

UNKNOWN = "not measured"
COUNTS = ("source", "rows", "left out by where", "dropped", "kept", "validation", "several turns")
SHARES = ("source", "weight", "tokens", "learned", "declared", "share by examples", "by tokens")


def page(report: MixReport) -> str:
    """The whole page. Everything above its first heading of the second level is the summary."""
    origins = ("source", "format", "path", "revision", "license", "origin", "homepage", "sha256")
    rows = [[str(getattr(source, name) or "") for name in origins] for source in report.sources]
    parts = [summary(report), "## Sources", table(origins, rows), "## Left out"]
    parts += left_out(report.sources) or ["No rule dropped a row."]
    longest = max(count for _, count in report.epoch.lengths)
    lengths = [
        (f"{most:,}", f"{count:,}", "#" * round(40 * count / longest))
        for most, count in report.epoch.lengths
    ]
    parts += ["## Lengths", table(("tokens up to", "examples of an epoch", ""), lengths)]
    templates = [(name, repr(text)) for name, text in report.prompt.items()]
    parts += ["## Prompt template", table(("part", "text"), templates)]
    return "\n\n".join(parts) + "\n"


def summary(report: MixReport) -> str:
    epoch = report.epoch
    lines = [
        f"An epoch has {epoch.examples:,} examples and {epoch.tokens:,} tokens, "
        f"{epoch.target_tokens:,} of them learned.",
        f"Half of its examples have at most {epoch.median_tokens:,.0f} tokens, "
        f"the longest has {epoch.longest_tokens:,}.",
        f"Planned: {report.steps:,} steps, which are {report.epochs:.3g} epochs.",
        "Rows are not packed (train.packing=false)."
        if epoch.filled is None
        else f"Packed rows of {epoch.row_tokens:,} tokens are {percent(epoch.filled)} full, "
        f"measured over {epoch.filled_steps:,} steps.",
        "",
        *(f"- {name}: {count:,}" for name, count in report.totals.items()),
        f"- tokenizer: {report.tokenizer}; seed: {report.seed}",
        f"- sha256: {report.sha256}",
    ]
    tables = [table(COUNTS, counts(report.sources)), table(SHARES, shares(report.sources))]
    return "\n\n".join(["# Data mix", *tables, "\n".join(lines)])


def counts(sources: Sequence[SourceReport]) -> list[list[str]]:
    """What became of the rows, by source and in all."""
    rows = [
        [s.rows, s.filtered, s.dropped_count, s.examples, s.validation, s.multi_turn]
        for s in sources
    ]
    if len(rows) > 1:
        rows.append([total(column) for column in zip(*rows, strict=True)])
    names = [*(each.source for each in sources), "all"]
    return [[name, *map(number, row)] for name, row in zip(names, rows, strict=False)]


def shares(sources: Sequence[SourceReport]) -> list[list[str]]:
    return [
        [each.source, f"{each.weight:g}", number(each.tokens), number(each.target_tokens)]
        + [percent(share) for share in (each.declared_share, each.share_rows, each.share_tokens)]
        for each in sources
    ]


def left_out(sources: Iterable[SourceReport]) -> list[str]:
    """A table of examples for each rule of each source."""
    parts = []
    for source in sources:
        for rule, dropped in source.dropped.items():
            parts.append(f"### {source.source}: {rule}, {dropped.count:,}")
            rows = [(each.id, each.text, each.detail) for each in dropped.examples]
            parts.append(table(("example", "text", "why"), rows))
    return parts


def total(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value or 0 for value in known)


def number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that reads as Markdown and as plain text, numbers to the right."""
    cells = [[html.escape(cell, quote=False).replace("|", "\\|") for cell in row] for row in rows]
    columns = list(zip(head, *cells, strict=True))
    lines = []
    for column in columns:
        width = max(3, *map(len, column))
        right = all(cell[:1].isdigit() or cell == UNKNOWN for cell in column[1:])
        rule = "-" * (width - 1) + ":" if right else "-" * width
        lines.append([cell.rjust(width) if right else cell.ljust(width) for cell in column])
        lines[-1].insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*lines, strict=True))
