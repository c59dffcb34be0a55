"""Compare log-likelihoods of lm-eval's client on our server with those of lm-eval's own model.

Half of the requests are questions with a right and a wrong answer. The other half are chats with
the model's own answers, behind which it ends: there lm-eval relies on an entry for the end token.

Runs in an environment of its own (pip install torch "lm-eval[api,hf]"), never the project's:
    effchal serve model=smollm2_135m prompt=plain lora=none model.dtype=float32 &
    <its python> benchmarks/peers/lm_eval_loglikelihood.py http://127.0.0.1:8080 \\
        outputs/models/smollm2_135m TruthfulQA.csv
"""

import argparse
import csv
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI

AT_ONCE = 16  # prompts in one request
LONGEST = 48  # tokens of an answer; a longer one is left out
TOLERANCE = 1e-3  # nats
ENDING_SHARE = 0.3  # of the requests, at least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model", help="folder of the model that the server has")
    parser.add_argument("questions", help="TruthfulQA.csv")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    # Its cache takes two requests for one that differ in where the continuation begins.
    plain = {"dtype": torch.float32, "device": "cpu", "batch_size": 1, "logits_cache": False}
    own = HFLM(options.model, **plain)
    with open(options.questions, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    half = options.count // 2
    pairs = answered(rows)[:half] + ended(options.url, own.tokenizer, rows, half)
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    remote = CountingAPI(
        base_url=f"{options.url}/v1/completions",
        model="effchal",
        tokenizer_backend="remote",
        tokenized_requests=True,
        num_concurrent=2,
        batch_size=4,
    )
    with ThreadPoolExecutor() as pool:
        served = pool.submit(remote.loglikelihood, requests)
        expected = own.loglikelihood(requests)
    found = list(zip(served.result(), expected, strict=True))
    ending = CountingAPI.ending
    difference = max(abs(ours[0] - theirs[0]) for ours, theirs in found)
    flags = sum(ours[1] == theirs[1] for ours, theirs in found)
    result = {"requests": len(requests), "behind_which_the_model_ends": ending}
    result |= {"largest_difference": difference, "equal_greedy_flags": flags}
    print("RESULT " + json.dumps(result | {"greedy": sum(theirs[1] for _, theirs in found)}))
    if difference > TOLERANCE or ending < ENDING_SHARE * len(requests):
        sys.exit("error: too far apart, or too few requests behind which the model ends")


class CountingAPI(LocalCompletionsAPI):
    """lm-eval's client; counts the answers in which the model ended."""

    ending = 0

    @staticmethod
    def parse_logprobs(outputs: dict, **keys: object) -> list:
        reasons = [choice["finish_reason"] for choice in outputs["choices"]]
        CountingAPI.ending += reasons.count("stop")
        return LocalCompletionsAPI.parse_logprobs(outputs, **keys)


def answered(rows: list[dict]) -> list[tuple[str, str]]:
    """Each question with its best answer and with a wrong one."""
    columns = ("Best Answer", "Incorrect Answers")
    return [
        (f"Q: {row['Question']}\nA:", " " + row[column].split(";")[0].strip())
        for row in rows
        for column in columns
    ]


def ended(url: str, tokenizer: object, rows: list[dict], count: int) -> list[tuple[str, str]]:
    """Chats with the model's own answers that end: each whole, and its last word alone."""
    pairs: list[tuple[str, str]] = []
    for first in range(0, len(rows), AT_ONCE):
        chats = [chat(tokenizer, row["Question"]) for row in rows[first : first + AT_ONCE]]
        body = {"prompt": chats, "max_tokens": LONGEST, "temperature": 0}
        for prompt, choice in zip(chats, complete(url, body), strict=True):
            answer = choice["text"]
            if choice["finish_reason"] == "stop" and " " in answer:
                most, _, last = answer.rpartition(" ")
                pairs += [(prompt, answer), (prompt + most, f" {last}")]
        if len(pairs) >= count:
            break
    return pairs[:count]


def chat(tokenizer: object, question: str) -> str:
    turns = [{"role": "user", "content": f"Answer in a few words. {question}"}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def complete(url: str, body: dict) -> list[dict]:
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)["choices"]


if __name__ == "__main__":
    main()
