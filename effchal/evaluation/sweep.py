"""What a sweep over models or decodings says when all its evaluations are over."""

import json
import logging
from pathlib import Path

from effchal.cli.failures import fail
from effchal.config import ConfigError, load_config
from effchal.runs import read_record, write_atomic
from effchal.tracking.ending import as_typed
from effchal.tracking.sweep import SweepJob

log = logging.getLogger("effchal.evaluate")


def print_comparison(jobs: dict[Path, SweepJob]) -> None:
    """Print how each model and decoding compares with the first, and keep it.

    Args:
        jobs: by their folders, of evaluations or of lm-eval's tasks.
    """
    try:
        text = compare_models(list(jobs))
    except ConfigError as error:
        fail(str(error))
    else:
        print(text, end="")


def compare_models(jobs: list[Path]) -> str:
    """Compare every model and decoding of a sweep's finished evaluations with the first of them.

    Writes comparison.md, comparison.json and comparison.png into the sweep's folder.

    Returns:
        what to print: "" where the jobs are not of several models or decodings.

    Raises:
        ConfigError: nothing can be compared.
    """
    # Here, since every start of a command would wait for them.
    from effchal.evaluation.compare import Settings, compare
    from effchal.evaluation.compare_text import as_markdown, as_text
    from effchal.evaluation.plots import plot_comparison
    from effchal.evaluation.scored import EVALUATION, read_scored
    from effchal.evaluation.sides import ask_different_things, sides

    records = {job: read_record(job / EVALUATION) for job in jobs if (job / EVALUATION).is_file()}
    done = [job for job, record in records.items() if record["status"] == "finished"]
    if len(done) < 2 or not ask_different_things(done):  # a sweep over something else
        return ""
    if done[0] != jobs[0]:
        log.warning("%s failed; the others are compared with %s", jobs[0], done[0])
    settings = load_config(done[0] / "config.yaml").evaluate
    chosen = Settings(confidence=settings.confidence, resamples=settings.resamples)
    result = compare([read_scored(job, name) for job, name in sides(done)], chosen)
    folder = jobs[0].parent
    write_atomic(folder / "comparison.md", as_markdown(result) + "\n")
    write_atomic(folder / "comparison.json", json.dumps(result.to_dict(), indent=2) + "\n")
    try:
        plot_comparison(result, folder / "comparison.png")
    except Exception as error:  # the comparison is complete without it
        log.warning("%s: no comparison.png (%s)", folder, error)
    place = as_typed(folder.absolute())
    hint = f"kept in {place}; again, or otherwise: effchal compare {place}"
    return f"{as_text(result)}\n\n{hint}\n"
