"""Data of an entry where scenario.path is null: fetched, and kept as files in HELM's layout.

The readers of this package read them like any folder of HELM's. `sources` says what comes from
where; source.json beside the data says what was fetched and when.
"""

import hashlib
import http.client
import json
import logging
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from effchal.evaluation.scenarios.bbq import subjects_of
from effchal.evaluation.scenarios.helm_tables import TABLES
from effchal.evaluation.scenarios.hub_files import (
    Convert,
    Table,
    cnndm_files,
    gsm_files,
    math_files,
    mmlu_files,
    punkt_files,
    truthful_qa_files,
)
from effchal.evaluation.scenarios.math_problems import SUBJECTS as MATH_SUBJECTS
from effchal.evaluation.scenarios.needs import needed_tables
from effchal.evaluation.scenarios.sources import (
    BBQ,
    BIG_BENCH,
    BUCKET_NAME,
    CNNDM,
    DIGESTS,
    GISTS,
    GSM,
    MATH,
    MMLU,
    TABLE_SOURCES,
    TRUTHFUL_QA,
    Source,
)
from effchal.evaluation.scenarios.types import HELM_FOLDER, MissingDataError, ScenarioError
from effchal.runs import cache_folder
from effchal.tracking.fetching import read_response
from effchal.tracking.terminal import progress

CACHE = cache_folder() / "scenarios"
GITHUB = "https://raw.githubusercontent.com"
GIST = "https://gist.githubusercontent.com"
BUCKET = "https://storage.googleapis.com"
RECORD = "source.json"
_TIMEOUT_S = 60.0  # of silence
log = logging.getLogger(__name__)
_NOT_SUBJECTS = ("all", "auxiliary_train")  # configs of cais/mmlu that HELM has no subject for


@dataclass(frozen=True)
class Download:
    """Files of one source in one folder of the data. A file in it is whole or absent."""

    entry: str  # for messages
    source: Source
    folder: Path
    record: str  # its name; a folder may hold several sources
    fetch: Callable[[], dict[str, bytes]]  # contents by name

    def kept_bytes(self) -> int | None:
        """The size of the files; None if a whole fetch of this commit is not there."""
        try:
            found = json.loads((self.folder / self.record).read_text(encoding="utf-8"))
            files = found.pop("files")
            del found["date"]
            sizes = [(self.folder / name).stat().st_size for name in files]
        except (OSError, ValueError, KeyError):
            return None
        return sum(sizes) if found == asdict(self.source) else None

    def keep(self) -> None:
        """Fetch the files, unless they are there.

        Raises:
            ScenarioError: the source is out of reach or lacks what is asked for. Nothing of it
                is written then.
        """
        if self.kept_bytes() is not None:
            return
        files = self.fetch()
        date = datetime.now(UTC).isoformat(timespec="seconds")
        about = json.dumps({**asdict(self.source), "date": date, "files": list(files)}, indent=2)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A file is renamed when it is whole. The record comes last and vouches for the others.
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".fetched-") as parts:
                for name, content in {**files, self.record: about.encode()}.items():
                    part = Path(parts) / "part"
                    part.write_bytes(content)
                    (self.folder / name).parent.mkdir(exist_ok=True)
                    part.replace(self.folder / name)
        except OSError as error:
            raise ScenarioError(
                f"cannot write {self.folder} ({error}): set XDG_CACHE_HOME=<folder>, "
                f"or {HELM_FOLDER}"
            ) from error


def downloads(entry: str, name: str, args: dict[str, str], cache: Path) -> list[Download]:
    """All that one entry needs.

    Args:
        entry: as typed, for messages; name and args: as parse_entry returns them.

    Raises:
        ScenarioError: HELM has no such subject.
    """
    tables = [_table_download(entry, table, cache) for table in needed_tables(name, args)]
    return [*_data_downloads(entry, name, args, cache), *tables]


def useful_downloads(entry: str, name: str, cache: Path) -> list[Download]:
    """What `effchal fetch` fetches beside `downloads`: BLEU of BIG-bench tasks alone needs it."""
    return [_table_download(entry, "punkt", cache)] if name == "big_bench" else []


