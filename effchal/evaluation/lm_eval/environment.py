"""lm-eval's own environment: it wants packages that the project does without."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

from effchal.config import Config, ConfigError
from effchal.evaluation.lm_eval.hub_data import check_hub_data
from effchal.evaluation.lm_eval.process import python_of
from effchal.runs import run_lock
from effchal.tracking.terminal import progress

# Without torch: the model stays in our process.
PACKAGE = "lm_eval[ifeval,math]==0.4.13"
UNFINISHED = "not_finished"  # a file in an environment that is being made, or was interrupted
log = logging.getLogger("effchal.lm_eval")


def made_ready(cfg: Config) -> dict[str, str]:
    """Check what is asked, and have lm-eval's environment.

    Returns:
        variables for lm-eval's process.

    Raises:
        ConfigError: there is nothing to ask, nobody to ask it, or no data to ask from.
    """
    if not cfg.lm_eval.tasks:
        raise ConfigError("lm_eval.tasks is empty; give at least one, e.g. tasks=[hellaswag]")
    folder = cfg.lm_eval.include_path
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"lm_eval.include_path: no folder {folder} (from {Path.cwd()})")
    make_environment(cfg)
    python_of(cfg)
    return check_hub_data(cfg, Path(cfg.lm_eval.environment).absolute())


def make_environment(cfg: Config) -> None:
    """Make lm_eval.environment where it is not there. What an interrupt left is finished.

    Raises:
        ConfigError: it cannot be made, or another process makes it.
    """
    folder = Path(cfg.lm_eval.environment).absolute()
    if folder.exists() and not (folder / UNFINISHED).exists():
        return
    with run_lock(folder):
        (folder / UNFINISHED).touch()
        log.info("installing lm-eval into %s, once; a minute or two", folder)
        with progress("installing lm-eval"):
            _run([sys.executable, "-m", "venv", str(folder)], folder)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            _run([*pip, "--disable-pip-version-check", PACKAGE], folder)
        (folder / UNFINISHED).unlink()


def _run(command: list[str], folder: Path) -> None:
    """Raises ConfigError, with the last line that the command printed, if it fails."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"lm_eval.environment={folder} cannot be made: {error}") from error
    if ran.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        lines = (ran.stderr or ran.stdout).strip().splitlines() or ["no reason given"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise ConfigError(
            f"lm_eval.environment={folder} cannot be made: {errors[-1]}. Where there is no "
            f'network, make it elsewhere: python -m venv <folder>; pip install "{PACKAGE}"'
        )
