"""`effchal data`: what a mix holds, without torch, and the same as what training sees."""

import json
import os
import re
import subprocess
import sys

import pytest
from support import forked
from support.paths import ROOT

from effchal.data import diff

MIX = ["data_mix=quickstart", "model=tiny", "rules=none", "train.max_steps=2"]
WITHOUT_TORCH = """
import sys, effchal.__main__
sys.argv = ["effchal", *sys.argv[1:]]
try:
    effchal.__main__.main()
finally:
    print("torch:", sys.modules.get("torch"), file=sys.stderr)
"""


def effchal(*arguments, folder=ROOT, code=("-m", "effchal")):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *code, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )


@pytest.fixture
def tokenizer_alone(tmp_path):
    """A folder with the tokenizer of the tiny model, and no model."""
    from effchal.model.tiny import tiny_folder

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for path in tiny_folder().glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def only_log_lines_without_torch(stderr):
    *lines, last = stderr.splitlines()
    assert last == "torch: None"
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d \S.*", line) for line in lines), stderr


def test_a_mix_is_built_and_shown_without_torch_or_weights(tmp_path, tokenizer_alone):
    arguments = [*MIX, f"model.name={tokenizer_alone}", f"hydra.run.dir={tmp_path}/out"]
    built = effchal("data", *arguments, code=("-c", WITHOUT_TORCH))
    assert built.returncode == 0, built.stderr
    only_log_lines_without_torch(built.stderr)
    head = (tmp_path / "out" / "mix.md").read_text().partition("\n\n## ")[0]
    assert f"{head}\n\nmore: {tmp_path}/out/mix.md\n" in built.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"data.log", "mix.json", "mix.md", "mix.png"}
    mix = json.loads((tmp_path / "out" / "mix.json").read_text())
    assert [source["rows"] for source in mix["sources"]] == [85, 92]
    shown = effchal("data", "show", "show.count=2", *arguments, code=("-c", WITHOUT_TORCH))
    only_log_lines_without_torch(shown.stderr)
    assert shown.stdout.count(" learned") == 2
    assert "⟦" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_train_sees_the_mix_that_data_tells_of(tmp_path):
    for command in ("data", "train"):
        result = forked.run([command, *MIX, f"hydra.run.dir={tmp_path}/{command}"])
        assert result.returncode == 0, result.stderr
    same = effchal("data", "diff", "data", "train", folder=tmp_path)
    assert (same.returncode, same.stderr) == (0, "")
    assert same.stdout == "A: data\nB: train\nthe same data in the same order\n"
    assert (tmp_path / "train" / "mix.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=missing.jsonl"], "error: source missing: no file missing.jsonl (from "),
        (["show", "show.source=x", "data_mix=quickstart"], "error: show.source=x: the sources are"),
        (["show", "show.count=0"], "error: show.count must be at least 1"),
        (["diff", "a"], "error: effchal data diff takes two folders"),
        (["diff", "a", "b"], "error: a has no mix.json"),
    ],
)
def test_what_is_wrong_is_one_line_in_two_seconds(arguments, message, tmp_path):
    before = os.times()
    result = effchal("data", *arguments, folder=tmp_path)
    after = os.times()
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert after.children_user - before.children_user < 2
    assert not (tmp_path / "outputs").exists()


def test_diff_ends_with_1_where_mixes_differ(tmp_path, capsys):
    for name, digest in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mix.json").write_text(json.dumps({"sha256": digest, "sources": []}))
    with pytest.raises(SystemExit, match="1"):
        diff([str(tmp_path / "a"), str(tmp_path / "b")])
    assert "not the same data" in capsys.readouterr().out
