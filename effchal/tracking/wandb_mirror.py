"""A run's mirror at Weights & Biases: a process of its own that reads the run's folder.

The run never waits for it, but for a few seconds at its end: neither importing wandb nor a
network that hangs takes the interpreter from a training step. If the run is killed, the
mirror still sends what the run had written.
"""

import json
import logging
import os
import secrets
import shlex
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from effchal.config import Config, TrackConfig
from effchal.config.choices import WandbMode
from effchal.runs import python_path, write_atomic
from effchal.tracking.manifest import own_overrides

IDENTITY = "wandb.json"  # in the run's folder: the id that it keeps after a resume
WAIT_S = 4.5  # at most, at the end of a run
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """How a run is known at wandb. A resumed run has the same one."""

    id: str
    name: str
    group: str | None
    job_type: str  # train or evaluate

    @classmethod
    def of(cls, run_dir: Path, name: str, job_type: str) -> "Identity":
        """The one kept in the folder, or a new one, which is kept.

        A job of a sweep is named by the overrides that only it has, and grouped by the
        sweep's folder. Any other run has no group.
        """
        path = run_dir / IDENTITY
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):  # none there, or damaged
            pass
        is_job = (run_dir.parent / "multirun.yaml").is_file()
        group = run_dir.absolute().parent.name if is_job else None
        if is_job:
            name = own_overrides(run_dir) or f"{name} {run_dir.name}"
        identity = cls(secrets.token_hex(4), name[:128], group, job_type)
        write_atomic(path, json.dumps(asdict(identity), indent=2) + "\n")
        return identity


class WandbMirror:
    """The process that mirrors one run folder, from its start to `close`."""

    def __init__(self, run_dir: Path, cfg: TrackConfig, run_name: str, job_type: str) -> None:
        self._run_dir, self._folder = run_dir, ""
        metrics = run_dir / "metrics.jsonl"
        # What an earlier process of this run has written, its own mirror has sent.
        was_mirrored = (run_dir / IDENTITY).is_file() and metrics.is_file()
        job = {
            "run_dir": str(run_dir),
            "mode": cfg.wandb.value,
            "project": cfg.project,
            "first_byte": metrics.stat().st_size if was_mirrored else 0,
            **asdict(Identity.of(run_dir, run_name, job_type)),
        }
        if job_type == "train":
            metrics.touch()  # the mirror opens it at its start
        (run_dir / "wandb").mkdir(exist_ok=True)
        with (run_dir / "wandb" / "mirror.log").open("ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "effchal.tracking.wandb_process", json.dumps(job)],
                stdin=subprocess.PIPE,  # never written to: its end tells of this process's end
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=os.environ | {"PYTHONPATH": python_path()},
                start_new_session=True,  # Ctrl-C is for the run alone
            )
        self._listener = threading.Thread(target=self._listen, name="wandb", daemon=True)
        self._listener.start()

    def close(self) -> None:
        """Tell the mirror that the run is over, and wait a few seconds for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._listener.join(WAIT_S)
        if not self._listener.is_alive():
            self._process.poll()
            return
        # Its folder may not be known yet; the shell finds it by this pattern.
        anywhere = f"{shlex.quote(str(self._run_dir / 'wandb'))}/*run-*"
        log.warning(
            "wandb is not done after %.1f s; its process %d goes on alone; "
            "for what it cannot send: wandb sync %s",
            WAIT_S,
            self._process.pid,
            shlex.quote(self._folder) if self._folder else anywhere,
        )

    def _listen(self) -> None:
        """Log what the mirror has to say, and keep where it records."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            self._folder = message.get("folder", self._folder)
            if "warning" in message:
                log.warning("%s", message["warning"])
            if "info" in message:
                log.info("%s", message["info"])


def start_mirror(
    run_dir: Path, cfg: TrackConfig, run_name: str, job_type: str
) -> WandbMirror | None:
    """The mirror that track.wandb asks for. None without one, or where it cannot be started."""
    if cfg.wandb is WandbMode.off:
        return None
    try:
        return WandbMirror(run_dir, cfg, run_name, job_type)
    except OSError as error:  # no memory for another process, no space for its log
        log.warning("wandb cannot be started (%s); metrics.jsonl goes on", error)
        return None


def mirror_evaluation(cfg: Config, run_dir: Path) -> None:
    """Send a finished evaluation's results, tables and figures to wandb, if track.wandb says so."""
    mirror = start_mirror(run_dir, cfg.track, cfg.name, "evaluate")
    if mirror is not None:
        mirror.close()
