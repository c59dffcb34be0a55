"""Clients beside a fuzz: each answer is compared with the one that it got alone."""

import itertools
import json
import multiprocessing
import random
import threading
import time
import urllib.request
from dataclasses import dataclass, field

from soak_load import compare, requests_to_repeat

PATIENCE_S = 300
MOST_FAULTS = 20


def ask(url: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        return json.load(response)


@dataclass
class Report:
    """What the clients saw."""

    answers: int = 0
    # Between two tokens of a stream: when it ended (time.monotonic), and how long it was.
    pauses: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # different or failed answers

    def longest_pause(self, start: float, end: float) -> tuple[float, float]:
        """Seconds of the longest pause that ended between two times, and when it ended."""
        return max(((s, at) for at, s in self.pauses if start <= at < end), default=(0.0, 0.0))


class Neighbours:
    """Clients in a process of their own, so that nothing but the server holds them up."""

    def __init__(self, url: str, clients: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._began = context.Event(), context.Event()
        self._reports = context.Queue()
        arguments = (url, clients, self._began, self._stop, self._reports)
        self._process = context.Process(target=run_clients, args=arguments, daemon=True)
        self._process.start()
        if not self._began.wait(PATIENCE_S):
            raise RuntimeError("the clients got no answers alone")

    def stop(self) -> Report:
        self._stop.set()
        report: Report = self._reports.get(timeout=PATIENCE_S)
        self._process.join()
        return report


def run_clients(url: str, clients: int, began, stop, reports) -> None:
    repeated = requests_to_repeat()
    # Alone: one after the other, before anything else is sent.
    alone = [ask(url, path, body) for path, body in repeated]
    report, lock = Report(), threading.Lock()

    def client(seed: int) -> None:
        draw = random.Random(seed)
        while not stop.is_set() and len(report.faults) < MOST_FAULTS:
            number = draw.randrange(len(repeated))
            pauses, fault = one_answer(url, *repeated[number], alone[number])
            with lock:
                report.answers += 1
                report.pauses += pauses
                report.faults += [fault] if fault else []

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    began.set()
    for thread in threads:
        thread.join()
    reports.put(report)


def one_answer(
    url: str, path: str, body: dict, alone: dict
) -> tuple[list[tuple[float, float]], str | None]:
    """Pauses between the tokens of a stream, and what is wrong with the answer."""
    pauses: list[tuple[float, float]] = []
    try:
        one = body.get("n", 1) == 1 and isinstance(body.get("prompt", ""), str)
        if one and path != "/process":
            pauses, found = streamed(url, path, body)
            choice = alone["choices"][0]
            wanted = choice["text"] if "text" in choice else choice["message"]["content"]
            if found == wanted:
                return pauses, None
            # Two tokens may be as good as equal; log-probabilities, in a whole answer, show it.
        verdict = compare(ask(url, path, body), alone)
        return pauses, f"different: {path} {body}" if verdict == "wrong" else None
    except Exception as error:
        return pauses, f"failed: {path} {error!r}"


def streamed(url: str, path: str, body: dict) -> tuple[list[tuple[float, float]], str]:
    """Pauses between the tokens of a stream, and its text."""
    data = json.dumps(body | {"stream": True}).encode()
    times, found = [], ""
    with urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=300) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            now = time.monotonic()
            (choice,) = json.loads(line[6:])["choices"]
            text = choice.get("text") or choice.get("delta", {}).get("content") or ""
            # A chat begins with an event without a token, before it waits in the queue.
            if text:
                times.append(now)
                found += text
    return [(later, later - sooner) for sooner, later in itertools.pairwise(times)], found
