"""A small server that speaks the protocol, and breaks a rule of it where a fault is switched on.

There is no model: answers are a story, from its beginning where they are greedy.
"""

import json
import math
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.faulty_story import Refused, Story
from support.story import BOS, EOS, FIRST_BYTE, IDS, STORY, encode, logprob, spelled, texts, top

LONGEST = 20_000  # characters of a prompt
BOUND = 40  # requests at once
KINDS = {"prompt": str, "temperature": float, "max_new_tokens": int, "top_p": float}
KINDS |= {"top_k_per_token": int, "stop_sequences": list, "echo_prompt": bool}
KINDS |= {"num_return_sequences": int, "num_samples": int, "top_k": int, "seed": int}


class Faulty(ThreadingHTTPServer):
    """`fault` names the one that is on; `seconds` is what a long generation takes."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self):
        self.fault, self.seconds = "", 0.0
        self.one_at_a_time, self.counting = threading.Lock(), threading.Lock()
        self.running = self.answered = 0
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Answer(Story, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet; else each waits 40 ms for the other

    def has(self, fault):
        return self.server.fault == fault

    def do_GET(self):
        self.route(
            {"/health": self.health, "/ready": self.ready, "/metrics": self.metrics}
            | {"/v1/models": self.models, "/tokenizer_info": self.tokenizer_info}
        )

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        routes = {"/process": self.process, "/tokenize": self.tokenize, "/decode": self.decode}
        routes |= {"/v1/completions": self.completions, "/detokenize": self.detokenize}
        self.route({path: partial(self.view, view, data) for path, view in routes.items()})

    def view(self, view, data):
        return view(self.body_of(data))

    def route(self, routes):
        self.start = time.perf_counter()
        try:
            if self.server.fault.endswith(" for all"):
                raise Refused(int(self.server.fault[:3]))
            if self.path not in routes or self.has(f"no {self.path}"):
                raise Refused(404)
            if self.has("one at a time"):
                with self.server.one_at_a_time:
                    answer = routes[self.path]()
            else:
                answer = routes[self.path]()
            if answer is not None:
                self.send(200, answer)
        except Refused as refused:
            error = {"error": {"message": str(refused), "field": None}}
            error = {"detail": "wrong"} if self.has("errors of another form") else error
            self.send(refused.status, error)

    def send(self, status, answer, kind="application/json"):
        content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == 503 and not self.has("no Retry-After"):
            self.send_header("Retry-After", "10")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass

    def body_of(self, data):
        status = 422 if self.has("422") else 400
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused(status) from None
        if not isinstance(body, dict):
            raise Refused(status)
        numbers = ("temperature", "top_p")  # 1 is one, too
        body |= {key: float(body[key]) for key in numbers if type(body.get(key)) is int}
        kinds = KINDS if self.path == "/process" else {}
        wrong = [key for key, kind in kinds.items() if not isinstance(body.get(key, kind()), kind)]
        if wrong or ("prompt" in kinds and "prompt" not in body):
            raise Refused(status)
        for key in ("temperature", "max_new_tokens"):
            if not 0 <= body.get(key, 0) < 1e6:
                raise Refused(status, key)
        return body

    def seconds(self):
        if self.has("token id as time"):
            return encode(STORY)[-1]
        return time.perf_counter() - self.start

    # What is around

    def health(self):
        return {"status": "ok"}

    def ready(self):
        if self.has("not ready"):
            raise Refused(503)
        return {"status": "ready"}

    def metrics(self):
        if self.has("metrics as JSON"):
            return {"requests": self.server.answered}
        count = self.server.answered
        lines = ["# TYPE requests counter", f'requests_total{{path="/process"}} {count}']
        lines += ["# TYPE seconds histogram", 'seconds_bucket{le="+Inf"} 1', ""]
        self.send(200, "\n".join(lines), "text/plain")

    def models(self):
        return {"data": [{"id": "story"}]}

    def tokenizer_info(self):
        return {"eos_token": "</s>", "bos_token": "<s>", "chat_template": ""}

    # The tokenizer

    def tokenize(self, body):
        name = next((each for each in ("text", "prompt", "content") if each in body), None)
        if name is None or not isinstance(body[name], str):
            raise Refused(422 if self.has("422") else 400)
        ids = encode(body[name])
        if name == "prompt" and body[name] in ("<s>", "</s>"):
            ids = [BOS if body[name] == "<s>" else EOS]
        if self.has("prefix token is special") and body[name] == "<|endoftext|>":
            ids = [EOS]
        if self.has("BOS added") or (self.has("BOS with prompt") and name == "prompt"):
            ids = [BOS, *ids]
        most = body.get("max_length", 2048)
        if not isinstance(most, int) or most < 0:
            raise Refused(400)
        if body.get("truncation") and not self.has("truncation ignored"):
            ids = ids[: most - self.has("BOS counted")]
        tokens = texts(ids) if self.has("tokens as texts") else ids
        return {"tokens": tokens, "request_time": self.seconds()}

    def decode(self, body):
        keep = self.has("special decoded")
        text = self.text_of(body, keep)
        text = text.replace("  ", " ") if self.has("decode cleans up") else text
        return {"text": text, "request_time": self.seconds()}

    def detokenize(self, body):
        return {"prompt": self.text_of(body, keep=True)}

    def text_of(self, body, keep):
        ids = body.get("tokens")
        if not isinstance(ids, list) or not all(each in IDS for each in ids):
            raise Refused(400)
        kept = [each for each in ids if keep or each >= FIRST_BYTE]
        return b"".join(map(spelled, kept)).decode("utf-8", "replace")

    # Generation

    def process(self, body):
        with self.server.counting:
            self.server.running += 1
            self.server.answered += 1
        try:
            return self.processed(body)
        finally:
            with self.server.counting:
                self.server.running -= 1

    def check_process(self, body):
        if self.server.running > (2 if self.has("busy") else BOUND):
            raise Refused(503)
        unknown = set(body) - set(KINDS) and self.has("unknown keys refused")
        older = "num_samples" in body and self.has("older names refused")
        eight = "echo_prompt" in body and self.has("HELM's keys refused")
        alone = "max_new_tokens" not in body and self.has("max_new_tokens wanted")
        if unknown or older or eight or alone:
            raise Refused(400)
        if len(body["prompt"]) > LONGEST:
            raise Refused(400 if self.has("400 for too long") else 413)
        if len(body["prompt"]) > 4000 and self.has("short window"):
            raise Refused(413)
        try:
            body["prompt"].encode()
        except UnicodeEncodeError:
            raise Refused(500 if self.has("500") else 400) from None

    def processed(self, body):
        self.check_process(body)
        count, new = body.get("top_k_per_token", 0), body.get("max_new_tokens", 16)
        greedy = body.get("temperature", 1.0) <= 1e-6 and not self.has("temperature ignored")
        greedy |= body.get("top_p", 1) < 0.01 and not self.has("top_p ignored")
        greedy |= count == 1 and self.has("alternatives sample")
        new += self.has("one token more") and new > 0
        new = 16 if new == 0 and self.has("no scoring") else new
        ids = self.generated(body["prompt"], new, greedy, body.get("seed"))
        stops = () if self.has("stops ignored") else body.get("stop_sequences", ())
        found = self.stopped(texts(ids), stops)
        uncut = texts(ids) if self.has("stops cut text alone") else found
        echo = body.get("echo_prompt") and not (new > 0 and self.has("no echo with an answer"))
        echoed = encode(body["prompt"]) if echo else []
        text = "".join([*texts(echoed), *found])
        tokens = [
            {"text": each, "logprob": logprob(i), "top_logprob": top(each, logprob(i), count)}
            for each, i in zip([*texts(echoed), *uncut], [*echoed, *ids], strict=False)
        ]
        if echoed:
            tokens[0]["logprob"] = -1.0 if self.has("first log-probability") else 0.0
        self.spoil(tokens, count)
        several = body.get("num_return_sequences", 1) > 1 and self.has("list of texts")
        answer = {"text": [text] if several else text, "logprob": -1.0, "tokens": tokens}
        if self.has("no logprob"):
            del answer["logprob"]
        return answer | {"request_time": self.seconds()}

    def spoil(self, tokens, count):
        for token in tokens:
            if self.has("tokens lose spaces"):
                token["text"] = token["text"].strip(" ")
            if self.has("minus infinity") and count == 5:
                token["top_logprob"]["~"] = -math.inf
            if self.has("too many alternatives"):
                token["top_logprob"] = top(token["text"], token["logprob"], 20)
