"""Small data files in HELM's layout, and scenarios loaded from them."""

from effchal.evaluation.scenarios.entries import load_scenario
from support.text_window import Window

TRUTHFUL_QA_HEADER = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"


def load(entry, path=None, max_instances=5):
    return load_scenario(entry, path, max_instances, Window())


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def mmlu(folder, dev="q,a,b,c,d,A\n", val="q,a,b,c,d,A\n", test="q,a,b,c,d,A\n"):
    for split, content in (("dev", dev), ("val", val), ("test", test)):
        write(folder, f"mmlu/data/{split}/x_{split}.csv", content)
    return folder
