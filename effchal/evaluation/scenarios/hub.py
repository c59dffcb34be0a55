"""Data of an entry where scenario.path is null: public sources, kept as files in HELM's layout.

The readers of this package read them like any folder of HELM's. Every source is pinned to a
commit; source.json beside the data says what was fetched and when. Instance ids and the draw
of questions depend on the order of rows. How far the data equal HELM's own:

- BBQ, BIG-bench: the files that HELM downloads, where HELM takes the newest commit of each.
- MMLU, GSM8K: the scripts behind the hub's data sets keep rows, order and text of the files
  that HELM downloads.
- TruthfulQA: the hub's script keeps the file's order, but reads TruthfulQA.csv of commit
  013686a where HELM reads data/v1/TruthfulQA.csv of d71c110. Answers differ between commits:
  equality with HELM's file is not guaranteed.
- CNN/DM: HELM reads a pickle of its own bucket. It need not hold the hub's articles in order.
"""

import csv
import http.client
import io
import json
import logging
import pickle
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from effchal.evaluation.scenarios.bbq import subjects_of
from effchal.evaluation.scenarios.files import HELM_FOLDER
from effchal.evaluation.scenarios.generation import SHOT_WORDS
from effchal.evaluation.scenarios.multiple_choice import TRUTHFUL_QA_COLUMNS
from effchal.evaluation.scenarios.types import ScenarioError
from effchal.runs import cache_folder
from effchal.tracking.fetching import read_response
from effchal.tracking.terminal import progress

