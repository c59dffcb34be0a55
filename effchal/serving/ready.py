"""Start a server on this machine: find a free port, and wait until GET /ready answers.

For shell scripts: python -m effchal.serving.ready URL SECONDS PID_OF_SERVER
"""

import http.client
import socket
import sys
import time
import urllib.request
from collections.abc import Callable

import psutil


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            return answer.status == 200
    except (http.client.HTTPException, OSError):
        return False


def wait_ready(url: str, patience_s: float, is_alive: Callable[[], bool]) -> str | None:
    """Wait until the server at `url` answers. Return None then, otherwise what went wrong."""
    end = time.monotonic() + patience_s
    while not is_ready(url):
        if not is_alive():
            return "the server ended before it was ready"
        if time.monotonic() > end:
            return f"{url} was not ready within {patience_s:.0f} s"
        time.sleep(0.5)
    return None


def process_lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


if __name__ == "__main__":
    url, patience_s, server_pid = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    trouble = wait_ready(url, patience_s, lambda: process_lives(server_pid))
    sys.exit(f"error: {trouble}" if trouble else 0)
