"""Tasks for lm-eval over a few lines of our own: choices, answers, last words and whole texts."""

import json

import yaml

QUESTIONS = (
    ("What do bees make?", ["honey", "milk", "silk and wool"], 0),
    ("What do cows give?", ["honey", "milk", "silk and wool"], 1),
    ("Where do fish live?", ["in the water", "in trees"], 0),
    ("What is two and two?", ["three", "four", "five"], 1),
    ("Which is a colour?", ["red", "loud"], 0),
    ("Who bakes bread?", ["a baker", "a sailor"], 0),
)
KINDS = {
    "own_choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}} ",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "own_answers": {
        "output_type": "generate_until",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "own_last_words": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{choices[answer]}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "own_texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{choices[0]}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}
GROUP = {
    "group": "own_group",
    "task": ["own_choices", "own_last_words"],
    "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
}


def write_own_tasks(folder, times=1):
    """The tasks and a group of two of them; every question stands there so many times."""
    data = folder / "questions.jsonl"
    lines = [
        json.dumps({"question": f"{number}. {question}", "choices": choices, "answer": answer})
        for number in range(times)
        for question, choices, answer in QUESTIONS
    ]
    data.write_text("\n".join(lines) + "\n")
    head = {"dataset_path": "json", "test_split": "test", "num_fewshot": 0}
    head["dataset_kwargs"] = {"data_files": {"test": str(data)}}
    for name, about in KINDS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | head | about))
    (folder / "own_group.yaml").write_text(yaml.safe_dump(GROUP))
    return folder
