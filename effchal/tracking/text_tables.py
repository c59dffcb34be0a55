"""Small tables of text: aligned for a terminal, or as Markdown. The first row is the head."""

import re
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]
NUMBERS = re.compile(r"(< )?[-+]?[\d.,/]+")  # one, a bound, or several counts


def as_text(rows: Rows) -> str:
    """Columns under each other; a column of numbers is right-aligned."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [is_numeric(column[1:]) for column in columns]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_markdown(rows: Rows) -> str:
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    marks = ["--:" if is_numeric(column[1:]) else "---" for column in zip(*rows, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *body))


def is_numeric(cells: Sequence[str]) -> bool:
    """Whether all cells that are not empty hold numbers alone."""
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(map(NUMBERS.fullmatch, filled))
