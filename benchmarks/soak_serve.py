"""Half an hour of mixed load on the server: python benchmarks/soak_serve.py [--minutes 30] [--model smollm2_135m]

Eight clients ask completions, chats and HELM's requests in all decodings, some streamed, and compare each answer with
the one that the server gave to the same request alone; others hang up, send broken bodies and prompts that are too
long. Half-way, SIGTERM comes in the middle of it and the server is started again. At the end one JSON line says what
was answered, what differed, how memory moved, and whether a thread hangs; the exit status is 1 if anything is wrong.
What the servers print, tracebacks among it, is in outputs/soak_serve.log.
"""

import argparse
import atexit
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import psutil

from effchal.serving.ready import is_ready

ROOT = Path(__file__).resolve().parents[1]
PORT = 8766
URL = f"http://127.0.0.1:{PORT}"
LOG = ROOT / "outputs" / "soak_serve.log"  # of the servers
CLIENTS = 8
TIE = 1e-4  # two tokens whose log-probabilities are closer may change places
GROWTH_ALLOWED = 0.03
TOPICS = [
    "the sea",
    "a small town",
    "prime numbers",
    "bread",
    "the year 1900",
    "rivers of Asia",
    "chess",
    "light",
]


def requests_to_repeat() -> list[tuple[str, dict]]:
    """Bodies whose answers can be foretold: greedy, DoLa, SLED, seeded samples; short and long, several prompts."""
    shared = "Answer in one sentence, and only with what you are sure of.\n\n" * 6
    dola = {"method": "dola", "premature_layers": "high"}
    sled = {"method": "sled", "premature_layers": "low"}
    found: list[tuple[str, dict]] = []
    for i, topic in enumerate(TOPICS):
        text = f"{shared}Question: what is known about {topic}?\nAnswer:"
        found += [
            (
                "/v1/completions",
                {"prompt": text, "max_tokens": 8 + 5 * i, "temperature": 0, "logprobs": 2},
            ),
            (
                "/v1/completions",
                {
                    "prompt": text[-60:],
                    "max_tokens": 20,
                    "temperature": 0,
                    "decoding": dola,
                    "logprobs": 0,
                },
            ),
            (
                "/v1/completions",
                {"prompt": [text, topic], "max_tokens": 12, "decoding": sled, "logprobs": 0},
            ),
            (
                "/v1/completions",
                {"prompt": topic * 20, "max_tokens": 0, "echo": True, "logprobs": 1},
            ),
            (
                "/v1/completions",
                {
                    "prompt": topic,
                    "max_tokens": 25,
                    "n": 2,
                    "temperature": 0.7,
                    "seed": i,
                    "logprobs": 0,
                },
            ),
            (
                "/process",
                {
                    "prompt": text * (1 + i % 4),
                    "max_new_tokens": 30,
                    "stop_sequences": ["\n\n", "."],
                },
            ),
            (
                "/v1/chat/completions",
                {
                    "messages": [{"role": "user", "content": topic}],
                    "max_tokens": 30,
                    "temperature": 0,
                    "logprobs": True,
                },
            ),
        ]
    return found


