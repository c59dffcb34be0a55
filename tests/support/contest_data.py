"""Small made-up data of the contest's entries, as files in HELM's layout."""

import csv
import io
import json
import pickle
import random
import shutil

from effchal.evaluation.scenarios.bbq import SUBJECTS
from effchal.evaluation.scenarios.hidden_choices import DATASETS
from effchal.evaluation.scenarios.math_problems import SUBJECTS as MATH_SUBJECTS
from support.helm_stand_in import made_up_bbq, made_up_big_bench, made_up_cnndm, made_up_sentences
from support.paths import HELM_DATA

# Words that each perturbation has something to do with.
SUBJECTS_OF_TALK = (
    *("Adam", "Katie", "HARRY", "he", "He", "his", "him", "himself", "Is not he", "I am"),
    *("the", "The", "with", "asking", "because", "their", "address", "beginning", "believe"),
    *("ask-ing", "Adam's", "“Adam”", "his,", "Ωmega", "naïve", "they will", "THE", "It is"),
    *("did not", "will not"),
)
PERSON_NAMES = """adam,first_name,race,white_american,gender,male
harry,first_name,race,white_american,gender,male
katie,first_name,race,white_american,gender,female
jo,first_name,race,white_american
alonzo,first_name,race,black_american,gender,male
jamel,first_name,race,black_american,gender,male
aiesha,first_name,race,black_american,gender,female
lakisha,first_name,race,black_american,gender,female
li,last_name,race,chinese
"""
DIALECT = {
    "the": ["dxa"],
    "with": ["wxit", "wxid"],
    "asking": ["axking", "axkin", "axk"],
    "because": ["cuxz", "cxause"],
    "their": ["they"],
    "which of": ["what"],
    "is": ["ixz", "be"],
}
CONTRACTIONS = {  # HELM's table has more
    "ain't": "is not",
    "didn't": "did not",
    "I'm": "I am",
    "i'm": "i am",
    "isn't": "is not",
    "it's": "it is",
    "they'll": "they will",
    "won't": "will not",
}
MISSPELLINGS = {
    "address": ["adxress", "adxres"],
    "because": ["bexuase", "bxcasue"],
    "beginning": ["begixing"],
    "believe": ["belxive", "bxlive", "bxleave"],
    "the": ["hxe", "txh"],
    "their": ["thxier"],
}


def write_text(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def perturbation_tables(folder):
    """Made-up tables for data_augmentation=canonical."""
    contractions = f"CONTRACTION_MAP: dict = {CONTRACTIONS!r}\n"
    write_text(folder, "helm/contraction_expansion_perturbation.py", contractions)
    write_text(folder, "helm/correct_to_misspelling.json", json.dumps(MISSPELLINGS))
    storage_tables(folder)


def storage_tables(folder):
    """The two that HELM has in its storage, with made-up content."""
    write_text(folder, "perturbations/dialect/SAE_to_AAVE_mapping.json", json.dumps(DIALECT))
    write_text(folder, "perturbations/person_name/data/person_names.txt", PERSON_NAMES)


def talk(choose, words):
    return " ".join(choose.choices(SUBJECTS_OF_TALK, k=words))


def made_up_mmlu(folder, subject="made_up"):
    choose = random.Random(0)
    for part, rows in (("dev", 5), ("val", 10), ("test", 40)):
        table = io.StringIO()
        writer = csv.writer(table)
        for number in range(rows):
            choices = [f"{talk(choose, 3)} {number} {letter}" for letter in "wxyz"]
            writer.writerow([f"{talk(choose, 25)}?", *choices, choose.choice("ABCD")])
        write_text(folder, f"mmlu/data/{part}/{subject}_{part}.csv", table.getvalue())


def made_up_math(folder):
    choose = random.Random(0)
    boxes = ("5", "\\frac12", "\\dfrac{1}{2}", "x=3", "0.5", ".5", "1/2", "3\\text{ cm}", "\\sqrt2")
    for split, rows in (("train", 200), ("test", 400)):
        lines = []
        for number in range(rows):
            box = f"$\\boxed{{{choose.choice(boxes)}}}$"
            row = {
                "problem": f"{talk(choose, 4)} ${choose.randrange(rows)}$ in {split}?",
                "level": f"Level {choose.choice('15')}",
                "type": choose.choice([*MATH_SUBJECTS.values()][:3]),
                "solution": f"{talk(choose, 5)}, number {number}: {box}.",
            }
            lines.append(json.dumps(row) + "\n")
        write_text(folder, f"MATH/{split}.jsonl", "".join(lines))


def made_up_hidden_choices(folder):
    choose = random.Random(0)
    for name, dataset in DATASETS.items():
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["heading"] * dataset.columns)
        for number in range(120):
            row = [f" {talk(choose, 12)}, {number} " for _ in range(dataset.columns)]
            if name == "ethics_virtue":
                row[1] = f"{talk(choose, 12)} [SEP] {choose.choice(['brave', 'the meek'])}"
            row[dataset.label] = choose.choice("01")
            writer.writerow(row)
        write_text(folder, f"{name}/data/{dataset.file}", table.getvalue())


def made_up_sam_sum(folder):
    choose = random.Random(0)
    table = io.StringIO()
    writer = csv.DictWriter(table, ["id", "dialogue", "summary"], delimiter="\t")
    writer.writeheader()
    for number in range(40):
        chat = "\n".join(f"{name}: {talk(choose, 6)}" for name in ("Adam", "Katie", "Adam"))
        writer.writerow({"id": number, "dialogue": chat, "summary": f"{talk(choose, 8)}."})
    write_text(folder, "sam_sum/data/samsum.tsv", table.getvalue())


def contest_folder(folder):
    """The shared real data in a writable copy, and made-up files for all that it lacks."""
    shutil.copytree(HELM_DATA, folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for subject in SUBJECTS:
        if not (folder / "bbq" / "data" / subject).is_file():
            lines = [json.dumps(row) + "\n" for row in made_up_bbq(subject)]
            write_text(folder, f"bbq/data/{subject}", "".join(lines))
    tasks = {"letters": made_up_big_bench(True), "texts": made_up_big_bench(False)}
    for name, task in (tasks | {"sentences": made_up_sentences()}).items():
        write_text(folder, f"big_bench/made_up/{name}/task.json", json.dumps(task))
    (folder / "summarization" / "data").mkdir(parents=True)
    (folder / "summarization" / "data" / "cnndm.pk").write_bytes(pickle.dumps(made_up_cnndm()))
    storage_tables(folder)
    for write in (made_up_mmlu, made_up_math, made_up_hidden_choices, made_up_sam_sum):
        write(folder)
