"""Half an hour of mixed load on the server: python benchmarks/soak_serve.py [--minutes 30]

Eight clients send completions, chats and HELM's requests in all decodings, some streamed.
They compare each answer with the server's answer to the same request alone. Others hang up,
or send broken bodies and prompts that are too long. Half-way, SIGTERM comes in the middle of
it, and the server is started again.

The one JSON line at the end tells what was answered, what differed, how memory moved, and
whether a thread hangs. The exit status is 1 if anything is wrong. The servers' output, with
tracebacks, is in outputs/soak_serve.log.
"""

import argparse
import signal
import statistics
import sys
import time
from collections import Counter

from common import ROOT, print_result
from server_process import ServerProcess
from soak_load import Load, requests_to_repeat

PORT = 8766
LOG = ROOT / "outputs" / "soak_serve.log"
GROWTH_ALLOWED = 0.03


def start(model: str) -> ServerProcess:
    """A server that has touched all the memory its rows may take; more growth is a leak."""
    server = ServerProcess(
        model,
        PORT,
        "serve.allow_decoding_override=true",
        "serve.prefix_gib=0.1",
        "serve.cache_gib=0.5",
        "serve.max_prompt_tokens=2000",
        "model.dtype=float32",
        log=LOG,
    )
    # serve.max_rows samples that differ at once, as long as serve.cache_gib allows.
    sampled = {"temperature": 2.0, "n": 16, "seed": 0, "max_tokens": 120}
    server.post("/v1/completions", {"prompt": "What is known about light? " * 95, **sampled})
    return server


def watch_memory(server: ServerProcess, seconds: float) -> list[float]:
    """MiB of the server once a second, as means of five equal spans. The first warms up."""
    samples = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(1)
        samples.append(server.memory_mib())
    fifth = len(samples) // 5
    return [round(statistics.mean(samples[i * fifth : (i + 1) * fifth]), 1) for i in range(5)]


def check_idle(server: ServerProcess) -> list[str]:
    """What is wrong with a server whose clients have gone."""
    time.sleep(2)
    empty = "effchal_queue_depth 0.0" in server.get("/metrics")
    answers = server.post("/process", {"prompt": "x", "max_new_tokens": 2})
    return [] if empty and answers is not None else ["the queue is not empty"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", default="smollm2_135m", help="one that holds 2,000 tokens")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes: at least 1")
    LOG.parent.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    # Exit in the ordinary way, so that the server ends with this script.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    half_s = options.minutes * 30
    repeated = requests_to_repeat()

    server = start(options.model)
    expected = [server.post(path, body) for path, body in repeated]  # alone, one after the other
    first = Load(server, repeated, expected)
    memory_mib = [watch_memory(server, half_s)]
    first.allow_refusals()
    exits = [server.stop()]
    first.stop()

    server = start(options.model)
    for path, body in repeated:  # memory is compared after warming up
        server.post(path, body)
    second = Load(server, repeated, expected)
    memory_mib.append(watch_memory(server, half_s))
    second.stop()
    faults = first.faults + second.faults + check_idle(server)
    exits.append(server.stop())

    counts: Counter[str] = first.counts + second.counts
    grown = [round(mib[-1] / mib[1] - 1, 4) for mib in memory_mib]
    result = {"minutes": options.minutes, **counts, "memory_growth": grown}
    result |= {"memory_mib_by_fifths": memory_mib, "exit_codes": exits, "faults": faults[:10]}
    print_result(result)
    return int(bool(faults) or any(exits) or max(grown) > GROWTH_ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
