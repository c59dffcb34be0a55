"""The page as a file: whole, harmless, small and fast, whatever lies in the folders."""

import base64
import csv
import gzip
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from support.made_up_runs import HOSTILE, config_text, make_evaluation, make_training

from effchal.report import main
from effchal.reporting.collect import collect
from effchal.reporting.page import MOST_BYTES, fitting_page
from effchal.reporting.payload import Report


@pytest.fixture
def config(tmp_path):
    return config_text(into=tmp_path / "made.yaml")


def report(monkeypatch, tmp_path, *arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["effchal report", *map(str, arguments)])
    main()


def data_of(page):
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


class Addresses(HTMLParser):
    """What the tags of a page name as another file; scripts are no tags."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, _, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset")]


def test_the_page_needs_nothing_from_elsewhere(monkeypatch, tmp_path, config):
    make_training(tmp_path / "runs" / "a", config)
    report(monkeypatch, tmp_path, "runs")
    page = (tmp_path / "report.html").read_text()
    addresses = Addresses()
    addresses.feed(page)
    assert [each for each in addresses.found if not each.startswith("#")] == ["data:,"]
    assert "@import" not in page
    assert "sourceMappingURL" not in page
    assert not re.search(r"url\((?!['\"]?data:)", page.partition("</style>")[0])
    assert data_of(page)["summary"] == "1 training run"


def test_hostile_names_and_texts_stay_texts(monkeypatch, tmp_path, config):
    name = HOSTILE.replace("/", "")
    run = make_training(tmp_path / "runs" / name, config)
    make_evaluation(tmp_path / "runs" / f"eval {name}", run, text=HOSTILE)
    report(monkeypatch, tmp_path, "runs")
    page = (tmp_path / "report.html").read_text()
    assert "hacked" not in page
    assert page.count("</script>") == page.count("<script") == 11
    data = data_of(page)
    assert {row["run"] for row in data["rows"]} == {name, f"eval {name}"}
    assert data["instances"][0]["answers"][0]["text"] == HOSTILE


def test_damaged_foreign_and_empty_folders_are_listed(monkeypatch, tmp_path, config, capsys):
    make_training(tmp_path / "runs" / "good", config)
    for name, text in {"half": '{"status": "fin', "foreign": "{}", "list": "[]"}.items():
        run = make_training(tmp_path / "runs" / name, config)
        (run / "run.json").write_text(text)
    evaluation = make_evaluation(tmp_path / "runs" / "odd", run)
    odd = {"entries": {"a": [], "b": {"decodings": {"greedy": 3, "x": {"metrics": {"m": 1}}}}}}
    (evaluation / "results.json").write_text(json.dumps(odd))
    (tmp_path / "runs" / "empty").mkdir()
    report(monkeypatch, tmp_path, "runs")
    data = data_of((tmp_path / "report.html").read_text())
    problems = {each["folder"].rpartition("/")[2]: each["reason"] for each in data["problems"]}
    assert problems == {
        "half": "run.json is damaged",
        "list": "run.json holds no mapping",
        "empty": "empty",
    }
    assert len(data["rows"]) == 5
    assert "3 folders could not be read or hold no run" in capsys.readouterr().out


def test_values_of_the_wrong_kind_do_not_stop_the_page(monkeypatch, tmp_path, config):
    run = make_training(tmp_path / "runs" / "a", config, peak_memory_gib="much", plan=[1])
    (run / "mix.json").write_text('{"sources": [3, {"source": "s", "dropped": [1]}]}')
    (run / "metrics.jsonl").write_text('{"step": 1, "samples": [1, {}]}\n[]\n"x"\n')
    evaluation = make_evaluation(tmp_path / "runs" / "b", run)
    (evaluation / "instances.jsonl").write_text(
        '{"decodings": {"g": 1}}\n{"id": [], "entry": 1}\n3\n'
    )
    report(monkeypatch, tmp_path, "runs")
    rows = data_of((tmp_path / "report.html").read_text())["rows"]
    assert rows[0]["memory"] is None


def test_names_that_are_no_text_are_shown_in_part(monkeypatch, tmp_path, config):
    make_training(tmp_path / "runs" / "odd \udcff", config)
    report(monkeypatch, tmp_path, "runs", "--csv", "t.csv", "--json", "t.json")
    assert data_of((tmp_path / "report.html").read_text())["rows"][0]["run"] == "odd ?"
    assert "odd ?" in (tmp_path / "t.csv").read_text()
    assert json.loads((tmp_path / "t.json").read_text())["rows"][0]["run"] == "odd ?"


def test_one_run_alone_says_what_it_reached(monkeypatch, tmp_path, config):
    run = make_training(tmp_path / "runs" / "2026-01-02_03-04-05_dev", config)
    report(monkeypatch, tmp_path, run)
    data = data_of((tmp_path / "report.html").read_text())
    assert data["rows"][0]["run"] == "dev"
    assert "it began at" in data["headline"][0]["why"]
    assert data["curves"]
    assert data["samples"]


def test_a_page_without_runs_is_made(monkeypatch, tmp_path, capsys):
    (tmp_path / "outputs").mkdir()
    report(monkeypatch, tmp_path)
    assert "no runs" in capsys.readouterr().out
    assert data_of((tmp_path / "report.html").read_text())["rows"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no folder nowhere"),
        (["--output", "no/where.html"], "no is missing; give a file"),
        (["--csv", "."], "is a folder; give a file"),
        (["--png", "/proc/no"], "cannot write /proc/no: No such file"),
        (["--what"], "unrecognized arguments: --what"),
    ],
)
def test_what_cannot_be_done_is_one_line(monkeypatch, tmp_path, capsys, arguments, message):
    (tmp_path / "outputs").mkdir()
    with pytest.raises(SystemExit) as end:
        report(monkeypatch, tmp_path, *arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.integration
def test_csv_json_and_pictures(monkeypatch, tmp_path, config):
    run = make_training(tmp_path / "runs" / "a $x$", config)
    make_evaluation(tmp_path / "runs" / "b", run)
    make_training(tmp_path / "runs" / "c", config)
    report(
        monkeypatch, tmp_path, "runs", *["--csv", "t.csv", "--json", "t.json", "--png", "pictures"]
    )
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["a $x$", "b", "c"]
    assert rows[0]["peak memory (GiB)"] == "1.5"
    assert rows[0]["planned hours"] == ""
    assert json.loads((tmp_path / "t.json").read_text())["rows"][0]["run"] == "a $x$"
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == ["cost.png", "decodings_0.png", "loss.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


@pytest.mark.integration
def test_500_runs_take_less_than_20_seconds_and_3_mb(tmp_path, config):
    for number in range(500):
        run = make_training(
            tmp_path / "runs" / f"s{number // 10}" / str(number % 10), config, steps=200
        )
        (run.parent / "multirun.yaml").touch()
        if number % 5 == 0:
            make_evaluation(tmp_path / "runs" / f"eval_{number}", run, instances=50)
    started = time.process_time()
    page, data = fitting_page(Report(collect([tmp_path / "runs"]), []))
    assert time.process_time() - started < 20
    assert len(page.encode()) <= MOST_BYTES < 3_000_000
    assert len(data["rows"]) == 600


@pytest.mark.integration
def test_50_long_runs_and_large_evaluations_fit(tmp_path, config):
    words = "".join(chr(0x4E00 + number * 37 % 9000) for number in range(1500))
    for number in range(50):
        run = make_training(tmp_path / "runs" / str(number), config, steps=500)
        text = words[number * 20 :]
        make_evaluation(tmp_path / "runs" / f"eval_{number}", run, instances=250, text=text)
    page, data = fitting_page(Report(collect([tmp_path / "runs"]), []))
    assert len(page.encode()) <= MOST_BYTES
    assert len(data["rows"]) == 100
    assert data["detail"]["points"] >= 30


@pytest.mark.integration
def test_the_report_needs_no_torch():
    heavy = "('torch', 'matplotlib')"
    code = f"import sys, effchal.report; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