def post(path: str, body: object, timeout_s: float = 900) -> dict:
    request = urllib.request.Request(URL + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return json.load(response)


def fill_cache() -> None:
    """Touch all the memory that rows may take, so that what grows afterwards is a leak: serve.max_rows answers that
    part at once, as long as serve.cache_gib lets them be."""
    sampled = {"temperature": 2.0, "n": 16, "seed": 0, "max_tokens": 120}
    post("/v1/completions", {"prompt": "What is known about light? " * 95, **sampled})


def tokens_of(answer: dict) -> list[list[tuple[str, float]]]:
    """(text, log-probability) of every token of every choice."""
    if "choices" not in answer:
        return [[(token["text"], token["logprob"]) for token in answer["tokens"]]]
    rows = []
    for choice in answer["choices"]:
        told = choice["logprobs"]
        if "content" in told:
            rows.append([(token["token"], token["logprob"]) for token in told["content"]])
        else:
            rows.append(
                [
                    (text, value or 0.0)
                    for text, value in zip(told["tokens"], told["token_logprobs"], strict=True)
                ]
            )
    return rows


def compare(found: dict, expected: dict) -> str:
    """`equal`, `tie` or `wrong`."""
    verdict = "equal"
    for mine, theirs in zip(tokens_of(found), tokens_of(expected), strict=True):
        for (text, value), (wanted, logprob) in zip(mine, theirs, strict=False):
            if text != wanted:
                if abs(value - logprob) > TIE:
                    return "wrong"
                verdict = "tie"
                break
            if abs(value - logprob) > 1e-2:
                return "wrong"
        else:
            if len(mine) != len(theirs):
                return "wrong"
    return verdict


def streamed_text(path: str, body: dict) -> str:
    request = urllib.request.Request(URL + path, json.dumps(body | {"stream": True}).encode())
    text = ""
    with urllib.request.urlopen(request, timeout=900) as response:
        for line in response:
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return text


def hang_up(draw: random.Random) -> None:
    """Ask for much, read a little or nothing, and go."""
    body = {
        "prompt": "Once upon a time",
        "max_tokens": 500,
        "temperature": 1.0,
        "stream": draw.random() < 0.5,
    }
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        connection.sendall(head + data[: len(data) if draw.random() < 0.8 else 20])
        time.sleep(draw.random())


def send_garbage(draw: random.Random) -> None:
    """Every one of these is the client's fault and is told so."""
    bodies = [
        *(b"", b"{", b"[]", b"\xff" * 100, b'{"prompt": 5}', b"[" * 50_000),
        b'{"prompt": "x", "max_tokens": -1, "max_new_tokens": -1}',  # OpenAI's name and HELM's
        *(
            json.dumps({"prompt": "word " * 20_000}).encode(),
            b'{"messages": [{"role": "user"}]}',
            b'{"tokens": [-1]}',
        ),
    ]
    path = draw.choice(["/process", "/v1/completions", "/v1/chat/completions", "/decode"])
    try:
        urllib.request.urlopen(urllib.request.Request(URL + path, draw.choice(bodies)), timeout=60)
        raise AssertionError("garbage was answered")
    except urllib.error.HTTPError as error:
        if error.code not in (400, 413):
            raise AssertionError(f"garbage got {error.code}") from error


class Server:
    """Ours, in a process of its own."""

    def __init__(self, model: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        command = [
            *(sys.executable, "-m", "effchal.serve", f"model={model}", "prompt=plain", "lora=none"),
            *(
                f"serve.port={PORT}",
                f"hydra.run.dir={self.folder.name}",
                "serve.allow_decoding_override=true",
            ),
            *(
                "serve.prefix_gib=0.1",
                "serve.cache_gib=0.5",
                "serve.max_prompt_tokens=2000",
                "model.dtype=float32",
            ),
        ]
        with LOG.open("a") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log)
        atexit.register(self.process.terminate)
        while True:
            try:
                urllib.request.urlopen(f"{URL}/ready", timeout=5)
                break
            except OSError:
                if self.process.poll() is not None:
                    raise
                time.sleep(0.2)
        self.worker = psutil.Process(self.process.pid).children()[0]

    def memory_mib(self) -> float:
        return self.worker.memory_info().rss / 2**20

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=600)


