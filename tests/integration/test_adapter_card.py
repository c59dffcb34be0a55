"""The model card that a run leaves in its bundle: true to run.json, and what it shows works."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from support.paths import ROOT
from support.training_runs import Stop, record, run, start

from effchal.bundle import check_bundle
from effchal.config.choices import BundleOf
from effchal.training import saving, validation


def card(folder):
    check_bundle(folder / "bundle")
    return (folder / "bundle" / "adapter" / "README.md").read_text()


def test_a_card_says_what_run_json_says(tiny_cfg, tmp_path):
    assert run(tiny_cfg, tmp_path) == 0
    text, done = card(tmp_path), record(tmp_path)
    before, after = done["validation_loss_before"], done["validation_loss"]
    assert f"| validation loss | {before:.3f} before, {after:.3f} after" in text
    assert f"| tokens | {done['tokens']:,}, of them {done['target_tokens']:,} to learn |" in text
    assert "| status | finished" in text
    assert json.loads((tmp_path / "mix.json").read_text())["sha256"] in text
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "peft"
    assert {path.name for path in tmp_path.iterdir() if "bundle" in path.name} == {"bundle"}


def test_a_card_is_the_same_but_for_measured_figures(tiny_cfg, tmp_path):
    def without_measures(text):
        return re.sub(r"\| (hours|peak memory) \|.*", "", text)

    run(tiny_cfg, tmp_path / "one")
    run(tiny_cfg, tmp_path / "two")
    assert without_measures(card(tmp_path / "one")) == without_measures(card(tmp_path / "two"))


def test_an_interrupted_run_has_a_card_too(tiny_cfg, tmp_path):
    tiny_cfg.budget.periodic_work_share = 1.0  # or a busy machine leaves out a validation
    run(tiny_cfg, tmp_path, Stop(after_steps=3))
    text = card(tmp_path)
    assert "| status | interrupted by a signal" in text
    assert "| steps | 3 of 6 planned |" in text
    assert f"before, {record(tmp_path)['validation_loss']:.3f} after" in text  # a periodic one


def test_a_card_of_the_best_weights_has_their_loss(tiny_cfg, tmp_path, monkeypatch):
    losses = iter([4.0, 3.0, 1.0, 2.0])
    monkeypatch.setattr(validation, "validation_loss", lambda *_: next(losses))
    tiny_cfg.train.validate_every, tiny_cfg.train.checkpoint_every = 2, 5
    tiny_cfg.budget.periodic_work_share = 1.0
    tiny_cfg.train.bundle = BundleOf.best
    run(tiny_cfg, tmp_path)
    text = card(tmp_path)
    assert "| weights | of step 4, the lowest validation loss |" in text
    assert "| validation loss | 4.000 before, 1.000 after" in text


def test_a_disk_without_space_for_the_last_figures_leaves_the_first_card(
    tiny_cfg, tmp_path, monkeypatch, caplog
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "replace_text", full)
    assert run(tiny_cfg, tmp_path) == 0
    assert "not measured after" in card(tmp_path)
    assert "the model card lacks the last validation" in caplog.text


def test_the_command_is_the_one_that_began_the_run(tmp_path):
    arguments = ["model=tiny", "data_mix=quickstart", "budget=smoke", "train.max_steps=2"]
    assert start(arguments, tmp_path / "run").wait(120) == 0
    shown = f"effchal train {' '.join(arguments)} hydra.run.dir="
    assert record(tmp_path / "run")["command"] == shown.removesuffix(" hydra.run.dir=")
    assert f"```bash\n{record(tmp_path / 'run')['command']}\n```" in card(tmp_path / "run")


@pytest.mark.parametrize("moved", [False, True])
def test_the_lines_of_python_in_a_card_work(tiny_cfg, tmp_path, moved):
    run(tiny_cfg, tmp_path)
    bundle = tmp_path / "bundle"
    if moved:
        bundle = shutil.move(bundle, tmp_path / "elsewhere")
    text = (bundle / "adapter" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace("<bundle>", str(bundle))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Why is the sky blue?" in done.stdout