CACHE = cache_folder() / "scenarios"
GITHUB = "https://raw.githubusercontent.com"
RECORD = "source.json"
_TIMEOUT_S = 60.0  # of silence
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where files come from. source.json holds this, with the date and their names."""

    repo: str
    config: str  # of a hub data set; in a GitHub repository, the file
    revision: str  # commit


MMLU = Source("cais/mmlu", "<subject>", "c30699e8356da336a370243923dbaf21066bb9fe")
GSM = Source("openai/gsm8k", "main", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c")
TRUTHFUL_QA = Source(
    "truthfulqa/truthful_qa", "generation", "741b8276f2d1982aa3d5b832d3ee81ed3b896490"
)
CNNDM = Source("abisee/cnn_dailymail", "3.0.0", "96df5e686bee6baa90b8bee7c28b81fa3fa6223d")
BBQ = Source("nyu-mll/BBQ", "data/<subject>.jsonl", "bea11bd97d79217245b5871acd247b9d6eb24598")
BIG_BENCH = Source(
    "google/BIG-bench", "<task>/task.json", "092b196c1f8f14a54bbc62f24759d43bde46dd3b"
)
_NOT_SUBJECTS = ("all", "auxiliary_train")  # configs of cais/mmlu that HELM has no subject for


def fetched(entry: str, name: str, args: dict[str, str], cache: Path, github: str) -> Path:
    """The folder in HELM's layout with the data of one entry; fetches what is missing there.

    Args:
        entry: as typed, for messages; name and args: as parse_entry returns them.
        cache: the folder. A file in it is whole or absent, also after a kill.
        github: address that serves <repo>/<commit>/<file>.

    Raises:
        ScenarioError: a source is out of reach or lacks what is asked for. Nothing of it is
            written then.
    """

    def from_hub(folder: Path, source: Source, convert: Convert, record: str = RECORD) -> None:
        _keep(folder, source, record, lambda: convert(_load_dataset(entry, source)))

    def from_github(file: Path, source: Source, record: str = RECORD) -> None:
        url = f"{github}/{source.repo}/{source.revision}/{urllib.parse.quote(source.config)}"
        _keep(file.parent, source, record, lambda: {file.name: _download(entry, url)})

    match name:
        case "mmlu":
            subject = args["subject"]
            if subject in _NOT_SUBJECTS:
                raise ScenarioError(
                    f"{entry}: HELM has no subject {subject!r}; give one, e.g. mmlu:subject=anatomy"
                )
            source, convert = replace(MMLU, config=subject), partial(mmlu_files, subject)
            from_hub(cache / "mmlu" / "data", source, convert, f"{subject}_{RECORD}")
        case "gsm":
            from_hub(cache / "gsm", GSM, gsm_files)
        case "truthful_qa" | "truthful_qa_mc":
            from_hub(cache / "truthful_qa" / "data", TRUTHFUL_QA, truthful_qa_files)
        case "summarization_cnndm":
            from_hub(cache / "summarization" / "data", CNNDM, cnndm_files)
        case "bbq":
            for subject in subjects_of(entry, args["subject"]):
                source = replace(BBQ, config=f"data/{subject}.jsonl")
                from_github(cache / "bbq" / "data" / subject, source, f"{subject}_{RECORD}")
        case "big_bench":
            parts = [part for part in (args["task"], args["subtask"]) if part]
            config = "/".join(["bigbench", "benchmark_tasks", *parts, "task.json"])
            file = cache.joinpath("big_bench", *parts, "task.json")
            from_github(file, replace(BIG_BENCH, config=config))
    return cache


class Table:
    """Rows of a hub data set by split; a missing split or column is an error."""

    def __init__(self, entry: str, source: Source, splits: Any) -> None:
        """splits: datasets.DatasetDict"""
        self._place = f"{entry}: {source.repo}, config {source.config}, commit {source.revision}"
        self._splits = splits

    def rows(self, split: str, *columns: str) -> Iterator[dict[str, Any]]:
        if split not in self._splits:
            raise ScenarioError(
                f"{self._place} has no split {split!r}, only {', '.join(self._splits)}"
            )
        table = self._splits[split]
        absent = [column for column in columns if column not in table.column_names]
        if absent:
            raise ScenarioError(
                f"{self._place}, split {split}, has no column {', '.join(absent)}: {HELM_FOLDER}"
            )
        return iter(table)


Convert = Callable[[Table], dict[str, bytes]]  # to files by name, in HELM's layout


def mmlu_files(subject: str, table: Table) -> dict[str, bytes]:
    files = {}
    for folder, split in (("dev", "dev"), ("val", "validation"), ("test", "test")):
        rows = table.rows(split, "question", "choices", "answer")
        lines = [[row["question"], *row["choices"], "ABCD"[row["answer"]]] for row in rows]
        files[f"{folder}/{subject}_{folder}.csv"] = _csv(lines)
    return files


def gsm_files(table: Table) -> dict[str, bytes]:
    files = {}
    for split in ("train", "test"):
        rows = table.rows(split, "question", "answer")
        lines = [
            json.dumps({"question": row["question"], "answer": row["answer"]}) + "\n"
            for row in rows
        ]
        files[f"gsm_data_{split}"] = "".join(lines).encode()
    return files


def truthful_qa_files(table: Table) -> dict[str, bytes]:
    """The hub split the answers at ";", and the reader does so again."""
    columns = [name.lower().replace(" ", "_") for name in TRUTHFUL_QA_COLUMNS]
    lines = [TRUTHFUL_QA_COLUMNS]
    for row in table.rows("validation", *columns):
        values = [row[column] for column in columns]
        lines.append(["; ".join(value) if isinstance(value, list) else value for value in values])
    return {"TruthfulQA.csv": _csv(lines)}


def cnndm_files(table: Table) -> dict[str, bytes]:
    """Of the training articles, only those short enough for an example: no other is read."""
    found = {}
    for split in ("train", "validation", "test"):
        rows = table.rows(split, "article", "highlights")
        kept = (
            row for row in rows if split != "train" or len(row["article"].split()) in SHOT_WORDS
        )
        found[split] = [
            {"article": row["article"], "highlights": row["highlights"]} for row in kept
        ]
    return {"cnndm.pk": pickle.dumps(found)}


def _csv(lines: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _load_dataset(entry: str, source: Source) -> Table:
    import datasets  # costs a second, and a run with its data at hand does not need it

    log.info("%s: fetching %s (%s) from the Hugging Face hub", entry, source.repo, source.config)
    # One cache for each commit: if the hub is out of reach, the client takes any commit that
    # its cache has.
    cache = str(Path(datasets.config.HF_DATASETS_CACHE) / f"effchal-{source.revision}")
    try:
        with progress(f"fetching {source.repo}"):
            splits = datasets.load_dataset(
                source.repo, source.config, revision=source.revision, cache_dir=cache
            )
    except Exception as error:  # every client and transport of the hub raises its own
        reason = " ".join(str(error).split())[:300]
        raise ScenarioError(
            f"{entry}: cannot load {source.repo}, config {source.config}, commit {source.revision} "
            f"from the Hugging Face hub: without it, {HELM_FOLDER}. "
            f"The hub said: {type(error).__name__}: {reason}"
        ) from error
    return Table(entry, source, splits)


def _download(entry: str, url: str) -> bytes:
    log.info("%s: fetching %s", entry, url)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            return read_response(response, f"fetching {url.rpartition('/')[2]}")
    except (OSError, http.client.HTTPException) as error:
        raise ScenarioError(
            f"{entry}: cannot download {url} ({error!r}): without it, {HELM_FOLDER}"
        ) from error


def _keep(folder: Path, source: Source, record: str, fetch: Callable[[], dict[str, bytes]]) -> None:
    """Fetch the files into the folder, unless a whole fetch of this commit is there."""
    if _is_kept(folder, record, source):
        return
    files = fetch()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    about = json.dumps({**asdict(source), "date": date, "files": list(files)}, indent=2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A file is renamed when it is whole. The record comes last and vouches for the others.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetched-") as parts:
            for name, content in {**files, record: about.encode()}.items():
                part = Path(parts) / "part"
                part.write_bytes(content)
                (folder / name).parent.mkdir(exist_ok=True)
                part.replace(folder / name)
    except OSError as error:
        raise ScenarioError(
            f"cannot write {folder} ({error}): set XDG_CACHE_HOME=<folder>, or {HELM_FOLDER}"
        ) from error


def _is_kept(folder: Path, record: str, source: Source) -> bool:
    try:
        found = json.loads((folder / record).read_text(encoding="utf-8"))
        files = found.pop("files")
        del found["date"]
    except (OSError, ValueError, KeyError):
        return False
    return found == asdict(source) and all((folder / name).is_file() for name in files)
