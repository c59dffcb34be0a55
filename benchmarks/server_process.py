"""A server of ours in a process of its own, and requests to it."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil
from common import ROOT

from effchal.serving.ready import is_ready, wait_ready

START_S = 600


class ServerProcess:
    """A server of a plain base model. It answers when this is built, and ends with the script.

    Args:
        log: where the server's output is appended, if anywhere.
    """

    def __init__(self, model: str, port: int, *overrides: str, log: Path | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        os.environ["NO_PROXY"] = "127.0.0.1"
        if is_ready(self.url):
            sys.exit(f"error: a server answers at {self.url} already; end it first")
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "effchal.serve", f"model={model}", "prompt=plain"]
        command += ["lora=none", f"serve.port={port}", f"hydra.run.dir={self._folder.name}"]
        with open(log or os.devnull, "a") as output:
            self.process = subprocess.Popen([*command, *overrides], cwd=ROOT, stdout=output)
        atexit.register(self.process.terminate)
        if trouble := wait_ready(self.url, START_S, lambda: self.process.poll() is None):
            sys.exit(f"error: {trouble}")
        self._worker = psutil.Process(self.process.pid).children()[0]

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self.process.terminate()
        return self.process.wait(timeout=600)

    def memory_mib(self) -> float:
        """Resident, of the worker."""
        return self._worker.memory_info().rss / 2**20

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return response.read().decode()

    def post(self, path: str, body: object) -> dict:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=3000) as response:
            return json.load(response)
