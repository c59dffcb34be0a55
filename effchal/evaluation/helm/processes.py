"""The processes that a HELM run consists of; none of them outlives this one."""

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

from effchal.config import Config, ConfigError, save_config, to_plain
from effchal.evaluation.helm.results import SUITE
from effchal.serving.ready import wait_ready

HELM_LOG = "helm-run.log"  # helm.log is our own
SERVER_LOG = "server.log"
PATIENCE_S = 1200  # until the server is ready, as in the contest


class HelmError(Exception):
    """A process that the run needs has ended; what was answered before is kept."""


@contextlib.contextmanager
def child(
    command: list[str], log: Path, stop: signal.Signals, **options
) -> Iterator[subprocess.Popen]:
    """A process whose output goes to `log`; it gets `stop` when the block is left, however that happens."""

    def follow_parent() -> None:
        # Killed with SIGKILL, this process can stop nobody: the kernel does it. Linux only.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, stop)

    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=follow_parent, **options
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def server_command(cfg: Config, folder: Path, port: int) -> list[str]:
    """The server of exactly this model, whatever was typed to get there: its config is written into `folder`.

    A folder of its own, because Hydra would take other folders in it for groups of options.
    """
    save_config(cfg, folder / "config.yaml")
    changes = {"serve.port": port, "serve.host": "127.0.0.1", "hydra.run.dir": str(folder)}
    changes |= {"hydra.output_subdir": None, "hydra/job_logging": "stdout"}
    if cfg.bundle is not None:  # its own config counts, and what is typed beside it
        plain = to_plain(cfg)
        changes |= {f"decoding.{key}": value for key, value in plain["decoding"].items()}
        changes |= {
            f"serve.{key}": value
            for key, value in plain["serve"].items()
            if key not in ("port", "host")
        }
        changes |= {"bundle": cfg.bundle, "base_model": cfg.base_model}
    typed = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]
    return [
        sys.executable,
        "-m",
        "effchal.serve",
        "-cp",
        str(folder.resolve()),
        "-cn",
        "config",
        *typed,
    ]


@contextlib.contextmanager
def server(cfg: Config, run_dir: Path, url: str) -> Iterator[subprocess.Popen]:
    """The server, ready at `url`.

    Raises:
        ConfigError: it ended, or was not ready in time; with the end of its log.
    """
    folder, log = run_dir / "server", run_dir / SERVER_LOG
    folder.mkdir(exist_ok=True)
    command = server_command(cfg, folder, int(url.rpartition(":")[2]))
    environment = {
        key: value for key, value in os.environ.items() if key != "EFFCHAL_TOKEN"
    }  # HELM can send none
    # SIGINT, not SIGTERM, which would first finish what runs.
    with child(command, log, signal.SIGINT, env=environment) as process:
        trouble = wait_ready(url, PATIENCE_S, lambda: process.poll() is None)
        if trouble:
            raise ConfigError(f"{trouble}; the end of {log}:\n{tail(log)}")
        yield process


def run_helm(
    cfg: Config, run_dir: Path, entries: list[str], name: str, serving: subprocess.Popen | None
) -> None:
    """helm-run on the entries. What fails in it shows in the files that it does not leave.

    Raises:
        HelmError: the server ended meanwhile.
    """
    command = [helm_program(cfg, "helm-run"), "--suite", SUITE, "--skip-completed-runs"]
    command += ["--output-path", str(run_dir), "--local-path", str(run_dir / "prod_env")]
    command += [
        "--max-eval-instances",
        str(cfg.scenario.max_instances),
        "--num-threads",
        str(cfg.helm.threads),
    ]
    command += [
        "--run-entries",
        *(f"{entry}{',' if ':' in entry else ':'}model={name}" for entry in entries),
    ]
    # SIGKILL: on anything milder, HELM first waits for every answer.
    with child(command, run_dir / HELM_LOG, signal.SIGKILL, env=helm_environment(cfg)) as process:
        while process.poll() is None:
            if serving is not None and serving.poll() is not None:
                raise HelmError(
                    f"the server ended while HELM asked; the end of its log:\n{tail(run_dir / 'server.log')}"
                )
            time.sleep(0.2)


def inside(
    cfg: Config, run_dir: Path, *arguments: str
) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """inside.py in HELM's environment."""
    command = [
        helm_program(cfg, "python"),
        "-P",
        str(Path(__file__).with_name("inside.py")),
        *arguments,
    ]
    return child(command, run_dir / HELM_LOG, signal.SIGKILL, env=helm_environment(cfg))


def helm_program(cfg: Config, name: str) -> str:
    return str(Path(cfg.helm.environment, "bin", name).absolute())


def helm_environment(cfg: Config) -> dict[str, str]:
    """Environment variables of HELM's processes."""
    environment = {
        key: value for key, value in os.environ.items() if key != "HELM_HTTP_MODEL_BASE_URL"
    }  # it would win
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if cfg.scenario.path else {}
    return environment | offline


def reach_loopback_directly() -> None:
    """Or a proxy of the environment would be asked for our own server, by us and by HELM."""
    for key in ("NO_PROXY", "no_proxy"):
        os.environ[key] = ",".join(filter(None, ("127.0.0.1,localhost", os.environ.get(key))))


def tail(log: Path, lines: int = 12) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
