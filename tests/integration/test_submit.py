"""A run is handed in, and reproduced from the folder alone."""

import json
import shutil
from pathlib import Path

import pytest
from support import forked
from support.configs import compose_config
from support.paths import ROOT

from effchal.config import load_config
from effchal.conformance_checks.process_answers import CHECKS
from effchal.conformance_checks.verdict import Status, Verdict
from effchal.submission import hand_in, reproduction, stages

TINY = ["model=tiny", "prompt=plain", "data_mix.validation_fraction=0", "budget.hours=0.1"]
ROWS = [{"prompt": f"What is {n} + 2?", "completion": str(n + 2)} for n in range(6)]
BROKEN = Verdict("greedy_is_greedy", "A rule.", Status.broken, "it is not", 0.1, [])


@pytest.fixture(autouse=True)
def _quick_steps(monkeypatch):
    """Commands run in processes forked from one that has imported torch, and few rules are asked.

    The server is a process of its own that runs the folder's code.
    """

    def run(code, command, words, inside=True):
        result = forked.run([command, *words], cwd=code.folder if inside else Path.cwd())
        if result.returncode:
            raise stages.StageError(result.stdout + result.stderr)

    monkeypatch.setattr(stages.Code, "run", run)
    monkeypatch.setattr(stages, "CHECKS", CHECKS[:4])


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A tiny run on data that lies beside it, which is gone afterwards."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = [*TINY, "data=mine.jsonl", "train.max_steps=2", "hydra.run.dir=run"]
    result = forked.run(["train", *words], cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_a_run_is_handed_in_and_reproduced(run_dir, tmp_path, monkeypatch):
    shutil.copy(ROOT / "examples" / "questions.jsonl", tmp_path / "asked.jsonl")
    monkeypatch.chdir(run_dir.parent)
    typed = [f"bundle={run_dir}", "decoding=dola_low", "submit.include_data=true"]
    typed += ["scenario.entries=[]", f"scenario.data=['{tmp_path / 'asked.jsonl'}']"]
    folder = hand_in.submit(compose_config(typed), typed, tmp_path / "out")
    facts = json.loads((folder / "submission.json").read_text())
    assert facts["conformance"]["broken"] == []
    assert set(facts["evaluation"]["entries"]["asked.jsonl"]["decodings"]) == {"greedy", "dola low"}
    assert load_config(folder / "bundle" / "config.yaml").decoding.method.value == "dola"
    assert facts["training"]["adapter_sha256"] in (folder / "README.md").read_text()
    assert (folder / facts["included_data"]["mine"]).read_text() == Path("mine.jsonl").read_text()
    results = (folder / "evaluation" / "results.json").read_text()
    assert str(tmp_path) not in results

    monkeypatch.chdir(tmp_path)  # where no mine.jsonl lies
    (tmp_path / "asked.jsonl").unlink()
    words = [f"reproduce.folder={folder}"]
    found = reproduction.reproduce(compose_config(words), words, tmp_path / "again")
    assert [each.what for each in found if each.ok is False] == []
    judged = [each.what for each in found if each.ok]
    assert judged[:5] == ["files", "adapter of the folder", "base model", "data", "time"]
    assert "asked.jsonl, score, dola low" in judged
    told = {each.what: (each.there, each.here) for each in found}
    assert told["adapter"][0] == told["adapter"][1]  # the same machine gives the same bytes
    assert told["answers to the letter"] == ("20", "20 the same")  # nine, two decodings, controls


def test_a_broken_rule_leaves_no_folder(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "conform", lambda *_: [BROKEN])
    typed = [f"bundle={run_dir}", "scenario.entries=[]"]
    typed.append(f"scenario.data=['{ROOT / 'examples' / 'questions.jsonl'}']")
    with pytest.raises(stages.StageError, match=r"allow_broken=\[greedy_is_greedy\]"):
        hand_in.submit(compose_config(typed), typed, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*submission*"))
