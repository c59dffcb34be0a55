"""The report as files: the page, CSV, JSON, PNG."""

import csv
import json
import textwrap
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.tracking.figures import FONT_PT, describe, panels, save_figure

MOST_RUNS = 12  # of one picture: those with the lowest validation loss
MOST_LINES = 40
MOST_PANELS = 12
TITLE_LETTERS = 60  # of a line of a title


def check_writable(path: Path | None) -> None:
    """Raises ConfigError unless a file can be written there."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        reason = "is a folder" if path.is_dir() else f"lies in no folder: {path.parent} is missing"
        raise ConfigError(f"{path} {reason}; give a file")


def write_files(
    page: str,
    data: dict[str, Any],
    output: Path,
    table: Path | None,
    everything: Path | None,
    pictures: Path | None,
) -> list[Path]:
    """Write the page, and as CSV, JSON and a folder of PNG what has a path; all files written.

    Raises:
        OSError: it has the file's name.
    """
    output.write_text(page, encoding="utf-8")
    written = [output]
    for path, into in ((table, write_csv), (everything, write_json)):
        if path is not None:
            into(data, path)
            written.append(path)
    return written + (write_pngs(data, pictures) if pictures is not None else [])


def write_csv(data: dict[str, Any], path: Path) -> None:
    """The table of runs, all columns. An empty field was not measured."""
    columns = data["columns"]
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow([head(column) for column in columns])
        for row in data["rows"]:
            writer.writerow([row.get(column["field"]) for column in columns])


def head(column: dict[str, Any]) -> str:
    return f"{column['title']} ({column['unit']})" if column["unit"] else column["title"]


def write_json(data: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8", "replace")


def write_pngs(data: dict[str, Any], folder: Path) -> list[Path]:
    """loss.png, cost.png and a picture for each entry of evaluations, where there is such data."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "loss.png", folder / "cost.png"]
    written = [
        path
        for path, draw in zip(written, (draw_loss, draw_costs), strict=True)
        if draw(data, path)
    ]
    for number, entry in enumerate(data["entries"]):
        path = folder / f"decodings_{number}.png"
        written += [path] if draw_decodings(data, entry, path) else []
    return written


def draw_loss(data: dict[str, Any], path: Path) -> bool:
    """Training and validation loss against steps."""
    trained = [row for row in data["rows"] if row["kind"] == "train"]
    trained.sort(key=lambda row: row.get("loss_after") or float("inf"))
    names = [row["run"] for row in trained[:MOST_RUNS]]
    curves = [curve for curve in data["curves"] if curve["run"] in names]
    if not curves:
        return False
    figure, axes = panels(1, 4.5 + 0.25 * len(names))
    axis = axes[0]
    for curve in curves:
        colour = f"C{names.index(curve['run']) % 10}"
        if curve["kind"] == "training":
            axis.plot(curve["step"], curve["loss"], ":", color=colour, linewidth=1)
        else:
            axis.plot(curve["step"], curve["loss"], "o-", color=colour, label=plain(curve["run"]))
    describe(axis, "Validation (points) and training (dotted)", "steps", "loss, nats per token")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}
        axis.legend(fontsize=FONT_PT - 2, **place)
    save_figure(figure, path)
    return True


def draw_costs(data: dict[str, Any], path: Path) -> bool:
    """Each measure against hours; runs on the Pareto front are diamonds with their names."""
    points = [point for point in data["costs"] if point["cost"] == "hours"]
    measures = list(dict.fromkeys(point["measure"] for point in points))[:MOST_PANELS]
    if not measures:
        return False
    figure, axes = panels(len(measures), 3.2 * len(measures))
    for axis, measure in zip(axes, measures, strict=True):
        for point in (each for each in points if each["measure"] == measure):
            on_front = point["front"] == "on the front"
            axis.plot(
                point["x"], point["y"], "D" if on_front else "o", color="C0" if on_front else "C7"
            )
            if on_front:
                at = (point["x"], point["y"])
                offset = {"xytext": (6, 5), "textcoords": "offset points", "fontsize": FONT_PT - 2}
                axis.annotate(plain(point["run"]), at, **offset)
        unit = "nats per token" if measure.startswith("validation loss") else "score"
        title = textwrap.fill(plain(measure), TITLE_LETTERS)
        describe(axis, title, "hours, wall clock (diamonds: Pareto front)", unit)
        axis.margins(0.15)
        axis.grid(alpha=0.3)
    save_figure(figure, path)
    return True


def draw_decodings(data: dict[str, Any], entry: str, path: Path) -> bool:
    """The main score of every decoding with its interval."""
    found = [each for each in data["scores"] if each["entry"] == entry and each["main"]]
    found = [each for each in found if not each["again"]][:MOST_LINES]
    if not found:
        return False
    figure, axes = panels(1, 1.6 + 0.5 * len(found))
    axis = axes[0]
    for row, score in enumerate(found):
        mark = "s" if score["control"] else "o"
        colour = "C7" if score["control"] else "C0"
        if None not in (score.get("low"), score.get("high")):
            axis.plot([score["low"], score["high"]], [row, row], color=colour)
        axis.plot(score["score"], row, mark, color=colour)
    lines = [plain(each["name"]).replace(" · ", "\n", 1) for each in found]
    axis.set_yticks(range(len(found)), lines, fontsize=FONT_PT - 2)
    axis.set_ylim(len(found) - 0.5, -0.5)
    title = f"{plain(data['entries'][entry])} (squares: controls)"
    describe(axis, title, f"{found[0]['metric']}, mean with interval")
    axis.grid(alpha=0.3, axis="x")
    save_figure(figure, path)
    return True


def plain(text: str) -> str:
    """A name that matplotlib does not take for mathematics, nor for a hidden label."""
    return text.replace("$", r"\$").lstrip("_") or "?"
