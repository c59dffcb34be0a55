"""Malformed bodies on every route: python benchmarks/fuzz_serve.py --st <its environment>/bin/st [--examples 500]

Schemathesis (pip install schemathesis, in an environment of its own) reads the /openapi.json of a server of the tiny
model and sends what breaks it, and methods that no route has (405). It fails where another answer is undocumented in
status, type or shape; this script, where one is 500. One RESULT line: answers by status, by the server's own count.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path

from effchal.serving.ready import free_port, wait_ready

ROOT = Path(__file__).resolve().parents[1]
CHECKS = [
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--st", required=True, help="schemathesis' command line")
    parser.add_argument("--examples", type=int, default=500, help="at most, a route")
    parser.add_argument("--mode", choices=["negative", "positive", "all"], default="negative")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "effchal.serve", "model=tiny", "prompt=plain", "lora=none"),
            *(
                f"serve.port={port}",
                f"hydra.run.dir={folder}",
                "serve.allow_decoding_override=true",
            ),
        ]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            if trouble := wait_ready(url, 120, lambda: server.poll() is None):
                sys.exit(f"error: {trouble}")
            options = ["--checks", ",".join(CHECKS), "--mode", args.mode, "-n", str(args.examples)]
            options += [
                "--seed",
                str(args.seed),
                "--continue-on-failure",
                "--no-shrink",
                "--no-color",
            ]
            conforms = (
                subprocess.run(
                    [args.st, "run", f"{url}/openapi.json", *options], cwd=folder
                ).returncode
                == 0
            )
            told = answers(url)
        finally:
            server.terminate()
            stopped = server.wait(timeout=60)
    print("RESULT", json.dumps({"answers": told, "conforms": conforms, "exit": stopped}))
    sys.exit(not conforms or "500" in told or stopped != 0)


def answers(url: str) -> dict[str, int]:
    """By status, /metrics and its like aside."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        text = response.read().decode()
    found = re.findall(r'effchal_requests_total\{path="(.*?)",status="(\d+)"\} ([\d.e+]+)', text)
    counts: Counter[str] = Counter()
    for path, status, count in found:
        if path not in ("/ready", "/metrics"):
            counts[status] += int(float(count))
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    main()
