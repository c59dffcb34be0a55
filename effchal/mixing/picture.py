"""mix.png: what mix.json says, as a picture."""

import logging
from pathlib import Path
from typing import Any

from effchal.figures import panels, save_figure
from effchal.runs import read_record

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
    figure, axes = panels(3, 4 + 0.7 * count, [count + 1, count + 1, 6])
    names = [source["source"] for source in sources]
    for axis, whole, part, title in (
        (axes[0], "rows", "kept", "rows: read (grey), kept"),
        (axes[1], "tokens", "target_tokens", "tokens of the training examples (grey), learned"),
    ):
        axis.barh(names, [source[whole] for source in sources], color="lightgrey")
        axis.barh(names, [source[part] for source in sources], 0.5, color="tab:blue")
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
    tops = [most for most, _ in epoch["lengths"]]
    axes[2].bar(tops, [number for _, number in epoch["lengths"]], -tops[0], align="edge")
    axes[2].set_title("examples of an epoch by length in tokens", fontsize=9)
    save_figure(figure, path)
