"""Tasks of lm-eval from local files: data in HELM's layout, written as lm-eval reads them."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import yaml

LETTERS = ("A", "B", "C", "D")
TEXT_SCORES = [{"metric": "acc"}, {"metric": "acc_norm"}]
OPTIONS_OF_BIG_BENCH = {
    "boolean_expressions": ["True", "False"],
    "causal_judgement": ["Yes", "No"],
    "snarks": ["(A)", "(B)"],
}
NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"


def write_tasks(data: Path, folder: Path) -> list[str]:
    """Write six tasks and their data into `folder`.

    Args:
        data: HELM's `scenarios` folder.

    Returns:
        the names: three of choices (5 shots of letters, whole answers, spans), one generated,
        and two of one-word answers in ChatML, after which a chat model ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {
        "local_mmlu": (mmlu(data), mmlu(data, "dev"), LETTER_TASK),
        "local_truthful_qa": (truthful_qa(data), None, ANSWER_TASK),
        "local_bbq": (bbq(data), None, SPAN_TASK),
        "local_gsm8k": (gsm8k(data, "test"), gsm8k(data, "train")[:200], NUMBER_TASK),
        "local_mmlu_chat": (mmlu(data), None, CHAT_LETTER_TASK),
        "local_bbh_chat": (big_bench_hard(data), None, CHAT_WORD_TASK),
    }
    for name, (rows, shots, about) in tasks.items():
        files = {"test": rows} | ({"train": shots} if shots else {})
        paths = {}
        for split, content in files.items():
            path = folder / f"{name}_{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
            paths[split] = str(path.absolute())
        head: dict[str, Any] = {"task": name, "dataset_path": "json", "test_split": "test"}
        head["dataset_kwargs"] = {"data_files": paths}
        head |= {"fewshot_split": "train"} if shots else {}
        text = yaml.safe_dump(head | about, sort_keys=False, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return list(tasks)


LETTER_TASK = {
    "output_type": "multiple_choice",
    "num_fewshot": 5,
    "fewshot_config": {"sampler": "first_n"},
    "doc_to_text": "{{question}}\nA. {{a}}\nB. {{b}}\nC. {{c}}\nD. {{d}}\nAnswer:",
    "doc_to_choice": list(LETTERS),
    "doc_to_target": "{{answer}}",
    "metric_list": TEXT_SCORES[:1],
}
ANSWER_TASK = {
    "output_type": "multiple_choice",
    "num_fewshot": 0,
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": TEXT_SCORES,
}
CHAT = "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n"
CHAT_LETTER_TASK = LETTER_TASK | {
    "num_fewshot": 0,
    "doc_to_text": CHAT % (LETTER_TASK["doc_to_text"] + " (one letter)"),
    "target_delimiter": "",
}
CHAT_WORD_TASK = ANSWER_TASK | {
    "doc_to_text": CHAT % "{{question}}",
    "target_delimiter": "",
    "metric_list": TEXT_SCORES[:1],
}
# Its texts end in a space, which lm-eval moves to the continuation.
SPAN_TASK = ANSWER_TASK | {"doc_to_text": "{{context}} {{question}} ", "target_delimiter": ""}
NUMBER_TASK = {
    "output_type": "generate_until",
    "num_fewshot": 3,
    "fewshot_config": {"sampler": "first_n"},
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["Question:", "\n\n"], "max_gen_toks": 128, "do_sample": False},
    "metric_list": [
        {
            "metric": "exact_match",
            "ignore_punctuation": False,
            "regexes_to_ignore": [",", r"\$", r"(?s).*#### ", r"\.$"],
        }
    ],
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [
                {"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"},
                {"function": "take_first"},
            ],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": NUMBER},
                {"function": "take_first"},
            ],
        },
    ],
}


def mmlu(data: Path, split: str = "test") -> list[dict[str, str]]:
    """Questions of all subjects that are there, mixed; the shots are of the same subjects."""
    rows = []
    for path in sorted((data / "mmlu/data/test").glob("*_test.csv")):
        file = data / "mmlu/data" / split / path.name.replace("_test", f"_{split}")
        with file.open(encoding="utf-8", newline="") as content:
            names = ("question", "a", "b", "c", "d", "answer")
            rows += [dict(zip(names, row, strict=True)) for row in csv.reader(content)]
    return mixed(rows)


def truthful_qa(data: Path) -> list[dict[str, Any]]:
    rows = []
    with (data / "truthful_qa/data/TruthfulQA.csv").open(encoding="utf-8", newline="") as content:
        for row in csv.DictReader(content):
            wrong = [text.strip() for text in row["Incorrect Answers"].split(";") if text.strip()]
            choices = [row["Best Answer"].strip(), *wrong]
            rows.append({"question": row["Question"], "choices": choices, "answer": 0})
    return mixed(rows)


def bbq(data: Path) -> list[dict[str, Any]]:
    rows = []
    for line in (data / "bbq/data/Religion").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        choices = [row["ans0"], row["ans1"], row["ans2"]]
        asked = {"context": row["context"], "question": row["question"]}
        rows.append(asked | {"choices": choices, "answer": row["label"]})
    return mixed(rows)


def big_bench_hard(data: Path) -> list[dict[str, Any]]:
    """Questions of the three tasks that are there, with the answers that one may give."""
    rows = []
    for name, choices in OPTIONS_OF_BIG_BENCH.items():
        text = (data / f"big_bench/{name}/task.json").read_text(encoding="utf-8")
        for example in json.loads(text)["examples"]:
            answer = choices.index(example["target"])
            rows.append({"question": example["input"], "choices": choices, "answer": answer})
    return mixed(rows)


def gsm8k(data: Path, split: str) -> list[dict[str, str]]:
    lines = (data / f"gsm/gsm_data_{split}").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def mixed(rows: list[Any]) -> list[Any]:
    random.Random(0).shuffle(rows)
    return rows
