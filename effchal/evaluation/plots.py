"""The figures of an evaluation and of a comparison."""

from dataclasses import astuple
from pathlib import Path

from effchal.evaluation.compare import Comparison
from effchal.evaluation.names import short_names
from effchal.evaluation.results import BASELINE, EntrySummary
from effchal.tracking.figures import (
    COLOURS,
    FONT_PT,
    describe,
    draw_interval,
    grid,
    panels,
    save_figure,
)

ROW_IN, TITLE_IN, FRAME_IN = 0.36, 0.75, 0.9


def plot(entries: dict[str, EntrySummary], run_dir: Path, confidence: float) -> None:
    """results.png: scores, and differences to greedy; layers.png: the layers that DoLa chose."""
    names = short_names(entries)
    compared = {names[entry]: each for entry, each in entries.items() if len(each.decodings) > 1}
    if compared:
        plot_decodings(compared, run_dir / "results.png", confidence)
    else:
        named = {names[entry]: each for entry, each in entries.items()}
        plot_scores(named, run_dir / "results.png", confidence)
    chosen = {
        f"{names[entry]}, {decoding}": layers
        for entry, result in entries.items()
        for decoding, layers in result.having("layers").items()
        if len(layers) > 1
    }
    if chosen:
        plot_layers(chosen, run_dir / "layers.png")


def plot_scores(entries: dict[str, EntrySummary], path: Path, confidence: float) -> None:
    """One line for each entry, where each has a single decoding."""
    figure, (axis,) = panels(1, FRAME_IN + ROW_IN * 1.4 * len(entries))
    labels = []
    for row, (name, result) in enumerate(entries.items()):
        (decoded,) = result.decodings.values()
        draw_interval(axis, row, astuple(decoded.metrics[result.main_metric]), COLOURS[0])
        labels.append(f"{name}\n{result.main_metric}, n = {result.instances}")
    label_rows(axis, labels)
    describe(axis, x=f"score ({level(confidence)})")
    save_figure(figure, path)


def plot_decodings(entries: dict[str, EntrySummary], path: Path, confidence: float) -> None:
    """A row of panels for each entry: scores by decoding, and their differences to greedy."""
    counts = [len(result.decodings) for result in entries.values()]
    height = FRAME_IN + ROW_IN * sum(counts) + TITLE_IN * len(counts)
    figure, axes = grid(len(counts), 2, height, counts, share_x="col", share_y="row")
    for (left, right), (name, result) in zip(axes, entries.items(), strict=True):
        metric = result.main_metric
        for row, decoded in enumerate(result.decodings.values()):
            draw_interval(left, row, astuple(decoded.metrics[metric]), COLOURS[0])
            if decoded.differences is not None:
                draw_interval(right, row, astuple(decoded.differences[metric]), COLOURS[1])
        right.axvline(0, color="grey", linewidth=1)
        label_rows(left, list(result.decodings))
        describe(left, f"{name}: {metric}, n = {result.instances}")
    describe(axes[-1, 0], x=f"score ({level(confidence)})")
    describe(axes[-1, 1], x=f"difference to {BASELINE}, paired")
    save_figure(figure, path)


def plot_layers(chosen: dict[str, dict[str, int]], path: Path) -> None:
    """One panel for each entry and decoding: how often each premature layer was chosen."""
    figure, axes = grid(len(chosen), 1, FRAME_IN + 1.7 * len(chosen), share_x=True, share_y=True)
    layers = sorted({int(layer) for counts in chosen.values() for layer in counts})
    for axis, (name, counts) in zip(axes[:, 0], chosen.items(), strict=True):
        total = sum(counts.values())
        shares = [100 * counts.get(str(layer), 0) / total for layer in layers]
        axis.bar(layers, shares, color=COLOURS[0])
        axis.set_xticks(layers)
        describe(axis, f"{name}, n = {total:,} positions")
    describe(axes[-1, 0], x="premature layer that was chosen")
    figure.supylabel("share of positions [%]", fontsize=FONT_PT)
    save_figure(figure, path)


def plot_comparison(result: Comparison, path: Path) -> None:
    """Differences of every model to the first one, an entry (and metric) a line."""
    names = short_names(each.entry for each in result.differences)
    letters = list(result.models)[1:]
    lines = list(dict.fromkeys((each.entry, each.found.metric) for each in result.differences))
    height = FRAME_IN + 0.3 * len(result.models) + ROW_IN * len(lines) * (1 + len(letters))
    figure, (axis,) = panels(1, height)
    labels, step = [""] * len(lines), 0.8 / len(letters)
    for each in result.differences:
        row, other = lines.index((each.entry, each.found.metric)), letters.index(each.other)
        at = row + step * (other - (len(letters) - 1) / 2)
        draw_interval(axis, at, astuple(each.found.difference), COLOURS[other % len(COLOURS)])
        found = each.found
        labels[row] = f"{names[each.entry]}\n{found.metric}, n = {found.instances}"
    axis.axvline(0, color="grey", linewidth=1, label=title(result, "A"))
    for other, letter in enumerate(letters):
        axis.plot([], [], "o-", color=COLOURS[other % len(COLOURS)], label=title(result, letter))
    label_rows(axis, labels)
    describe(axis, x=f"score minus that of A ({level(result.settings.confidence)})")
    axis.legend(fontsize=FONT_PT - 1, loc="lower center", bbox_to_anchor=(0.5, 1))
    save_figure(figure, path)


def title(result: Comparison, letter: str) -> str:
    model = result.models[letter]
    return f"{letter}: {model.model}, {model.decoding}"


def level(confidence: float) -> str:
    return f"{100 * confidence:g} % interval"


def label_rows(axis, labels: list[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
