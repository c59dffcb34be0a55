"""Figures of reports, in one style. The one home of matplotlib, which takes a second to import."""

import logging
from pathlib import Path
from typing import Any, Literal

Share = Literal["row", "col"] | bool

WIDTH_IN = 8
FONT_PT = 13  # still legible at half the width
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")


def panels(count: int, height: float, ratios: list[int] | None = None) -> tuple[Any, Any]:
    """A figure of `height` inches with panels below each other, and their axes."""
    figure, axes = grid(count, 1, height, ratios)
    return figure, axes[:, 0]


def grid(
    rows: int,
    columns: int,
    height: float,
    ratios: list[int] | None = None,
    share_x: Share = False,
    share_y: Share = False,
) -> tuple[Any, Any]:
    """A figure of `height` inches, and the (rows, columns) axes of its panels."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its fonts
    figure = Figure(figsize=(WIDTH_IN, height))
    axes = figure.subplots(
        rows, columns, squeeze=False, height_ratios=ratios, sharex=share_x, sharey=share_y
    )
    for axis in axes.flat:
        axis.tick_params(labelsize=FONT_PT - 1)
    return figure, axes


def describe(axis: Any, title: str = "", x: str = "", y: str = "") -> None:
    """Title and names of the axes, where they are given."""
    if title:
        axis.set_title(title, fontsize=FONT_PT, loc="left")
    if x:
        axis.set_xlabel(x, fontsize=FONT_PT)
    if y:
        axis.set_ylabel(y, fontsize=FONT_PT)


def draw_interval(axis: Any, row: float, at: tuple[float, ...], colour: str) -> None:
    """A point with its interval. `at` is (mean, low, high)."""
    mean, low, high = at
    axis.plot([low, high], [row, row], color=colour, linewidth=2)
    axis.plot(mean, row, "o", color=colour)


def save_figure(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
