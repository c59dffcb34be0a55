"""The page served on this machine, following the runs as their files change."""

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from effchal.config import ConfigError
from effchal.reporting.collect import MARKS, NoRun, collect
from effchal.reporting.page import fitting_page, page_of
from effchal.reporting.payload import report_of

NICENESS = 10  # the jobs that it follows come first
HOST = "127.0.0.1"
FILES = {*MARKS, ".lock", "config.yaml", "instances.jsonl", "multirun.yaml"}  # what it shows
LEAST_PAUSE_S = 2.0
PAUSE_FACTOR = 5  # reading the runs takes at most a sixth of the time


class News:
    """What the runs' files say now, read again only when one of them has changed."""

    def __init__(self, make: Callable[[], dict[str, Any]], paths: Sequence[Path]) -> None:
        self._make, self._paths = make, paths
        self._lock = threading.Lock()
        self._state: list[tuple[str, int, int]] = []
        self._next = 0.0
        self.data: dict[str, Any] = {}
        self.tag = ""

    def refresh(self) -> None:
        """Read the runs if their files have changed, and the last reading was long enough ago."""
        with self._lock:
            begun = time.monotonic()
            if begun < self._next:
                return
            state = sorted(_files(self._paths))
            running = any(row["status"] == "running" for row in self.data.get("rows", []))
            if state != self._state or running or not self.data:  # a killed job changes no file
                self.data, self._state = self._make(), state
                same = {key: value for key, value in self.data.items() if key != "made"}
                self.tag = f'"{hash(json.dumps(same)):x}"'
            taken_s = time.monotonic() - begun
            self._next = time.monotonic() + max(LEAST_PAUSE_S, PAUSE_FACTOR * taken_s)


def _files(paths: Sequence[Path]) -> Iterator[tuple[str, int, int]]:
    for path in paths:
        for folder, _, names in os.walk(path):
            for name in FILES.intersection(names):
                try:
                    status = os.stat(os.path.join(folder, name))
                except OSError:
                    continue
                yield os.path.join(folder, name), status.st_mtime_ns, status.st_size


class Server(ThreadingHTTPServer):
    """A thread for each request, so that a slow browser keeps no other one waiting."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, but not that a browser closed its page before the answer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def make_server(
    make: Callable[[], dict[str, Any]], paths: Sequence[Path], port: int
) -> ThreadingHTTPServer:
    """A server of `/` and `/data.json` on 127.0.0.1; port 0 takes any that is free.

    Raises:
        ConfigError: another program has the port, or it may not be taken.
    """
    news = News(make, paths)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
                self.answer(403, b"this page is for this machine alone", "text/plain")
            elif path == "/":
                news.refresh()
                self.answer(200, page_of(news.data, live=True).encode(), "text/html; charset=utf-8")
            elif path == "/data.json":
                news.refresh()
                if self.headers.get("If-None-Match") == news.tag:
                    self.answer(304, b"", "application/json")
                else:
                    text = json.dumps(news.data, ensure_ascii=False).encode("utf-8", "replace")
                    self.answer(200, text, "application/json")
            else:
                self.answer(404, b"only / and /data.json are here", "text/plain")

        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", news.tag)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """No line for each question of the page."""

    try:
        return Server((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise ConfigError(f"--port {port}: another program has it; take another one") from error
        raise ConfigError(f"--port {port}: {error}; take another one") from error


def watch(folders: Sequence[Path], port: int) -> None:
    """Serve the page until Ctrl-C."""
    collect(folders)  # a folder that is missing is an error now
    os.nice(NICENESS)

    def make() -> dict[str, Any]:
        there = [path for path in folders if path.is_dir()]
        found = collect(there)
        gone = [path for path in folders if path not in there]
        found.others += [NoRun(path, "is not there any more") for path in gone]
        return report_of(found, folders, lambda report: fitting_page(report)[1])

    with make_server(make, folders, port) as server:
        print(f"http://{HOST}:{server.server_port} follows the runs; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)
