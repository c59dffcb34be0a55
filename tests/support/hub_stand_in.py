"""Stand-ins for the Hugging Face hub (data sets of HELM's real files) and for GitHub (a folder)."""

import contextlib
import csv
import functools
import http.server
import json
import threading

import datasets

from effchal.evaluation.scenarios import hub
from support.paths import HELM_DATA

TEXT = datasets.Value("string")
TEXTS = datasets.Sequence(TEXT)


class Hub:
    """Stands in for datasets.load_dataset: data sets by source, and the requests."""

    def __init__(self, **tables):
        self.tables = {
            (source.repo, source.config, source.revision): table
            for source, table in tables.values()
        }
        self.asked = []

    def __call__(self, repo, config, revision, cache_dir):
        assert revision in cache_dir
        self.asked.append(repo)
        return self.tables[repo, config, revision]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; a path with "short" in it breaks off inside the file."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        if "short" not in self.path:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"examples": [')


@contextlib.contextmanager
def served(folder):
    """The address of a server that gives the files of a folder."""
    quiet = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def read_csv(path):
    # As the scripts behind the hub's data sets read them: every character of a field kept.
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.reader(lines))


def mmlu_table(subject):
    """cais/mmlu, one config."""
    features = datasets.Features(
        {
            "question": TEXT,
            "subject": TEXT,
            "choices": TEXTS,
            "answer": datasets.ClassLabel(names=list("ABCD")),
        }
    )
    splits = {}
    for folder, split in (("test", "test"), ("val", "validation"), ("dev", "dev")):
        rows = [
            {
                "question": row[0],
                "subject": subject,
                "choices": row[1:5],
                "answer": "ABCD".index(row[5]),
            }
            for row in read_csv(HELM_DATA / "mmlu" / "data" / folder / f"{subject}_{folder}.csv")
        ]
        splits[split] = datasets.Dataset.from_list(rows, features=features)
    return datasets.DatasetDict(splits)


def gsm_table():
    features = datasets.Features({"question": TEXT, "answer": TEXT})
    splits = {}
    for split in ("train", "test"):
        lines = (HELM_DATA / "gsm" / f"gsm_data_{split}").read_text(encoding="utf-8").splitlines()
        splits[split] = datasets.Dataset.from_list(
            [json.loads(line) for line in lines], features=features
        )
    return datasets.DatasetDict(splits)


def truthful_qa_table():
    """truthfulqa/truthful_qa, config generation, made the way of the hub's own script."""
    names = (
        "type",
        "category",
        "question",
        "best_answer",
        "correct_answers",
        "incorrect_answers",
        "source",
    )
    rows = [
        dict(zip(names, row, strict=True))
        for row in read_csv(HELM_DATA / "truthful_qa" / "data" / "TruthfulQA.csv")
    ]
    for row in rows:
        for name in ("correct_answers", "incorrect_answers"):
            row[name] = [answer.strip() for answer in row[name].strip().split(";")]
    features = datasets.Features(
        {name: TEXTS if name.endswith("answers") else TEXT for name in names}
    )
    return datasets.DatasetDict(
        {"validation": datasets.Dataset.from_list(rows[1:], features=features)}
    )


def mmlu_source(subject):
    return hub.replace(hub.MMLU, config=subject)


def tiny_mmlu():
    rows = [{"question": 'Said "a,\r\nb"?', "choices": ["1", "None", "", " 4 "], "answer": 1}]
    return datasets.DatasetDict(
        dict.fromkeys(("dev", "validation", "test"), datasets.Dataset.from_list(rows))
    )