class Load:
    """Eight clients until told to stop."""

    def __init__(self, repeated: list[tuple[str, dict]], expected: list[dict]) -> None:
        self.counts, self.faults = Counter(), []
        self._repeated, self._expected = repeated, expected
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._client, args=(seed,), daemon=True)
            for seed in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=600)
        if any(thread.is_alive() for thread in self._threads):
            self.faults.append("a client still waits")

    def _client(self, seed: int) -> None:
        draw = random.Random(time.time_ns() + seed)
        while not self._stopping.is_set():
            what = self._guarded(draw)
            with self._lock:
                self.counts[what] += 1

    def _guarded(self, draw: random.Random) -> str:
        try:
            return self._one(draw)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                self.faults.append(f"{error.code}: {error.read()[:200]!r}")
            return str(error.code)
        except (
            OSError
        ) as error:  # refused or cut off: allowed while the server goes down, a fault otherwise
            if not self._stopping.is_set():
                self.faults.append(repr(error))
            return "refused"
        except Exception as error:
            self.faults.append(repr(error))
            return "fault"

    def _one(self, draw: random.Random) -> str:
        dice = draw.random()
        if dice < 0.08:
            hang_up(draw)
            return "hang-up"
        if dice < 0.2:
            send_garbage(draw)
            return "garbage refused"
        number = draw.randrange(len(self._repeated))
        (path, body), expected = self._repeated[number], self._expected[number]
        if (
            dice < 0.35
            and path != "/process"
            and body.get("n", 1) == 1
            and not isinstance(body.get("prompt"), list)
        ):
            choice = expected["choices"][0]
            wanted = choice["text"] if "text" in choice else choice["message"]["content"]
            if streamed_text(path, body) != wanted:
                # A tie shows only in log-probabilities: ask again for them.
                return self._judge(compare(post(path, body), expected), path, body)
            return "equal stream"
        return self._judge(compare(post(path, body), expected), path, body)

    def _judge(self, verdict: str, path: str, body: dict) -> str:
        if verdict == "wrong":
            self.faults.append(f"wrong answer: {path} {json.dumps(body)[-200:]}")
        return verdict


def run_phase(server: Server, load: Load, seconds: float) -> list[float]:
    """MiB of the server's memory, once a second."""
    memory = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(1)
        memory.append(server.memory_mib())
    return memory


def by_fifths(memory: list[float]) -> list[float]:
    """Means of the samples; the first fifth is warming up."""
    fifth = len(memory) // 5
    return [round(statistics.mean(memory[i * fifth : (i + 1) * fifth]), 1) for i in range(5)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", default="smollm2_135m", help="one that holds 2,000 tokens")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes: at least 1")
    os.environ["NO_PROXY"] = "127.0.0.1"
    if is_ready(URL):
        parser.error(f"a server answers at {URL} already; end it first")
    LOG.parent.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that the server ends with this script
    server = Server(options.model)
    fill_cache()
    repeated = requests_to_repeat()
    expected = [post(path, body) for path, body in repeated]  # alone, one after the other
    counts, faults, memory_mib, exits = Counter(), [], [], []
    for last in (False, True):
        load = Load(repeated, expected)
        memory_mib.append(by_fifths(run_phase(server, load, options.minutes * 30)))
        if last:
            load.stop()
            time.sleep(2)
            text = urllib.request.urlopen(f"{URL}/metrics", timeout=60).read().decode()
            if (
                "effchal_queue_depth 0.0" not in text
                or post("/process", {"prompt": "x", "max_new_tokens": 2}) is None
            ):
                load.faults.append("the queue is not empty")
            exits.append(server.stop())
        else:
            load._stopping.set()  # from here on a refused connection is no fault
            exits.append(server.stop())
            load.stop()
            server = Server(options.model)
            fill_cache()
            for path, body in repeated:  # memory is compared after warming up
                post(path, body)
        counts += load.counts
        faults += load.faults
    grown = [round(mib[-1] / mib[1] - 1, 4) for mib in memory_mib]
    result = {
        "minutes": options.minutes,
        **dict(counts),
        "memory_growth": grown,
        "memory_mib_by_fifths": memory_mib,
    }
    result |= {"exit_codes": exits, "faults": faults[:10]}
    print("RESULT", json.dumps(result))
    return int(bool(faults) or any(exits) or max(grown) > GROWTH_ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
