"""Answers of the faulty server: its story, and what lm-eval and OpenAI clients ask."""

import itertools
import json
import random
import time

from support.story import STORY, encode, logprob, texts, top


class Refused(Exception):
    def __init__(self, status, message="wrong"):
        super().__init__(message)
        self.status = status


class Story:
    """The part of the handler that knows nothing of HTTP but `has` and `send`."""

    def generated(self, prompt, new, greedy, seed=None):
        """Ids of an answer."""
        if prompt.endswith("Answer:"):
            answer = " C\n\nQuestion: and so on" if self.has("letter goes on") else " C"
            return encode(answer)[:new]
        offset = 0 if greedy else 2 * random.Random(seed).randrange(len(STORY) // 2)
        ids = encode(STORY[offset:] + STORY * (new // 20 + 1))
        if new >= 32:
            time.sleep(self.server.seconds)
        return ids[:new]

    def stopped(self, found, stops):
        """Texts of tokens up to the first stop."""
        text = "".join(found)
        ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        if self.has("stops by token"):
            ends = [
                len("".join(found[:i])) + token.find(stop)
                for i, token in enumerate(found)
                for stop in stops
                if stop and stop in token
            ]
        cut, kept, at = min(ends, default=len(text)), [], 0
        for each in found:
            if at < cut:
                kept.append(each[: cut - at])
            at += len(each)
        return kept

    def completions(self, body):
        prompts = body.get("prompt")
        single = isinstance(prompts, str) or isinstance(prompts[0], int)
        if (isinstance(prompts, str) and self.has("no text as prompt")) or (
            isinstance(prompts[0], (int, list)) and self.has("no ids as prompt")
        ):
            raise Refused(400)
        prompts = [prompts] if single else prompts
        if isinstance(prompts[0], str) and self.has("first prompt alone"):
            prompts = prompts[:1]
        n = 1 if self.has("n ignored") else body.get("n", 1)
        choices = [self.choice(body, prompt, i) for i, prompt in enumerate(prompts * n)]
        if not body.get("stream"):
            return {"choices": choices}
        pieces = texts(encode(choices[0]["text"]))
        events = [json.dumps({"choices": [{"index": 0, "text": each}]}) for each in pieces]
        events += [] if self.has("no [DONE]") else ["[DONE]"]
        self.send(200, "".join(f"data: {each}\n\n" for each in events), "text/event-stream")

    def choice(self, body, prompt, index):
        prompt_ids = encode(prompt) if isinstance(prompt, str) else prompt
        temperature, v1 = body.get("temperature", 1.0), "of /v1 "
        greedy = temperature == 0 and not self.has(f"{v1}temperature ignored")
        greedy |= body.get("top_p", 1) < 0.01 and not self.has(f"{v1}top_p ignored")
        seed = None if self.has("seed ignored") or "seed" not in body else body["seed"] + index
        ids = self.generated("", body.get("max_tokens", 16), greedy, seed)
        stops = body.get("stop", [])
        stops = [stops] if isinstance(stops, str) else stops
        found = self.stopped(texts(ids), [] if self.has(f"{v1}stops ignored") else stops)
        echoed = prompt_ids if body.get("echo") else []
        found = [*texts(echoed), *found]
        choice = {"index": index, "text": "".join(found), "logprobs": None}
        if body.get("logprobs") is not None:
            choice["logprobs"] = self.logprobs(
                found, [*echoed, *ids], len(echoed), body["logprobs"]
            )
        return choice

    def logprobs(self, found, ids, echoed, count):
        values = [logprob(each) for each in ids[: len(found)]]
        lengths = [1 if self.has("offsets in tokens") else len(text) for text in found]
        result = {
            "tokens": found,
            "top_logprobs": [top(*each, count) for each in zip(found, values, strict=True)],
            "token_logprobs": [round(v, 4) if self.has("rounded") else v for v in values],
            "text_offset": [0, *itertools.accumulate(lengths)][:-1],
        }
        if echoed:
            result["token_logprobs"][0] = 0.0 if self.has("first is 0") else None
            result["top_logprobs"][0] = None
        if self.has("no text_offset"):
            del result["text_offset"]
        return result
