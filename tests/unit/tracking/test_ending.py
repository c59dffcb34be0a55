"""What a run and a sweep say at their end."""

import json

import pytest

from effchal.tracking.ending import ending, read_run
from effchal.tracking.sweep import SweepJob, failures_of, print_sweep

RECORD = {
    "status": "finished",
    "error": None,
    "step": 44,
    "steps_planned": 44,
    "limit_s": 270.0,
    "spent_s": 174.0,
    "validation_loss_before": 2.921,
    "validation_loss": 2.5127,
    "best_loss": 2.5127,
    "best_step": 44,
    "peak_memory_gib": 1.93,
    "plan": {"tokens_per_s": 412.3},
}


def run_folder(folder, **changes):
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "manifest.json").touch()
    (folder / "run.json").write_text(json.dumps(RECORD | changes))
    return folder


def test_a_finished_run_says_what_it_reached_and_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run_folder(tmp_path / "outputs" / "a run")
    assert ending(folder, read_run(folder)).splitlines() == [
        "finished          44 steps in 2.9 min of 4.5 min",
        "validation loss   2.921 before, 2.513 after; best 2.513 at step 44",
        "speed             412 tokens/s, peak memory 1.9 GiB",
        "next              effchal serve 'outputs/a run'",
        "                  effchal evaluate 'outputs/a run' 'scenario.entries=[truthful_qa_mc]'",
        "                  effchal report 'outputs/a run'",
    ]


@pytest.mark.parametrize(
    ("changes", "first", "last"),
    [
        (
            {"status": "stopped_by_budget", "step": 30, "first_step_s": 24.0},
            "stopped by budget 30 of 44 steps in 2.9 min of 4.5 min",
            "effchal train RUN budget.hours=0.087",
        ),
        (
            {"status": "interrupted", "step": 3},
            "interrupted       3 of 44 steps",
            "effchal train RUN",
        ),
        ({"status": "failed", "step": 3, "error": "non-finite"}, "failed   ", "effchal report RUN"),
    ],
)
def test_a_run_with_something_left_says_how_to_go_on(tmp_path, changes, first, last):
    folder = run_folder(tmp_path / "run", **changes)
    lines = ending(folder, read_run(folder)).splitlines()
    assert lines[0].startswith(first)
    assert lines[-1].strip() == last.replace("RUN", str(folder))
    assert ("error             non-finite" in lines) == (changes["status"] == "failed")
    assert len(lines) <= 8


def test_a_job_of_a_sweep_leaves_the_commands_to_the_table(tmp_path):
    folder = run_folder(tmp_path / "run")
    assert "effchal" not in ending(folder, RECORD, in_sweep=True)


def test_what_was_not_measured_says_so(tmp_path):
    absent = {"validation_loss": None, "best_loss": None, "peak_memory_gib": None, "plan": None}
    folder = run_folder(tmp_path / "run", **absent)
    (folder / "bundle" / "manifest.json").unlink()
    text = ending(folder, read_run(folder))
    assert "2.921 before, not measured after" in text
    assert "not measured, peak memory not measured" in text
    assert "serve" not in text


@pytest.mark.parametrize("content", [None, "{", "[]", '"x"'])
def test_a_folder_without_a_readable_record_has_none(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert read_run(tmp_path) is None


def test_a_sweep_ends_with_a_row_for_each_job_and_its_best_run(tmp_path, capsys):
    eight = ["name=x", "lora.r=8", "train.lr=0.1"]
    jobs = {
        run_folder(tmp_path / "0"): SweepJob(["name=x", "lora.r=4"]),
        run_folder(tmp_path / "1", validation_loss=2.4): SweepJob(eight),
        run_folder(tmp_path / "2", status="failed", error="non-finite", validation_loss=None): (
            SweepJob(["name=x", "lora.r=16"], "exit code 1")
        ),
        tmp_path / "3": SweepJob(["name=x", "lora.r=0"], "lora.r must be at least 1, got 0"),
    }
    print_sweep(jobs)
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "lora.r=4", "finished", "44/44", "2.513", "412", "1.9", "GiB", "0.048"] in rows
    (best,) = [row for row in rows if row[:2] == ["*", "1"]]
    assert best[2:6] == ["lora.r=8", "finished", "44/44", "2.400"]
    assert "failed: exit code 1" in text
    assert "refused: lora.r must be at least 1, got 0" in text
    assert f"* lowest validation loss, in {tmp_path}/1; next\n" in text
    assert f"  effchal serve {tmp_path}/1\n" in text
    assert failures_of(jobs).startswith("2 jobs of the sweep failed; ")
    assert failures_of({}) == ""


def test_a_sweep_without_a_loss_has_no_best_run(tmp_path, capsys):
    print_sweep(
        {run_folder(tmp_path / "0", validation_loss=None): SweepJob(["name=x", "lora.r=4"])}
    )
    assert "no best run: the validation loss was not measured" in capsys.readouterr().out
