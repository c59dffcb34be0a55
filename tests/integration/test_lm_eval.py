"""lm-eval itself on a tiny model; runs where lm-eval's environment is there."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from support.lm_eval_tasks import KINDS, QUESTIONS, write_own_tasks
from support.paths import ROOT

from effchal.evaluation.lm_eval.encode import rolling_windows
from effchal.evaluation.results import LONGEST
from effchal.runs import read_json_lines

PYTHON = ROOT / ".venv-lm-eval" / "bin" / "python"
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(), reason="no .venv-lm-eval; effchal lm_eval 'tasks=[...]' makes it"
)
TINY = ["model=tiny", "prompt=plain", "lora=none", "decoding=dola_high"]
TINY += ["decoding.repetition_penalty=1.2"]
DECODINGS = ["greedy", "greedy, penalty 1.2", "dola high", "dola high, penalty 1.2"]


def start(run_dir, tasks, *arguments):
    command = [sys.executable, "-m", "effchal.lm_eval", *TINY, f"include_path={tasks}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"HF_HOME": str(tasks / "hub")}
    arguments = [*arguments, f"hydra.run.dir={run_dir}"]
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, **pipes)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_own_tasks(tmp_path_factory.mktemp("tasks"), times=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tasks):
    """A run of all tasks: its folder, and what it printed."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    process = start(run_dir, tasks, "tasks=[own_group,own_answers,own_texts]")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return run_dir, out


def test_every_decoding_is_told_in_our_form_and_in_lm_evals(whole):
    run_dir, _ = whole
    results = json.loads((run_dir / "results.json").read_text())
    assert results["status"] == "finished"
    assert results["harness"].startswith("lm-eval 0.4")
    entries = results["entries"]
    assert set(entries) == set(KINDS)
    assert list(entries["own_answers"]["decodings"]) == DECODINGS
    assert list(entries["own_choices"]["decodings"]) == ["greedy", "dola high", LONGEST]
    assert list(entries["own_texts"]["decodings"]) == ["greedy", "dola high"]
    for decoding in (*DECODINGS, LONGEST):
        folder = run_dir / "lm_eval" / re.sub(r"\W", "_", decoding)
        (path,) = folder.rglob("results_*.json")
        theirs = json.loads(path.read_text())["results"]
        for task, entry in entries.items():
            if decoding not in entry["decodings"]:
                continue
            found = entry["decodings"][decoding]
            means = {name: each["mean"] for name, each in found["metrics"].items()}
            ours = means | found.get("of_all_instances", {})
            metrics = [each["metric"] for each in KINDS[task]["metric_list"]]
            for name in metrics:
                assert ours[name] == pytest.approx(theirs[task][f"{name},none"])
            assert next(folder.rglob(f"samples_{task}_*.jsonl")).is_file()


def test_instances_have_choices_answers_and_scores(whole):
    run_dir, out = whole
    lines = read_json_lines(run_dir / "instances.jsonl")
    assert len(lines) == 4 * 3 * len(QUESTIONS)
    first = {line["entry"]: line for line in lines if line["id"] == "0"}
    choices = first["own_choices"]
    assert [each["text"] for each in choices["references"]] == QUESTIONS[0][1]
    assert [each["correct"] for each in choices["references"]] == [True, False, False]
    longest = choices["decodings"][LONGEST]["logprobs"]
    assert max(longest) == longest[2] > 0
    assert sum(choices["decodings"]["dola high"]["layers"].values()) > 0
    answer = first["own_answers"]["decodings"]["greedy"]
    assert answer["tokens"] <= 6
    assert "\n" not in answer["text"]
    texts = first["own_texts"]["decodings"]["greedy"]
    assert texts["metrics"] == {"log-likelihood": texts["logprobs"][0]}
    for shown in ("| own_texts | word_perplexity |", "| own_group | acc |"):
        assert shown in out


def test_a_killed_run_asks_only_what_has_no_answer(whole, tasks, tmp_path):
    run_dir, answers = tmp_path / "killed", tmp_path / "killed" / "answers.jsonl"
    asked = "tasks=[own_group,own_answers,own_texts]"
    process = start(run_dir, tasks, asked)
    while not answers.is_file() or len(read_json_lines(answers)) < 20:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = answers.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    go_on = [sys.executable, "-m", "effchal", "lm_eval", str(run_dir)]
    found = subprocess.run(go_on, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert answers.read_bytes().startswith(before)
    keys = [line["key"] for line in read_json_lines(answers)]
    assert len(keys) == len(set(keys)) > len(before.splitlines())
    expected = (whole[0] / "instances.jsonl").read_text()
    assert (run_dir / "instances.jsonl").read_text() == expected


def test_several_decodings_are_compared_as_evaluate_does(tasks, tmp_path):
    asked = ["model=tiny", "lora=none", "prompt=plain", "decoding=greedy,sled"]
    asked += ["tasks=[own_choices]", f"include_path={tasks}", f"hydra.sweep.dir={tmp_path}"]
    command = [sys.executable, "-m", "effchal.lm_eval", *asked]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    compared = json.loads((tmp_path / "comparison.json").read_text())
    models = {letter: each["decoding"] for letter, each in compared["models"].items()}
    assert models == {"A": "greedy", "B": "sled high", "C": LONGEST}
    assert {each["found"]["instances"] for each in compared["differences"]} == {3 * len(QUESTIONS)}
    assert "own_choices" in found.stdout.partition("95 % interval")[2]


def test_long_texts_are_cut_into_the_windows_of_lm_eval():
    program = """
import json, sys
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
found = []
for length, longest in json.load(sys.stdin):
    windows = get_rolling_token_windows(list(range(1, length + 1)), 0, longest, 1)
    found.append([make_disjoint_window(window) for window in windows])
print(json.dumps(found))
"""
    cases = [[length, longest] for length in (0, 1, 4, 5, 8, 9, 23) for longest in (2, 4, 8)]
    given = json.dumps(cases)
    command = [PYTHON, "-c", program]
    asked = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    expected = json.loads(asked.stdout)
    for (length, longest), windows in zip(cases, expected, strict=True):
        ours = rolling_windows(list(range(1, length + 1)), 0, longest)
        assert [list(pair) for pair in ours] == windows
