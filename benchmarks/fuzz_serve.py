"""Malformed bodies on every route: python benchmarks/fuzz_serve.py --st <its environment>/bin/st

Schemathesis (pip install schemathesis, in an environment of its own) reads the /openapi.json
of a server of the tiny model. It sends bodies that break the document, and methods that no
route has (405). It fails where an answer's status, type or shape is not documented. This
script also fails where an answer is a 500. The RESULT line counts answers by status, as the
server counts them.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter

from server_process import ServerProcess

from effchal.serving.ready import free_port

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
    server = ServerProcess("tiny", free_port(), "serve.allow_decoding_override=true")
    command = [args.st, "run", f"{server.url}/openapi.json", "--checks", ",".join(CHECKS)]
    command += ["--mode", args.mode, "-n", str(args.examples), "--seed", str(args.seed)]
    command += ["--continue-on-failure", "--no-shrink", "--no-color"]
    with tempfile.TemporaryDirectory() as folder:
        conforms = subprocess.run(command, cwd=folder).returncode == 0
    counts = answers_by_status(server.get("/metrics"))
    stopped = server.stop()
    print("RESULT", json.dumps({"answers": counts, "conforms": conforms, "exit": stopped}))
    sys.exit(not conforms or "500" in counts or stopped != 0)


def answers_by_status(metrics: str) -> dict[str, int]:
    """Counts of GET /metrics, without those of /ready and /metrics."""
    found = re.findall(r'effchal_requests_total\{path="(.*?)",status="(\d+)"\} ([\d.e+]+)', metrics)
    counts: Counter[str] = Counter()
    for path, status, count in found:
        if path not in ("/ready", "/metrics"):
            counts[status] += int(float(count))
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    main()
