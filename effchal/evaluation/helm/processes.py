"""The processes of a HELM run; none of them outlives this one."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effchal.config import Config, ConfigError, save_config, to_plain
from effchal.evaluation.helm.results import SUITE
from effchal.serving.ready import wait_ready

HELM_LOG = "helm-run.log"  # helm.log is ours
SERVER_LOG = "server.log"
GROUPS = ("decoding", "serve")  # of the config: what may be typed beside a bundle
PATIENCE_S = 1200  # until the server is ready, as in the contest


Child = contextlib.AbstractContextManager[subprocess.Popen]


class HelmError(Exception):
    """A process that the run needs has ended. Earlier answers are kept."""


@contextlib.contextmanager
def child(
    command: list[str],
    log: Path | None,
    stop: signal.Signals,
    patience_s: float | None = 30,
    **options: Any,
) -> Iterator[subprocess.Popen]:
    """A process that gets the signal `stop` when the block ends.

    Args:
        log: the file that takes what it prints. None: the screen.
        patience_s: how long to wait for its end before it is killed. None: without end.
    """

    def follow_parent() -> None:
        # If SIGKILL ends this process, only the kernel can stop the child. Linux only.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, stop)

    with log.open("ab") if log is not None else contextlib.nullcontext() as output:
        errors = None if output is None else subprocess.STDOUT
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, preexec_fn=follow_parent, **options
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def server_command(cfg: Config, folder: Path, port: int) -> list[str]:
    """The server of exactly this model, whatever was typed to select it.

    Its config is written into `folder`. That holds nothing else, because Hydra would take
    other folders in it for groups of options.
    """
    save_config(cfg, folder / "config.yaml")
    changes = {"serve.port": port, "serve.host": "127.0.0.1", "hydra.run.dir": str(folder)}
    changes |= {"hydra.output_subdir": None, "hydra/job_logging": "stdout"}
    if cfg.bundle is not None:  # the server reads the bundle's config: type what differs
        plain = to_plain(cfg)
        typed = {f"{group}.{key}": plain[group][key] for group in GROUPS for key in plain[group]}
        changes = typed | {"bundle": cfg.bundle, "base_model": cfg.base_model} | changes
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]
    where = ["-cp", str(folder.resolve()), "-cn", "config"]
    return [sys.executable, "-m", "effchal.serve", *where, *overrides]


@contextlib.contextmanager
def server(cfg: Config, run_dir: Path, url: str) -> Iterator[subprocess.Popen]:
    """The server, ready at `url`.

    Raises:
        ConfigError: it ended or was not ready in time. The message has the end of its log.
    """
    folder, log = run_dir / "server", run_dir / SERVER_LOG
    folder.mkdir(exist_ok=True)
    command = server_command(cfg, folder, int(url.rpartition(":")[2]))
    environment = environment_without("EFFCHAL_TOKEN")  # HELM can send none
    # SIGINT: on SIGTERM the server would first finish what runs.
    with child(command, log, signal.SIGINT, env=environment) as process:
        trouble = wait_ready(url, PATIENCE_S, lambda: process.poll() is None)
        if trouble:
            raise ConfigError(f"{trouble}; the end of {log}:\n{tail(log)}")
        yield process


def run_helm(
    cfg: Config, run_dir: Path, entries: list[str], name: str, serving: subprocess.Popen | None
) -> None:
    """helm-run on the entries. A run that fails in it leaves no complete files.

    Args:
        name: of the model, for HELM.
        serving: the server, if it is ours; None: somebody else's.

    Raises:
        HelmError: the server ended meanwhile.
    """
    command = [helm_program(cfg, "helm-run"), *output_options(run_dir), "--skip-completed-runs"]
    command += ["--max-eval-instances", str(cfg.scenario.max_instances)]
    command += ["--num-threads", str(cfg.helm.threads), "--run-entries"]
    plain = [entry.removesuffix(":") for entry in entries]
    command += [f"{entry}{',' if ':' in entry else ':'}model={name}" for entry in plain]
    with helm_child(cfg, run_dir, command) as process:
        while process.poll() is None:
            if serving is not None and serving.poll() is not None:
                end = tail(run_dir / SERVER_LOG)
                raise HelmError(f"the server ended while HELM asked; the end of its log:\n{end}")
            time.sleep(0.2)


def output_options(run_dir: Path) -> list[str]:
    """Options of helm-run and helm-summarize."""
    options = ["--suite", SUITE, "--output-path", str(run_dir)]
    return [*options, "--local-path", str(run_dir / "prod_env")]


def inside(cfg: Config, run_dir: Path, *arguments: str) -> Child:
    """inside.py in HELM's environment."""
    program = str(Path(__file__).with_name("inside.py"))
    return helm_child(cfg, run_dir, [helm_program(cfg, "python"), "-P", program, *arguments])


def helm_child(cfg: Config, run_dir: Path, command: list[str]) -> Child:
    """A process of HELM's, with HELM's log."""
    # SIGKILL: on any other signal, HELM first waits for every answer.
    return child(command, run_dir / HELM_LOG, signal.SIGKILL, env=helm_environment(cfg))


def helm_program(cfg: Config, name: str) -> str:
    return str(Path(cfg.helm.environment, "bin", name).absolute())


def helm_environment(cfg: Config) -> dict[str, str]:
    """Environment variables of HELM's processes."""
    # The variable left out would win over prod_env.
    environment = environment_without("HELM_HTTP_MODEL_BASE_URL")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if cfg.scenario.path else {}
    return environment | offline


def environment_without(name: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != name}


def reach_loopback_directly() -> None:
    """Keep us and HELM from asking a proxy of the environment for our own server."""
    for key in ("NO_PROXY", "no_proxy"):
        os.environ[key] = ",".join(filter(None, ("127.0.0.1,localhost", os.environ.get(key))))


def tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
