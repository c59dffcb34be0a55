"""Serve a bundle or a base model over HTTP, for HELM, lm-eval and OpenAI clients."""

import errno
import socket
from pathlib import Path

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from effchal.cli.compose import entry_point
from effchal.config import Config, ConfigError, ServeConfig
from effchal.runs import NotStarted
from effchal.serving.access import bearer_token
from effchal.serving.app import create_app, exit_worker, serving_config, start_app

__all__ = ["create_app"]

SPARE_THREADS = 16  # for /tokenize and the like, which must not wait behind completions
REMEDIES = {
    errno.EADDRINUSE: "give serve.port=<another one>, or end the program that listens there",
    errno.EACCES: "give serve.port=<1024 or more>",
}


class Server(BaseApplication):
    """gunicorn with one worker: one process holds the weights, its threads hold the requests."""

    def __init__(self, cfg: Config, typed: list[str]) -> None:
        self._config, self._typed = cfg, typed
        super().__init__()

    def load_config(self) -> None:
        serve: ServeConfig = self._config.serve
        settings = {
            "bind": f"[{serve.host}]:{serve.port}",  # brackets for the colons of IPv6
            "workers": 1,
            "worker_class": "effchal.serving.worker.Worker",
            "threads": serve.max_waiting + SPARE_THREADS,
            "timeout": 0,  # a generation may take long; serve.deadline_s is its limit
            "graceful_timeout": serve.drain_s,
            "preload_app": False,  # torch must start after the fork
        }
        for key, value in settings.items():
            self.cfg.set(key, value)

    def load(self):
        return start_app(self._config, self._typed, exit_worker)


def check_address(host: str, port: int) -> None:
    """Raises ConfigError if nobody can listen there; gunicorn would try for five seconds."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()
    except (OSError, TypeError) as error:  # TypeError: of a host that is no name
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", error)
        remedy = REMEDIES.get(number or 0, "give serve.host=<an address of this machine>")
        raise ConfigError(
            f"cannot listen at serve.host={host} serve.port={port}: {reason}; {remedy}"
        ) from error


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    served = serving_config(cfg, overrides)
    bearer_token()
    check_address(served.serve.host, served.serve.port)
    try:
        Server(served, overrides).run()
    except SystemExit as end:
        if end.code == Arbiter.APP_LOAD_ERROR:  # the worker could not load the model
            raise NotStarted(end.code) from None
        raise


if __name__ == "__main__":
    main()
