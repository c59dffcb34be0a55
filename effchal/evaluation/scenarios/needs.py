"""The files that an entry reads, so that all missing ones are told at once."""

from pathlib import Path

from effchal.evaluation.scenarios.bbq import subjects_of
from effchal.evaluation.scenarios.helm_tables import CANONICAL, find_table
from effchal.evaluation.scenarios.hidden_choices import DATASETS
from effchal.evaluation.scenarios.run_arguments import AUGMENTATION
from effchal.evaluation.scenarios.types import HELM_FOLDER, MissingDataError


def needed_files(entry: str, name: str, args: dict[str, str]) -> list[str]:
    """Paths below scenario.path, in HELM's layout; tables are not among them."""
    match name:
        case "mmlu":
            subject = args["subject"]
            return [f"mmlu/data/{part}/{subject}_{part}.csv" for part in ("dev", "val", "test")]
        case "truthful_qa" | "truthful_qa_mc":
            return ["truthful_qa/data/TruthfulQA.csv"]
        case "bbq":
            return [f"bbq/data/{subject}" for subject in subjects_of(entry, args["subject"])]
        case "gsm":
            return ["gsm/gsm_data_train", "gsm/gsm_data_test"]
        case "big_bench":
            parts = [part for part in (args["task"], args["subtask"]) if part]
            return ["/".join(["big_bench", *parts, "task.json"])]
        case "summarization_cnndm":
            return ["summarization/data/cnndm.pk"]
        case "sam_sum":
            return ["sam_sum/data/samsum.tsv"]
        case "math":
            return ["MATH/train.jsonl", "MATH/test.jsonl"]
        case _ if name in DATASETS:
            return [f"{name}/data/{DATASETS[name].file}"]
    return []


def needed_tables(name: str, args: dict[str, str]) -> list[str]:
    """Keys of helm_tables.TABLES."""
    tables = list(CANONICAL) if AUGMENTATION in args else []
    return [*tables, "bias_words", "punkt"] if name == "sam_sum" else tables


def check_data(entry: str, name: str, args: dict[str, str], path: Path) -> None:
    """Raises MissingDataError if some are not there; it names all of these."""
    found = []
    files = [path / file for file in needed_files(entry, name, args)]
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        what = f"no file {', '.join(absent)} (from {Path.cwd()})"
        remedy = f"{HELM_FOLDER}; with scenario.path=null it is downloaded"
        found.append(MissingDataError(entry, what, remedy))
    for table in needed_tables(name, args):
        try:
            find_table(path, entry, table)
        except MissingDataError as error:
            found.append(error)
    if found:
        remedies = dict.fromkeys(error.remedy for error in found)
        raise MissingDataError(
            entry, ", ".join(error.what for error in found), "; ".join(remedies)
        ) from None
