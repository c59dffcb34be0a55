"""What `effchal compare` makes of folders: the comparison, and its picture."""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from effchal.config import ConfigError
from effchal.evaluation.compare import Comparison, Settings, compare
from effchal.evaluation.locate import evaluations, is_sweep, left_out
from effchal.evaluation.scored import read_scored
from effchal.evaluation.sides import ask_different_things, sides

PICTURES = (".png", ".svg", ".pdf")


def compare_folders(
    given: Sequence[str], decoding: str | None, decodings: Sequence[str], settings: Settings
) -> Comparison:
    """The first folder beside each other one, or the first decoding of one beside the others.

    Args:
        given: folders of evaluations, HELM runs, sweeps, training runs or bundles.
        decoding: of all folders; None: greedy, or the only one there is.
        decodings: of the one folder; none where folders are compared.

    Raises:
        ConfigError: a value out of range, or a folder that cannot be compared.
    """
    if not 0 < settings.confidence < 1:
        raise ConfigError(f"--confidence {settings.confidence:g}: must be in (0, 1)")
    if not 100 <= settings.resamples <= 1_000_000:
        raise ConfigError(f"--resamples {settings.resamples}: must be in 100..1000000")
    if decodings and decoding:
        raise ConfigError("--decoding and --decodings do not go together")
    folders = evaluations(given)
    if decodings and len(folders) > 1:
        raise ConfigError(f"--decodings compares within one evaluation, got {len(folders)} folders")
    unfinished = left_out(given)
    refuse_twice("--decodings", decodings)
    refuse_twice("folders", [folder.resolve() for folder in folders])
    if decodings:
        models = [read_scored(folders[0], name) for name in decodings]
    else:
        models = [read_scored(*side) for side in sides_of(given, decoding, folders)]
    if len(models) == 1:
        hint = "; ".join([*unfinished, "give a second folder, or --decodings"])
        raise ConfigError(f"one evaluation, {folders[0]}; {hint}")
    result = compare(models, settings)
    result.refused += unfinished
    return result


def sides_of(
    given: Sequence[str], decoding: str | None, folders: list[Path]
) -> list[tuple[Path, str | None]]:
    """Folders with their decodings: every one of them for the folder of a sweep that has several.

    Elsewhere it is the one that is asked for; None: greedy, or the only one there is.
    """
    are_jobs = len(given) == 1 and is_sweep(Path(given[0]).expanduser())
    needed = [folder / name for folder in folders for name in ("config.yaml", "results.json")]
    can_tell = decoding is None and are_jobs and all(map(Path.is_file, needed))
    if can_tell and ask_different_things(folders):
        return [*sides(folders)]
    return [(folder, decoding) for folder in folders]


def refuse_twice(what: str, given: Sequence[object]) -> None:
    """Raises ConfigError if something is given twice: it differs from itself in nothing."""
    twice = [str(each) for each, count in Counter(given).items() if count > 1]
    if twice:
        raise ConfigError(f"{what}: {', '.join(twice)} is given twice; name each once")


def draw(result: Comparison, path: Path) -> None:
    """Raises ConfigError if matplotlib or the folder of the picture is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--png needs matplotlib; pip install 'effchal[evaluate]'")
    if not path.parent.is_dir():
        raise ConfigError(f"--png {path}: no folder {path.parent}")
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(f"--png {path}: must end in {', '.join(PICTURES)}")
    from effchal.evaluation.plots import plot_comparison

    plot_comparison(result, path)
