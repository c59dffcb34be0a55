"""Serve a bundle or a base model over HTTP, for HELM, lm-eval and OpenAI clients."""

from pathlib import Path

from gunicorn.app.base import BaseApplication

from effchal.cli import entry_point
from effchal.config import Config, ServeConfig
from effchal.model_source import inference_config
from effchal.serving.app import create_app, exit_worker, start_app

__all__ = ["create_app"]

SPARE_THREADS = 16  # for /tokenize and /health, which must not wait behind completions


class Server(BaseApplication):
    """gunicorn with one worker: one process holds the weights, its threads hold the requests."""

    def __init__(self, cfg: Config) -> None:
        self._config = cfg
        super().__init__()

    def load_config(self) -> None:
        serve: ServeConfig = self._config.serve
        settings = {
            "bind": f"{serve.host}:{serve.port}",
            "workers": 1,
            "worker_class": "gthread",  # the sync worker kills long requests
            "threads": serve.max_waiting + SPARE_THREADS,
            "timeout": 0,  # a generation may take long; serve.deadline_s is its limit
            "graceful_timeout": serve.drain_s,
            "control_socket_disable": True,  # one way in is enough
            "preload_app": False,  # torch must start after the fork
        }
        for key, value in settings.items():
            self.cfg.set(key, value)

    def load(self):
        return start_app(self._config, exit_worker)


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    Server(inference_config(cfg, overrides, {"serve"})).run()


if __name__ == "__main__":
    main()
