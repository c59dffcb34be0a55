"""The figures of an evaluation."""

from pathlib import Path

from effchal.evaluation.results import EntrySummary
from effchal.figures import panels, save_figure


def plot(entries: dict[str, EntrySummary], run_dir: Path) -> None:
    """results.png: differences to the baseline; layers.png: how often DoLa chose which layer."""
    differing = {entry: each for entry, each in entries.items() if each.having("differences")}
    if differing:
        plot_differences(differing, run_dir / "results.png")
    chosen = {
        f"{entry}, {name}": layers
        for entry, result in entries.items()
        for name, layers in result.having("layers").items()
        if len(layers) > 1
    }
    if chosen:
        plot_layers(chosen, run_dir / "layers.png")


def plot_differences(entries: dict[str, EntrySummary], path: Path) -> None:
    """One panel for each entry: differences of the main metric to greedy, with intervals."""
    by_entry = {entry: result.having("differences") for entry, result in entries.items()}
    counts = [len(differences) for differences in by_entry.values()]
    figure, axes = panels(len(counts), 1 + 0.35 * sum(counts) + 0.9 * len(counts), counts)
    for axis, (entry, differences) in zip(axes, by_entry.items(), strict=True):
        metric = entries[entry].main_metric
        for row, by_metric in enumerate(differences.values()):
            difference = by_metric[metric]
            axis.plot([difference.low, difference.high], [row, row], color="tab:blue")
            axis.plot(difference.mean, row, "o", color="tab:blue")
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_yticks(range(len(differences)), list(differences))
        axis.set_ylim(len(differences) - 0.5, -0.5)
        axis.set_title(f"{entry}: {metric}, difference to greedy", fontsize=9)
    save_figure(figure, path)


def plot_layers(chosen: dict[str, dict[str, int]], path: Path) -> None:
    """One panel for each entry and decoding: positions by premature layer."""
    figure, axes = panels(len(chosen), 0.6 + 1.5 * len(chosen))
    for axis, (name, layers) in zip(axes, chosen.items(), strict=True):
        axis.bar([int(layer) for layer in layers], list(layers.values()))
        axis.set_xticks([int(layer) for layer in layers])
        axis.set_title(f"{name}: positions by premature layer", fontsize=9)
    save_figure(figure, path)
