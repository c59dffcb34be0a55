"""What a sweep does: keep a manifest of its jobs, and launch those that are not done."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from effchal.cli.overrides import key_of, quote
from effchal.config import ConfigError
from effchal.runs import run_lock
from effchal.sweeping.basic import BasicLauncher, BasicSweeper
from effchal.sweeping.halving import Halving
from effchal.sweeping.processes import ProcessLauncher, gpus_in_groups, visible_gpus
from effchal.tracking import manifest as manifests
from effchal.tracking.ending import as_typed
from effchal.tracking.manifest import MOST_TRIES, Manifest, State
from effchal.tracking.words import one_line

NUMBERED = "${hydra.job.num}"  # conf/config.yaml: a job's folder is its number
# Keys that name no job unless they are swept: with more hours it is still the same one.
FREE = {"budget", "track", "sweep", "base_model", "hydra"}
LONGEST_REASON = 120
log = logging.getLogger("effchal.sweep")


def sweep(sweeper: BasicSweeper, arguments: list[str], plain: Callable[[list[str]], Any]) -> Any:
    """Do the jobs of a sweep that are not done.

    Args:
        arguments: the overrides, those with several values among them.
        plain: Hydra's own way, for a sweep whose folders the user names.

    Raises:
        ConfigError: sweep.hours where it has no meaning, or a damaged manifest.
    """
    config: Any = sweeper.config
    raw = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    is_numbered = isinstance(raw, dict) and raw["subdir"] == NUMBERED
    is_training = config.hydra.job.name == "train"
    if config.sweep.hours is not None and not (is_training and is_numbered):
        what = "goes with numbered folders" if is_training else "is for effchal train -m"
        raise ConfigError(f"sweep.hours={config.sweep.hours} {what} only")
    if not is_numbered:
        return plain(arguments)
    return ManagedSweep(sweeper, arguments).run()


class ManagedSweep:
    """One call of a sweep: its folder, its jobs, and the launcher that does them."""

    def __init__(self, sweeper: BasicSweeper, arguments: list[str]) -> None:
        config: Any = sweeper.config
        self._sweeper, self._config = sweeper, config
        self._overrides = parsed(sweeper, arguments)
        self._folder = Path(config.hydra.sweep.dir).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._command = str(config.hydra.job.name)
        self._launched = 0

    def run(self) -> None:
        config = self._config
        batches = BasicSweeper.split_arguments(self._overrides, None)
        self._sweeper.validate_batch_is_legal(batches[0])
        with run_lock(self._folder):
            OmegaConf.save(config, self._folder / "multirun.yaml")
            self._open(batches[0])
            manifests.begun.append(self.manifest)
            if config.sweep.hours is not None:
                Halving(self, config.sweep.hours, config.sweep.reduction_factor).run(self.numbers)
                return
            todo = self.numbers
            if self._command == "train":
                todo = [number for number in self.numbers if self.is_to_do(number)]
            self.launch(todo)

    def _open(self, jobs: list[list[str]]) -> None:
        """The manifest of this folder, with the jobs of this call in it."""
        is_new = not (self._folder / manifests.SWEEP_FILE).is_file()
        found = Manifest(self._folder, self._command) if is_new else Manifest.load(self._folder)
        if found.command != self._command:
            raise ConfigError(f"{self._folder} is a sweep of effchal {found.command}")
        self.manifest, self.is_new = found, is_new
        self.numbers = [found.number_of(words, self._name_of) for words in jobs]
        found.save()
        at_once = self._config.sweep.at_once
        gpus = visible_gpus() if self._command == "train" else []  # others share what they load
        self.launcher: Any = self._sweeper.launcher
        self.places, self._in_waves = 1, False
        if not isinstance(self.launcher, BasicLauncher):
            self.places = at_once or places_of(self.launcher, len(self.numbers))
            self._in_waves = at_once is not None or not has_queue(self.launcher)
        elif (at_once or len(gpus)) > 1:
            # The job itself refuses less than one.
            each = {n: max(1, self._config_of(n).train.gpus) for n in self.numbers}
            self.places = at_once or len(gpus_in_groups(gpus, max(each.values())))
            if self.places > 1:
                self.launcher = ProcessLauncher(found, self.places, gpus, each)
        self.in_process = isinstance(self.launcher, BasicLauncher)

    def _name_of(self, words: list[str]) -> list[str]:
        """The overrides that name a job."""
        swept = {each.key_or_group for each in self._overrides if each.is_sweep_override()}
        keys = [(key_of(word), word) for word in words]
        return sorted(w for key, w in keys if key in swept or key.partition(".")[0] not in FREE)

    def is_to_do(self, number: int) -> bool:
        """Whether a job has something to do; says so in a line, but for a job of a new sweep."""
        manifest = self.manifest
        state = manifest.state(number, lambda: self.hours_of(number))
        reason = one_line(manifest.reason(number) or "", LONGEST_REASON)
        is_left = state is State.done
        match state:
            case State.new:
                says = "begins"
            case State.done:
                says = "done, left alone"
            case State.interrupted:
                says = "was begun, goes on"
            case State.refused:
                says = f"was refused ({reason}), tried again"
            case State.failed if manifest.failures(number) >= MOST_TRIES:
                is_left = True
                again = f"effchal {self._command} {as_typed(manifest.folder_of(number))}"
                says = f"failed twice ({reason}), left alone; to try again: {again}"
            case State.failed:
                says = f"failed ({reason}), tried once more"
        if not self.is_new:
            log.info("%d %s: %s", number, manifest.differs(number), says)
        return not is_left

    def hours_of(self, number: int) -> float:
        """budget.hours of a job, as it is typed now."""
        return float(self._config_of(number).budget.hours)

    def _config_of(self, number: int) -> Any:
        context: Any = self._sweeper.hydra_context
        words = self.manifest.jobs[number]
        return context.config_loader.load_sweep_config(self._config, words)

    def launch(self, numbers: list[int], extra: dict[int, list[str]] | None = None) -> None:
        """Do these jobs.

        Args:
            extra: overrides that a job gets on top of its own.
        """
        place = f"hydra.sweep.dir={quote(str(self._folder))}"
        jobs = [
            [*self.manifest.jobs[n], *(extra or {}).get(n, []), place, f"hydra.sweep.subdir={n}"]
            for n in numbers
        ]
        size = self._sweeper.max_batch_size or max(1, len(jobs))
        if self._in_waves:
            size = min(size, self.places)
        for first in range(0, len(jobs), size):
            batch = jobs[first : first + size]
            try:
                results = self.launcher.launch(batch, initial_job_idx=self._launched)
            except RuntimeError as error:
                if isinstance(self.launcher, BasicLauncher):
                    raise
                reason = one_line(str(error), LONGEST_REASON)
                sys.exit(f"error: the launcher lost a job: {reason}; see {self._folder}")
            self._launched += len(batch)
            for result in results:
                _ = result.return_value  # raises what the job raised


def parsed(sweeper: BasicSweeper, arguments: list[str]) -> list[Any]:
    """The overrides of the command and of hydra.sweeper.params."""
    context: Any = sweeper.hydra_context
    words = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=context.config_loader)
    return parser.parse_overrides([*words, *arguments])


def places_of(launcher: Any, jobs: int) -> int:
    """How many jobs a launcher of other machines does at a time."""
    if hasattr(launcher, "places"):
        return min(jobs, launcher.places())
    return min(jobs, launcher.params["array_parallelism"]) if has_queue(launcher) else 1


def has_queue(launcher: Any) -> bool:
    """Whether a launcher takes all jobs and lets those wait that have no place."""
    return hasattr(launcher, "places") or "array_parallelism" in getattr(launcher, "params", {})
