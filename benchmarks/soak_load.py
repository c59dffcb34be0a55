"""The clients of soak_serve.py: what they send, and how they judge the answers."""

import json
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

from server_process import ServerProcess

CLIENTS = 8
TIE = 1e-4  # two tokens whose log-probabilities are closer may change places
SAME = 1e-2  # log-probabilities of the same token in another batch
TOPICS = ["the sea", "a small town", "prime numbers", "bread", "the year 1900", "rivers of Asia"]
TOPICS += ["chess", "light"]
GREEDY = {"temperature": 0, "logprobs": 0}
GARBAGE = [b"", b"{", b"[]", b"\xff" * 100, b'{"prompt": 5}', b"[" * 50_000]
GARBAGE += [b'{"prompt": "x", "max_tokens": -1, "max_new_tokens": -1}']  # OpenAI's and HELM's name
GARBAGE += [json.dumps({"prompt": "word " * 20_000}).encode()]
GARBAGE += [b'{"messages": [{"role": "user"}]}', b'{"tokens": [-1]}']


def requests_to_repeat() -> list[tuple[str, dict]]:
    """Bodies whose answers do not change: greedy, DoLa, SLED, seeded samples."""
    shared = "Answer in one sentence, and only with what you are sure of.\n\n" * 6
    dola = {"method": "dola", "premature_layers": "high"}
    sled = {"method": "sled", "premature_layers": "low"}
    found: list[tuple[str, dict]] = []
    for i, topic in enumerate(TOPICS):
        text = f"{shared}Question: what is known about {topic}?\nAnswer:"
        completions = [
            GREEDY | {"prompt": text, "max_tokens": 8 + 5 * i, "logprobs": 2},
            GREEDY | {"prompt": text[-60:], "max_tokens": 20, "decoding": dola},
            {"prompt": [text, topic], "max_tokens": 12, "decoding": sled, "logprobs": 0},
            {"prompt": topic * 20, "max_tokens": 0, "echo": True, "logprobs": 1},
            GREEDY | {"prompt": topic, "max_tokens": 25, "n": 2, "temperature": 0.7, "seed": i},
        ]
        found += [("/v1/completions", body) for body in completions]
        helm = {"prompt": text * (1 + i % 4), "max_new_tokens": 30, "stop_sequences": ["\n\n", "."]}
        found.append(("/process", helm))
        chat = {"messages": [{"role": "user", "content": topic}], "max_tokens": 30}
        found.append(("/v1/chat/completions", chat | {"temperature": 0, "logprobs": True}))
    return found


def tokens_of(answer: dict) -> list[list[tuple[str, float]]]:
    """(text, log-probability) of every token of every choice."""
    if "choices" not in answer:
        return [[(token["text"], token["logprob"]) for token in answer["tokens"]]]
    rows = []
    for choice in answer["choices"]:
        logprobs = choice["logprobs"]
        if "content" in logprobs:
            rows.append([(token["token"], token["logprob"]) for token in logprobs["content"]])
        else:
            values = [value or 0.0 for value in logprobs["token_logprobs"]]
            rows.append(list(zip(logprobs["tokens"], values, strict=True)))
    return rows


def compare(found: dict, expected: dict) -> str:
    """`equal`, `tie` or `wrong`."""
    verdict = "equal"
    for mine, theirs in zip(tokens_of(found), tokens_of(expected), strict=True):
        for (text, value), (wanted, logprob) in zip(mine, theirs, strict=False):
            if abs(value - logprob) > (SAME if text == wanted else TIE):
                return "wrong"
            if text != wanted:
                verdict = "tie"
                break
        else:
            if len(mine) != len(theirs):
                return "wrong"
    return verdict


class Load:
    """Eight clients of a server, until `stop`."""

    def __init__(
        self, server: ServerProcess, repeated: list[tuple[str, dict]], expected: list[dict]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._server, self._repeated, self._expected = server, repeated, expected
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._client, args=(seed,), daemon=True)
            for seed in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def allow_refusals(self) -> None:
        """From here on a refused connection is no fault, and no request is begun."""
        self._stopping.set()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=600)
        if any(thread.is_alive() for thread in self._threads):
            self.faults.append("a client still waits")

    def _client(self, seed: int) -> None:
        draw = random.Random(time.time_ns() + seed)
        while not self._stopping.is_set():
            outcome = self._guarded(draw)
            with self._lock:
                self.counts[outcome] += 1

    def _guarded(self, draw: random.Random) -> str:
        try:
            return self._one(draw)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                self.faults.append(f"{error.code}: {error.read()[:200]!r}")
            return str(error.code)
        except OSError as error:  # refused or cut off: a fault unless the server goes down
            if not self._stopping.is_set():
                self.faults.append(repr(error))
            return "refused"
        except Exception as error:
            self.faults.append(repr(error))
            return "fault"

    def _one(self, draw: random.Random) -> str:
        dice = draw.random()
        if dice < 0.08:
            return self._hang_up(draw)
        if dice < 0.2:
            return self._send_garbage(draw)
        number = draw.randrange(len(self._repeated))
        (path, body), expected = self._repeated[number], self._expected[number]
        one_answer = body.get("n", 1) == 1 and not isinstance(body.get("prompt"), list)
        if dice < 0.35 and path != "/process" and one_answer:
            choice = expected["choices"][0]
            wanted = choice["text"] if "text" in choice else choice["message"]["content"]
            if self._streamed_text(path, body) == wanted:
                return "equal stream"
            # A tie shows only in log-probabilities: ask again for them.
        verdict = compare(self._server.post(path, body), expected)
        if verdict == "wrong":
            self.faults.append(f"wrong answer: {path} {json.dumps(body)[-200:]}")
        return verdict

    def _streamed_text(self, path: str, body: dict) -> str:
        data, text = json.dumps(body | {"stream": True}).encode(), ""
        request = urllib.request.Request(self._server.url + path, data)
        with urllib.request.urlopen(request, timeout=900) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        text += choice.get("text") or choice.get("delta", {}).get("content") or ""
        return text

    def _hang_up(self, draw: random.Random) -> str:
        """Ask for much, read a little or nothing, and go."""
        body = {"prompt": "Once upon a time", "max_tokens": 500, "temperature": 1.0}
        data = json.dumps(body | {"stream": draw.random() < 0.5}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        port = int(self._server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            sent = data if draw.random() < 0.8 else data[:20]
            connection.sendall(head.encode() + sent)
            time.sleep(draw.random())
        return "hang-up"

    def _send_garbage(self, draw: random.Random) -> str:
        """Each of these is the client's fault, and the server must say so."""
        path = draw.choice(["/process", "/v1/completions", "/v1/chat/completions", "/decode"])
        request = urllib.request.Request(self._server.url + path, draw.choice(GARBAGE))
        try:
            urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            if error.code in (400, 413):
                return "garbage refused"
            raise AssertionError(f"garbage got {error.code}") from error
        raise AssertionError("garbage was answered")
