"""Compare log-likelihoods of lm-eval's client on our server with those of lm-eval's own model.

Runs in an environment of its own (pip install torch "lm-eval[api,hf]"), never the project's:
    python -m effchal.serve model=smollm2_135m prompt=plain lora=none model.dtype=float32 &
    <its python> benchmarks/peers/lm_eval_loglikelihood.py http://127.0.0.1:8080 \\
        outputs/models/smollm2_135m TruthfulQA.csv
"""

import argparse
import csv
import json

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI


def requests_of(path: str, count: int) -> list[Instance]:
    """One request for each question with its best answer, and one with a wrong answer."""
    pairs = []
    with open(path, encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column in ("Best Answer", "Incorrect Answers"):
                pairs.append((f"Q: {row['Question']}\nA:", " " + row[column].split(";")[0].strip()))
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs[:count])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model", help="folder of the model that the server has")
    parser.add_argument("questions", help="TruthfulQA.csv")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    requests = requests_of(options.questions, options.count)
    remote = LocalCompletionsAPI(
        base_url=f"{options.url}/v1/completions",
        model="effchal",
        tokenizer_backend="remote",
        tokenized_requests=True,
        num_concurrent=2,
        batch_size=4,
    )
    theirs = remote.loglikelihood(requests)
    own = HFLM(options.model, dtype=torch.float32, device="cpu", batch_size=1)
    expected = own.loglikelihood(requests)
    difference = max(abs(a[0] - b[0]) for a, b in zip(theirs, expected, strict=True))
    flags = sum(a[1] == b[1] for a, b in zip(theirs, expected, strict=True))
    result = {"requests": len(requests), "largest_difference": difference}
    result |= {"equal_greedy_flags": flags, "greedy": sum(flag for _, flag in expected)}
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
