"""A stand-in for the hub's upload API on this machine: it keeps what it gets in memory."""

import base64
import http.server
import json
import threading


class UploadHub:
    """Use as a context manager. `files` maps repo and path to bytes."""

    def __init__(self):
        self.files, self.private, self.commits = {}, {}, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self.send_error(404)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != "Bearer a-token":
                    return self.send_error(401)
                answer = json.dumps(hub.answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path, body):
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.private[name] = asked.get("private", asked.get("visibility") == "private")
            return {"url": f"{self.url}/{name}"}
        if path.endswith("/preupload/main"):
            return {
                "files": [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                ]
            }
        if path.endswith("/commit/main"):
            repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[repo, line["value"]["path"]] = content
                elif line["key"] == "header":
                    self.commits.append(line["value"]["summary"])
            return {"commitUrl": f"{self.url}/{repo}/commit/1", "commitOid": "1"}
        return {"errors": [], "warnings": []}  # of the card
