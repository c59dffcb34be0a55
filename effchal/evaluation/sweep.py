"""What a sweep over models says when all its evaluations are over."""

import json
import logging
from pathlib import Path

from effchal.config import load_config
from effchal.evaluation.compare import Settings, compare
from effchal.evaluation.compare_text import as_markdown, as_text, shown
from effchal.evaluation.plots import plot_comparison
from effchal.evaluation.scored import EVALUATION, decodings_of, read_scored
from effchal.runs import read_record, write_atomic

log = logging.getLogger("effchal.evaluate")


def compare_models(jobs: list[Path]) -> str:
    """Compare the finished evaluations of a sweep with its first job.

    Writes comparison.md, comparison.json and comparison.png into the sweep's folder.

    Returns:
        what to print: "" where the jobs are not of several models.

    Raises:
        ConfigError: nothing can be compared.
    """
    records = {job: read_record(job / EVALUATION) for job in jobs if (job / EVALUATION).is_file()}
    done = [job for job, record in records.items() if record["status"] == "finished"]
    asked = {json.dumps([records[job]["model"] | {"bundle": ""}, prompt_of(job)]) for job in done}
    if len(done) < 2 or len(asked) < len(done):  # a sweep over something else than models
        return ""
    if done[0] != jobs[0]:
        log.warning("%s failed; the others are compared with %s", jobs[0], done[0])
    settings = load_config(done[0] / "config.yaml").evaluate
    chosen = Settings(confidence=settings.confidence, resamples=settings.resamples)
    result = compare([read_scored(job) for job in done], chosen)
    folder = jobs[0].parent
    write_atomic(folder / "comparison.md", as_markdown(result) + "\n")
    write_atomic(folder / "comparison.json", json.dumps(result.to_dict(), indent=2) + "\n")
    try:
        plot_comparison(result, folder / "comparison.png")
    except Exception as error:  # the comparison is complete without it
        log.warning("%s: no comparison.png (%s)", folder, error)
    hint = f"kept in {shown(folder)}; again, or otherwise: effchal compare {shown(folder)}"
    others = [name for name in decodings_of(done[0]) if name != result.models["A"].decoding]
    if others:
        hint += f' --decoding "{others[-1]}"'
    return f"{as_text(result)}\n\n{hint}\n"


def prompt_of(job: Path) -> str:
    return repr(load_config(job / "config.yaml").prompt)
