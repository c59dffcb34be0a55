"""Random requests beside clients that must not notice: python benchmarks/fuzz_serve.py

The server serves two random models in turn, each with a beginning-of-sequence token: one
with a padded vocabulary, and one whose tokenizer has more tokens than the embedding. Random
requests go to all routes, texts as long as a body may be and decoding overrides among them.
Eight other clients compare each answer with the one that they got alone.

The RESULT line gives the answers by status, and the longest pause between two tokens of a
stream with random requests and without. The exit status is 1 if an answer is a 500 or none,
if a client's answer is different or failed, or if a pause is longer than --pause. The pauses
mean something on an idle machine only: compare the two. Random requests are sent by processes
of the lowest priority, since making them must not keep a processor core from the server.

    python benchmarks/fuzz_serve.py --count 3000 --seed 1
    python benchmarks/fuzz_serve.py --st <its environment>/bin/st

With --st, schemathesis (pip install schemathesis, in an environment of its own) reads the
/openapi.json of a server of the tiny model instead. It sends bodies that break the document,
and methods that no route has, and fails where an answer's status, type or shape is not
documented.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import print_result
from fuzz_bodies import FuzzRequest, fuzz_request
from fuzz_neighbours import Neighbours
from server_process import ServerProcess

from effchal.serving.ready import free_port

CHECKS = [
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
]
FUZZERS = 2  # random requests at once
CLIENTS = 8
RIGHT = {200, 400, 413, 503, 504}
ALLOW = "serve.allow_decoding_override=true"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000, help="random requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.3, help="longest one allowed, in seconds")
    parser.add_argument("--quiet", type=float, default=5, help="seconds before the first of them")
    parser.add_argument("--nice", type=int, default=19, help="of the processes that make them")
    parser.add_argument("--st", help="schemathesis' command line, to run it instead")
    parser.add_argument("--examples", type=int, default=500, help="with --st: at most, a route")
    parser.add_argument("--mode", choices=["negative", "positive", "all"], default="negative")
    args = parser.parse_args()
    if args.st:
        sys.exit(run_schemathesis(args))
    from odd_models import OVERLONG, PADDED  # torch: the processes that send do without it

    results = {}
    for number, kind in enumerate([PADDED, OVERLONG]):
        count = args.count // 2 + (args.count % 2 if number == 0 else 0)
        results[kind] = fuzz(kind, args.seed + number, count, args.quiet, args.nice)
        print(kind, json.dumps(results[kind]), flush=True)
    worst = max(result["longest_pause_s"] for result in results.values())
    faults = [fault for result in results.values() for fault in result["faults"]]
    stopped = [result["exit"] for result in results.values()]
    answers: Counter[str] = Counter()
    for result in results.values():
        answers.update(result["answers"])
    summary = {"seed": args.seed, "requests": args.count, "answers": dict(sorted(answers.items()))}
    quiet = max(result["without_fuzz_s"] for result in results.values())
    summary |= {
        "longest_pause_s": worst,
        "without_fuzz_s": quiet,
        "faults": len(faults),
        "exit": stopped,
    }
    print_result(summary)
    sys.exit(bool(faults) or any(stopped) or worst > args.pause)


@dataclass(frozen=True)
class Outcome:
    """What came of one random request."""

    shown: str
    began: float  # time.monotonic
    ended: float
    status: str
    fault: str | None


def fuzz(kind: str, seed: int, count: int, quiet_s: float, nice: int) -> dict:
    """Send `count` random requests to a server of one odd model, with clients beside them."""
    from odd_models import odd_model

    with tempfile.TemporaryDirectory() as folder:
        model = odd_model(kind, Path(folder) / "model")
        log = Path(folder) / "log"
        server = ServerProcess("tiny", free_port(), f"model.name={model}", ALLOW, log=log)
        numbers = range(seed * 1_000_000, seed * 1_000_000 + count)
        with fuzzers(nice) as pool:
            list(pool.map(wait_briefly, range(FUZZERS)))  # they have begun
            neighbours = Neighbours(server.url, CLIENTS)
            quiet = time.monotonic()
            time.sleep(quiet_s)
            start = time.monotonic()
            outcomes = list(pool.map(partial(send, server.url), numbers))
        end = time.monotonic()
        report = neighbours.stop()
        pause_s, at = report.longest_pause(start, end)
        during = [o.shown for o in outcomes if o.began < at and o.ended > at - pause_s]
        faults = [f"{each.fault}: {each.shown}" for each in outcomes if each.fault]
        result = {
            "seconds": round(end - start, 1),
            "answers": dict(sorted(Counter(each.status for each in outcomes).items())),
            "clients_answers": report.answers,
            "longest_pause_s": round(pause_s, 3),
            "during_it": [shown[:150] for shown in during[:3]],
            "without_fuzz_s": round(report.longest_pause(quiet, start)[0], 3),
            "pauses": len(report.pauses),
            "faults": [*faults, *report.faults],
            "exit": server.stop(),
        }
        if "the engine failed" in log.read_text():
            result["faults"].append("the engine failed: see its log")
    return result


def fuzzers(nice: int) -> ProcessPoolExecutor:
    """At 19, processes that compute only while the server and its clients leave a core alone."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(FUZZERS, context, os.nice, (nice,))


def wait_briefly(_: int) -> None:
    time.sleep(0.5)


def send(url: str, number: int) -> Outcome:
    """Send the random request of this number."""
    request = fuzz_request(random.Random(number))
    began = time.monotonic()
    status, fault = status_and_fault(url, request)
    shown = f"{number} {request.path} {len(request.data)} bytes {request.data[:300]!r}"
    return Outcome(shown, began, time.monotonic(), status, fault)


def status_and_fault(url: str, request: FuzzRequest) -> tuple[str, str | None]:
    """Status of the answer, and what is wrong with it."""
    try:
        sent = urllib.request.Request(url + request.path, request.data)
        with urllib.request.urlopen(sent, timeout=300) as response:
            status, data, kind = response.status, response.read(), response.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        status, data, kind = error.code, error.read(), error.headers["Content-Type"]
    except OSError as error:
        return "none", repr(error)
    if status not in RIGHT:
        return str(status), f"{status} {data[:200]!r}"
    if kind.startswith("text/event-stream"):
        return str(status), repr(data[-300:]) if b'"server_error"' in data else None
    if kind != "application/json":
        return str(status), f"Content-Type {kind}"
    try:
        json.loads(data, parse_constant=not_json)
    except ValueError as error:
        return str(status), f"{error!r} {data[:200]!r}"
    return str(status), None


def not_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def run_schemathesis(args: argparse.Namespace) -> bool:
    """Whether something was wrong."""
    server = ServerProcess("tiny", free_port(), ALLOW)
    command = [args.st, "run", f"{server.url}/openapi.json", "--checks", ",".join(CHECKS)]
    command += ["--mode", args.mode, "-n", str(args.examples), "--seed", str(args.seed)]
    command += ["--continue-on-failure", "--no-shrink", "--no-color"]
    with tempfile.TemporaryDirectory() as folder:
        conforms = subprocess.run(command, cwd=folder).returncode == 0
    counts = answers_by_status(server.get("/metrics"))
    stopped = server.stop()
    print_result({"answers": counts, "conforms": conforms, "exit": stopped})
    return not conforms or "500" in counts or stopped != 0


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
