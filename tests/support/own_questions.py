"""A user's own questions for the tiny model, and the records of their evaluation."""

import json

from support.configs import compose_config

FEW = "The few examples that every question begins with are the same in all of them.\n\n"


def write_questions(folder):
    """Five questions to answer in text, five with choices."""
    texts, choices = folder / "texts.jsonl", folder / "choices.jsonl"
    rows = [
        {
            "prompt": f"{FEW}What is {i}?",
            "answers": [f"é\u2028{i}"],
            "max_new_tokens": 6,
            "stop": ["e"],
        }
        for i in range(5)
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {"prompt": f"{FEW}Q{i}:", "choices": [" a", f" b{i} or", " longest"], "correct": [i % 3]}
        for i in range(5)
    ]
    choices.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return texts, choices


def evaluation_config(data, *overrides):
    entries = ",".join(f"'jsonl:path={path}'" for path in data)
    common = [
        "model=tiny",
        "prompt=plain",
        "lora=none",
        "evaluate.resamples=200",
        "evaluate.rows_at_once=2",
    ]
    return compose_config(
        [*common, f"scenario.entries=[{entries}]", "scenario.max_instances=100", *overrides]
    )


def read_records(run_dir):
    return [json.loads(line) for line in (run_dir / "instances.jsonl").read_text().splitlines()]


SWEEP = (
    "decoding=dola_high",
    "decoding.repetition_penalty=1.3",
    "sweep.premature_layers=[[0],[1],[0,1]]",
)
