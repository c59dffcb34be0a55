"""Which evaluations are meant: by their own folder, a sweep's, or that of the model they score."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.evaluation.scored import EVALUATION, HELM_RUN, finished
from effchal.runs import is_bundle, read_record

OUTPUTS = Path("outputs")


def evaluations(paths: Sequence[str | Path]) -> list[Path]:
    """The folders of evaluations and HELM runs that the paths stand for, in their order.

    A sweep's folder stands for all of its finished evaluations. A bundle or training run stands
    for its newest finished one below outputs/ that has an entry in common with the others.

    Raises:
        ConfigError: a path that is none of these, or a model without a finished evaluation.
    """
    found = [candidates(Path(path).expanduser()) for path in paths]
    missing = [str(path) for path, each in zip(paths, found, strict=True) if not each]
    if missing:
        raise ConfigError(
            f"no finished evaluation of {' and '.join(missing)} below {OUTPUTS}/; "
            f"effchal evaluate {' '.join(map(str, paths))} makes what is missing and compares"
        )
    return [folder for group in with_common_entry(found) for folder in group]


def candidates(path: Path) -> list[list[Path]]:
    """What a path may stand for, the best first: each a list of folders."""
    if not path.is_dir():
        raise ConfigError(f"no folder {path} (from {Path.cwd()})")
    if is_evaluation(path):
        return [[path]]
    if is_sweep(path):
        done = [job for job in jobs_of(path) if why_left_out(job) is None]
        return [done] if done else []
    bundle = next((each for each in (path, path / "bundle") if is_bundle(each)), None)
    if bundle is not None:
        return [[each] for each in finished_evaluations(bundle)]
    if (path / "config.yaml").is_file():
        raise ConfigError(f"{path} has no finished bundle and no evaluation")
    raise ConfigError(
        f"{path} is no evaluation, HELM run, training run or bundle: it has no {EVALUATION}, "
        f"{HELM_RUN} or manifest.json"
    )


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds jobs that are evaluations, and is none itself."""
    is_run = is_evaluation(folder) or (folder / "config.yaml").is_file()
    return not is_run and any(map(is_evaluation, jobs_of(folder)))


def jobs_of(sweep: Path) -> list[Path]:
    """Folders of a sweep's jobs, 2 before 10."""
    found = [each for each in sweep.iterdir() if each.is_dir()]
    jobs = [each for each in found if is_evaluation(each) or (each / "config.yaml").is_file()]
    return sorted(jobs, key=lambda each: (len(each.name), each.name))


def why_left_out(job: Path) -> str | None:
    """Why a sweep's job cannot be compared, or None for a finished one."""
    if not is_evaluation(job):
        return f"{job} is not finished"
    try:
        finished(job, EVALUATION if (job / EVALUATION).is_file() else HELM_RUN)
    except ConfigError as error:
        return str(error)
    return None


def left_out(paths: Sequence[str | Path]) -> list[str]:
    """Why jobs of the sweeps among the paths are not compared."""
    sweeps = [path for path in (Path(each).expanduser() for each in paths) if is_sweep(path)]
    reasons = [why_left_out(job) for sweep in sweeps for job in jobs_of(sweep)]
    return [reason for reason in reasons if reason is not None]


def is_evaluation(folder: Path) -> bool:
    return (folder / EVALUATION).is_file() or (folder / HELM_RUN).is_file()


def finished_evaluations(bundle: Path) -> list[Path]:
    """Finished evaluations of a bundle below outputs/, the newest first, HELM runs last."""
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    return [
        folder
        for file in (EVALUATION, HELM_RUN)
        for folder in newest_finished(file)
        if read_record(folder / file)["model"].get("manifest_sha256") == digest
    ]


def newest_finished(file: str) -> list[Path]:
    """Folders below outputs/ of finished evaluations or HELM runs, the newest first."""
    found = []
    for path in sorted(OUTPUTS.rglob(file), key=lambda each: each.stat().st_mtime, reverse=True):
        with contextlib.suppress(ConfigError, OSError):
            finished(path.parent, file)
            found.append(path.parent)
    return found


def with_common_entry(found: list[list[list[Path]]]) -> list[list[Path]]:
    """The best of the candidates of each path with which all paths have an entry in common."""
    for first in found[0]:
        chosen = [first]
        common = entries_of(first)
        for others in found[1:]:
            fitting = next((each for each in others if entries_of(each) & common), None)
            if fitting is None:
                break
            chosen.append(fitting)
            common &= entries_of(fitting)
        else:
            return chosen
    return [each[0] for each in found]  # comparing them says what is wrong


def entries_of(folders: list[Path]) -> set[str]:
    """Entries that every one of the folders has.

    Raises:
        ConfigError: a damaged record.
    """
    names = []
    for folder in folders:
        is_own = (folder / EVALUATION).is_file()
        path = folder / (EVALUATION if is_own else HELM_RUN)
        record: dict[str, Any] = read_record(path)
        runs = record.get("runs", ())
        try:
            names.append(set(record.get("entries", ())) | {run["entry"] for run in runs})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{path} is damaged ({error!r})") from error
    return set.intersection(*names)
