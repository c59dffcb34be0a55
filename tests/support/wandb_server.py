"""Stands in for the server of Weights & Biases: keeps the rows, configs and artifacts it gets.

Rows lie where their offset says, as at the real one. It knows what wandb 0.31 asks for when it
starts, resumes, ends and syncs a run, and has every artifact already, so nothing is uploaded.
"""

import contextlib
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "P", "name": "effchal", "entity": {"id": "E", "name": "team"}}


@dataclass
class KeptRun:
    config: str = "{}"
    group: str | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def as_bucket(self, name: str) -> dict[str, Any]:
        tail = json.dumps(self.lines[-1:])
        counts = {"logLineCount": 0, "historyLineCount": len(self.lines), "eventsLineCount": 0}
        kept = {"historyTail": tail, "eventsTail": "[]", "config": self.config, "sweepName": None}
        texts = {"id": name, "name": name, "displayName": name, "description": "", "notes": ""}
        started = {"tags": [], "summaryMetrics": "{}", "wandbConfig": json.dumps({"t": 1})}
        return counts | kept | texts | started | {"project": PROJECT}


class WandbServer:
    """What was sent: `runs` by id, `artifacts` as (run, name, type, whether it is an input)."""

    def __init__(self) -> None:
        self.runs: dict[str, KeptRun] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.used: list[dict[str, Any]] = []
        self.url = ""
        self.answers = True  # False: only the first page, and then not a word

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("file_stream"):
            self.keep_rows(path.split("/")[-2], body)
            return {}
        named = re.match(r"\s*(?:query|mutation) (\w+)", body.get("query", ""))
        return {"data": self.query(named and named[1], body.get("variables") or {})}

    def keep_rows(self, run: str, body: dict[str, Any]) -> None:
        part = body.get("files", {}).get("wandb-history.jsonl")
        if part:
            end = part["offset"] + len(part["content"])
            self.runs[run].lines[part["offset"] : end] = part["content"]

    def query(self, operation: str | None, values: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "Viewer":
                names = {"id": "V", "entity": "team", "username": "me", "email": "", "flags": "{}"}
                return {"viewer": names | {"teams": {"edges": []}}}
            case "RunResumeStatus":
                run = self.runs.get(values["name"])
                return {"model": PROJECT | {"bucket": run and run.as_bucket(values["name"])}}
            case "UpsertBucket":
                name = values["name"]
                is_new = name not in self.runs
                run = self.runs.setdefault(name, KeptRun())
                run.config = values.get("config") or run.config
                run.group = values.get("groupName") or run.group
                return {"upsertBucket": {"bucket": run.as_bucket(name), "inserted": is_new}}
            case "CreateRunFiles":
                files = [{"name": n, "uploadUrl": f"{self.url}/file"} for n in values["files"]]
                part = {"runID": values["run"], "uploadHeaders": [], "files": files}
                return {"createRunFiles": part}
            case "CreateArtifact":
                self.artifacts.append(values["input"])
                kept = {"id": f"A{len(self.artifacts)}", "state": "COMMITTED"}
                kept["artifactSequence"] = {"latestArtifact": None}
                return {"createArtifact": {"artifact": kept}}
            case "ArtifactType":  # of a name: none yet
                return {"project": {"artifact": None}}
            case "UseArtifact":
                self.used.append(values)
                return {"useArtifact": {"artifact": {"id": "A"}}}
        return {}


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    kept = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            try:
                body = json.loads(content)
            except ValueError:  # a file or a measurement
                body = {}
            while self.command == "POST" and not kept.answers:
                time.sleep(0.1)
            reply = json.dumps(kept.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_POST = do_PUT = do_GET

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_):  # a client that has ended
            pass

    server = Server(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The address of one that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
