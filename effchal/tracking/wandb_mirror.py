"""The record of a run at Weights & Biases, sent from a thread of its own."""

import logging
import queue
import threading
from pathlib import Path
from typing import Any

from effchal.config import TrackConfig
from effchal.config.choices import WandbMode

log = logging.getLogger(__name__)


class WandbMirror:
    """Talks to wandb from a thread of its own, so that a run never waits for the network."""

    def __init__(
        self, run_dir: Path, cfg: TrackConfig, run_name: str, config: dict[str, Any]
    ) -> None:
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._work, args=(run_dir, cfg, run_name, config), name="wandb", daemon=True
        )
        self._thread.start()

    def put(self, item: tuple[str, Any]) -> None:
        self._queue.put(item)

    def close(self, wait_s: float) -> None:
        self._queue.put(("close", None))
        self._thread.join(wait_s)
        if self._thread.is_alive():
            log.warning("wandb did not finish within %.0f s; metrics.jsonl is complete", wait_s)

    def _work(self, run_dir: Path, cfg: TrackConfig, run_name: str, config: dict[str, Any]) -> None:
        try:
            import wandb

            run = self._start(wandb, run_dir, cfg, run_name, config)
            while True:
                kind, value = self._queue.get()
                if kind == "log":
                    run.log(
                        {key: v for key, v in value.items() if key != "step"}, step=value["step"]
                    )
                elif kind == "summary":  # else it keeps the last value logged, of any step
                    shown = {k: "not measured" if v is None else v for k, v in value.items()}
                    run.summary.update(shown)
                elif kind == "bundle":
                    artifact = wandb.Artifact("bundle", type="model")
                    artifact.add_dir(str(value))
                    run.log_artifact(artifact)
                else:
                    run.finish()
                    return
        except Exception as error:  # the mirror may break; the run goes on
            log.warning("wandb stopped (%s); metrics.jsonl goes on", error)

    @staticmethod
    def _start(
        wandb: Any, run_dir: Path, cfg: TrackConfig, run_name: str, config: dict[str, Any]
    ) -> Any:
        common = {
            "project": cfg.project,
            "name": run_name,
            "config": config,
            "dir": str(run_dir),
            "group": run_dir.name,
        }
        if cfg.wandb is WandbMode.online:
            try:
                settings = wandb.Settings(init_timeout=20, silent=True)
                return wandb.init(mode="online", settings=settings, **common)
            except Exception as error:  # no key, no network: keep the record on disk
                log.warning(
                    "wandb cannot go online (%s); recording offline, `wandb sync` sends it later",
                    error,
                )
        return wandb.init(mode="offline", settings=wandb.Settings(silent=True), **common)
