"""`effchal report --challenge` as a command: what it prints, writes and refuses."""

import json

import pytest
from support.configs import compose_config
from support.contest_runs import evaluation

from effchal import report
from effchal.config import save_config
from effchal.evaluate import evaluate, is_of_contest, print_places


def test_the_command_prints_the_report_and_writes_it_for_programs(tmp_path, monkeypatch, capsys):
    evaluation(tmp_path / "run", {"gsm": 3})
    file = tmp_path / "places.json"
    words = ["--challenge", "--track", "a100", str(tmp_path / "run"), "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["effchal report", *words])
    report.main()
    assert "Track a100 of 2023: 9 finalists" in capsys.readouterr().out
    assert json.loads(file.read_text())["runs"][0]["places"] == 10
    monkeypatch.setattr("sys.argv", ["effchal report", *words, "--decoding", "dola"])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert end.value.code == 2
    assert "gsm has no decoding 'dola'; it has: greedy" in capsys.readouterr().err


@pytest.mark.parametrize("other", [["--csv", "a.csv"], ["--png", "png"], ["--watch"]])
def test_other_forms_are_refused_in_one_line(tmp_path, monkeypatch, capsys, other):
    evaluation(tmp_path / "run", {"gsm": 3})
    monkeypatch.setattr("sys.argv", ["effchal report", "--challenge", str(tmp_path), *other])
    with pytest.raises(SystemExit) as end:
        report.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert "--challenge goes with --json alone" in err


def test_a_file_that_cannot_be_written_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    evaluation(tmp_path / "run", {"gsm": 3})
    words = ["--challenge", str(tmp_path), "--json", "/proc/x"]
    monkeypatch.setattr("sys.argv", ["effchal report", *words])
    with pytest.raises(SystemExit) as end:
        report.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert "cannot write /proc/x" in err


@pytest.mark.parametrize("group", ["challenge", "challenge_open", "challenge_hidden"])
def test_an_evaluation_of_the_contest_ends_with_its_place(group, tmp_path, monkeypatch, capsys):
    evaluation(tmp_path / "run", {"mmlu:subject=anatomy": 20, "bbq:subject=Religion": 30})
    monkeypatch.setattr("effchal.evaluation.run.run", lambda *_: "the table")
    words = ["model=tiny", "lora=none", f"scenario={group}"]
    cfg = compose_config(words)
    cfg.resume_from = str(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    save_config(cfg, tmp_path / "run" / "config.yaml")
    evaluate(cfg, words, tmp_path / "run")
    output = capsys.readouterr().out
    assert output.startswith("the table\nTrack 4090 of 2023: 8 finalists\n")
    assert "MMLU" in output
    assert "- open: not complete" in output
    assert "The finalists, without these runs" not in output
    assert f"effchal report --challenge {tmp_path / 'run'}" in output


def test_other_entries_say_nothing_of_the_contest():
    assert is_of_contest(["truthful_qa_mc", "mmlu:subject=anatomy"])
    assert not is_of_contest(["truthful_qa_mc"])  # multiple choice by DoLa's metrics


def test_an_evaluation_without_a_score_of_the_contest_says_so(tmp_path, capsys):
    evaluation(tmp_path / "run", {"truthful_qa_mc": 20})
    print_places(tmp_path / "run")
    assert "no place in the contest: no score of the contest in" in capsys.readouterr().err
