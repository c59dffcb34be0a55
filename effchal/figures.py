"""Figures of reports, in one style. The one home of matplotlib, which takes a second to import."""

import logging
from pathlib import Path
from typing import Any


def panels(count: int, height: float, ratios: list[int] | None = None) -> tuple[Any, Any]:
    """A figure of `height` inches with panels below each other, and their axes."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its fonts
    figure = Figure(figsize=(8, height))
    return figure, figure.subplots(count, 1, squeeze=False, height_ratios=ratios)[:, 0]


def save_figure(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
