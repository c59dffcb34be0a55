"""One of lm-eval's own models on tasks of a folder, for benchmarks/lm_eval_parity.py.

Without --url it is `hf`, on a CPU in float32; with it `local-completions`, against our server.
Runs in an environment of its own (pip install torch "lm_eval[hf,api]"), never the project's.
"""

import argparse
import json
import time
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder")
    parser.add_argument("tasks", help="folder")
    parser.add_argument("names", help="of tasks, with commas")
    parser.add_argument("output", help="file for what was measured")
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--url", help="of a server")
    options = parser.parse_args()
    model = load(options.model, options.url)
    seconds = {name: timed(model, name) for name in ("loglikelihood", "generate_until")}
    found = simple_evaluate(
        model,
        tasks=options.names.split(","),
        task_manager=TaskManager(include_path=options.tasks, include_defaults=False),
        limit=options.limit,
    )
    kept = {name: found[name] for name in ("results", "samples")}
    kept["seconds_of_answers"] = {name: sum(times) for name, times in seconds.items()}
    kept["seconds"] = time.monotonic() - started
    text = json.dumps(kept, default=handle_non_serializable)
    Path(options.output).write_text(text, encoding="utf-8")


def load(folder: str, url: str | None) -> object:
    if url is None:
        options = {"dtype": "float32", "device": "cpu", "batch_size": 8}
        return get_model("hf")(pretrained=folder, **options)
    return get_model("local-completions")(
        base_url=f"{url}/v1/completions",
        model="effchal",
        tokenizer=folder,
        tokenizer_backend="huggingface",
        tokenized_requests=True,
        num_concurrent=8,
        batch_size=1,
        timeout=3000,
    )


def timed(model: object, name: str) -> list[float]:
    """Have the seconds of each call of a method kept."""
    seconds: list[float] = []
    answer = getattr(model, name)

    def ask(*arguments: object, **options: object) -> object:
        started = time.monotonic()
        answers = answer(*arguments, **options)
        seconds.append(time.monotonic() - started)
        return answers

    setattr(model, name, ask)
    return seconds


if __name__ == "__main__":
    main()