def _data_downloads(entry: str, name: str, args: dict[str, str], cache: Path) -> Iterator[Download]:
    """Downloads of an entry's questions; none for a user's own file."""
    match name:
        case "mmlu":
            subject = args["subject"]
            if subject in _NOT_SUBJECTS:
                raise ScenarioError(
                    f"{entry}: HELM has no subject {subject!r}; give one, e.g. mmlu:subject=anatomy"
                )
            source, convert = replace(MMLU, config=subject), partial(mmlu_files, subject)
            record = f"{subject}_{RECORD}"
            yield _hub_download(entry, cache / "mmlu" / "data", source, convert, record)
        case "truthful_qa" | "truthful_qa_mc":
            folder = cache / "truthful_qa" / "data"
            yield _hub_download(entry, folder, TRUTHFUL_QA, truthful_qa_files)
        case "bbq":
            for subject in subjects_of(entry, args["subject"]):
                source = replace(BBQ, config=f"data/{subject}.jsonl")
                file = cache / "bbq" / "data" / subject
                yield _file_download(entry, file, source, github(source), f"{subject}_{RECORD}")
        case "gsm":
            yield _hub_download(entry, cache / "gsm", GSM, gsm_files)
        case "big_bench":
            parts = [part for part in (args["task"], args["subtask"]) if part]
            config = "/".join(["bigbench/benchmark_tasks", *parts, "task.json"])
            source = replace(BIG_BENCH, config=config)
            file = cache.joinpath("big_bench", *parts, "task.json")
            yield _file_download(entry, file, source, github(source))
        case "summarization_cnndm":
            yield _hub_download(entry, cache / "summarization" / "data", CNNDM, cnndm_files)
        case "math":
            yield Download(entry, MATH, cache / "MATH", RECORD, partial(_all_of_math, entry))
        case _ if name in GISTS:
            source = GISTS[name]
            file = cache / name / "data" / source.config
            yield _file_download(entry, file, source, gist(source))


def _hub_download(
    entry: str, folder: Path, source: Source, convert: Convert, record: str = RECORD
) -> Download:
    return Download(entry, source, folder, record, lambda: convert(_load_dataset(entry, source)))


def _file_download(
    entry: str, file: Path, source: Source, url: str, record: str = RECORD
) -> Download:
    return Download(entry, source, file.parent, record, lambda: {file.name: _download(entry, url)})


def _table_download(entry: str, table: str, cache: Path) -> Download:
    source, file = TABLE_SOURCES[table], cache / TABLES[table][0]
    record = f"{file.stem}_{RECORD}"
    if source.repo == BUCKET_NAME:
        url = f"{BUCKET}/{source.repo}/{source.config}"
    else:
        url = github(source)

    def fetch() -> dict[str, bytes]:
        content = _download(entry, url)
        digest = hashlib.sha256(content).hexdigest()
        if digest != DIGESTS.get(table, digest):
            raise ScenarioError(
                f"{entry}: {url} has sha256 {digest}, expected {DIGESTS[table]}; nothing was kept"
            )
        return punkt_files(content) if table == "punkt" else {file.name: content}

    return Download(entry, source, file.parent, record, fetch)


def github(source: Source) -> str:
    return f"{GITHUB}/{source.repo}/{source.revision}/{urllib.parse.quote(source.config)}"


def gist(source: Source) -> str:
    return f"{GIST}/{source.repo}/raw/{source.revision}/{source.config}"


def _all_of_math(entry: str) -> dict[str, bytes]:
    sources = [replace(MATH, config=subject) for subject in MATH_SUBJECTS]
    return math_files([_load_dataset(entry, source) for source in sources])


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
        what = f"cannot load {source.repo}, config {source.config}, commit {source.revision} "
        remedy = f"without it, {HELM_FOLDER}. The hub said: {type(error).__name__}: {reason}"
        raise MissingDataError(entry, f"{what}from the Hugging Face hub", remedy) from error
    return Table(
        f"{entry}: {source.repo}, config {source.config}, commit {source.revision}", splits
    )


def _download(entry: str, url: str) -> bytes:
    log.info("%s: fetching %s", entry, url)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            return read_response(response, f"fetching {url.rpartition('/')[2]}")
    except (OSError, http.client.HTTPException) as error:
        what = f"cannot download {url} ({error!r})"
        raise MissingDataError(entry, what, f"without it, {HELM_FOLDER}") from error
