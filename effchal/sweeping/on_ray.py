"""Jobs of a sweep on a Ray cluster: a task each, begun again elsewhere if its node is lost.

All nodes see the sweep's folder under one path. A job goes on from its last checkpoint.
"""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import filter_overrides
from omegaconf import DictConfig

from effchal.config import ConfigError
from effchal.mixing.ray_cluster import connect, environment
from effchal.sweeping.job import run_job
from effchal.sweeping.processes import POLL_S, number_in, tell_end
from effchal.tracking.manifest import NODE, Manifest
from effchal.training.signals import StopSignals

log = logging.getLogger("effchal.sweep")


def places(config: DictConfig, options: dict[str, Any]) -> int:
    """How many jobs the cluster runs at a time."""
    ray = cluster(options)
    total, needed = ray.cluster_resources(), resources(ray, config, options)
    known = {"num_cpus": "CPU", "num_gpus": "GPU"}
    fits = [int(total.get(known[name], 0) / each) for name, each in needed.items() if each]
    return max(1, min(fits, default=1))


def resources(ray: Any, config: DictConfig, options: dict[str, Any]) -> dict[str, float]:
    """What a job takes: train.gpus where the cluster has any, unless the config says otherwise.

    Raises:
        ConfigError: no node has as many, so the job would wait for ever.
    """
    gpus = options.get("num_gpus")
    if gpus is None:
        most = int(max(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]))
        gpus = config.train.gpus if most else 0
        if gpus > most:
            raise ConfigError(f"train.gpus={gpus}, but no node of the cluster has more than {most}")
    return {"num_cpus": options.get("num_cpus", 1), "num_gpus": gpus}


def cluster(options: dict[str, Any]) -> Any:
    """Ray, connected to the cluster at `address`, or as connect chooses one."""
    connect(options.get("address"))
    import ray

    return ray


def launch(
    config: DictConfig, options: dict[str, Any], job_overrides: Sequence[Sequence[str]]
) -> list:
    """Do all jobs. Their results lie in their folders.

    Raises:
        SystemExit: 128 + a signal; jobs that ran have saved and ended.
    """
    manifest = Manifest.load(Path(config.hydra.sweep.dir).absolute())
    ray = cluster(options)
    with StopSignals() as signals:
        task = ray.remote(
            **resources(ray, config, options),
            max_retries=options.get("max_retries", 3),
            max_calls=1,
            runtime_env={"env_vars": environment()},
        )(run_there)
        pending = {}
        for words in job_overrides:
            number, overrides = number_in(words), list(filter_overrides(words))
            log.info("%d waits for a place: %s", number, manifest.differs(number))
            folder, output = manifest.folder_of(number), manifest.log_of(number)
            job = (manifest.command, overrides, folder, output, os.getcwd())
            pending[task.remote(*job)] = number
        while pending and not signals.received:
            done, _ = ray.wait(list(pending), timeout=POLL_S)
            for each in done:
                end(ray, manifest, pending.pop(each), each)
        if signals.received:
            for each in pending:
                ray.cancel(each)
            ray.wait(list(pending), num_returns=len(pending), timeout=60)
            sys.exit(128 + signals.received)
    return []


def run_there(command: str, overrides: list[str], folder: Path, log: Path, cwd: str) -> int:
    """Do a job on a node of the cluster. Returns its exit code."""
    import ray

    environment = {NODE: ray.get_runtime_context().get_node_id()}
    return run_job(command, overrides, folder, log, environment, cwd=cwd)


def end(ray: Any, manifest: Manifest, number: int, result: Any) -> None:
    """Tell how a job ended."""
    try:
        tell_end(manifest, number, ray.get(result))
    except ray.exceptions.RayError as error:
        log.error("%d was lost: %s", number, str(error).strip().splitlines()[0])
