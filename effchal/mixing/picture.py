"""mix.png: what mix.json says, as a picture."""

import logging
from pathlib import Path
from typing import Any

from effchal.runs import read_record
from effchal.tracking.figures import COLOURS, describe, panels, save_figure

log = logging.getLogger(__name__)


def draw(folder: Path) -> None:
    """Draw mix.png beside mix.json. No failure stops a run."""
    try:
        _draw(read_record(folder / "mix.json"), folder / "mix.png")
    except ImportError:
        log.info("no mix.png: matplotlib is not installed")
    except Exception as error:  # the picture may fail; the data is the same
        log.warning("no mix.png: %s", error)


def _draw(mix: dict[str, Any], path: Path) -> None:
    sources, epoch = mix["sources"], mix["epoch"]
    count = len(sources)
    figure, axes = panels(3, 5.5 + 0.8 * count, [count + 1, count + 1, 6])
    names = [source["source"] for source in sources]
    for axis, whole, part, title in (
        (axes[0], "rows", "kept", "rows: read (grey), kept (blue)"),
        (axes[1], "tokens", "target_tokens", "tokens of training: all (grey), learned (blue)"),
    ):
        wholes, parts = ([source[key] for source in sources] for key in (whole, part))
        axis.barh(names, wholes, color="lightgrey")
        axis.barh(names, parts, 0.5, color=COLOURS[0])
        axis.invert_yaxis()
        describe(axis, title, x=f"{whole}, {sum(wholes):,} in all")
    tops = [most for most, _ in epoch["lengths"]]
    axes[2].bar(tops, [number for _, number in epoch["lengths"]], -tops[0], align="edge")
    examples = sum(number for _, number in epoch["lengths"])
    describe(axes[2], f"one epoch, n = {examples:,}", "length [tokens]", "examples")
    save_figure(figure, path)
