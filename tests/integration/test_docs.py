"""What the documents show, run: commands with the tiny model, scripts, Python code, the site."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest
from support import forked
from support.paths import ROOT
from support.servers import Server
from support.shown_commands import fenced, shown_commands, without_placeholders

SHOWN = shown_commands()
SCRIPTS = sorted({shown.script for shown in SHOWN if shown.script is not None})
RUN = "outputs/train/tiny"
TINY = ["model=tiny", "data_mix=quickstart", "budget=smoke", "rules=none"]
TWO_STEPS = ["train.max_steps=2", "train.warmup_steps=0"]


def shown(start):
    """The arguments of a command that a document shows, by how it starts."""
    found = [each for each in SHOWN if each.text.startswith(start)]
    assert found, f"no document shows {start!r}"
    return without_placeholders(found[0].effchal, run=RUN, file="questions.jsonl")


def effchal(folder, arguments, expected=(0,)):
    """Run `effchal ...` in a folder; its standard output."""
    result = forked.run(arguments, cwd=folder)
    assert result.returncode in expected, result.stdout + result.stderr
    return result.stdout


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished tiny run, as a document's <run>, and a file of questions."""
    folder = tmp_path_factory.mktemp("documents")
    arguments = [*shown("effchal train experiment=quickstart"), *TINY, *TWO_STEPS]
    effchal(folder, [*arguments, f"hydra.run.dir={RUN}"])
    assert json.loads((folder / RUN / "run.json").read_text())["status"] == "finished"
    shutil.copy(ROOT / "examples" / "questions.jsonl", folder)
    return folder


def test_a_run_is_resumed_by_its_folder(folder):
    effchal(folder, shown("effchal train outputs/train/<run>"))


def test_a_plan_is_printed(folder):
    arguments = shown("effchal plan model=smollm2_135m data_mix=quickstart plan.device=cpu")
    assert "needed:" in effchal(folder, [*arguments, *TINY])


def test_rules_are_checked(folder):
    found = effchal(
        folder, shown("effchal check rules="), expected=(0, 1)
    )  # 1: this machine has no such card
    assert "Challenge" in found


def test_a_base_model_is_packaged(folder):
    effchal(folder, [*shown("effchal package model="), "model=tiny", "hydra.run.dir=packaged"])
    assert (folder / "packaged" / "bundle" / "manifest.json").is_file()


def test_a_run_is_exported(folder):
    arguments = shown("effchal export outputs/train/<run> to=merged")
    told = effchal(folder, [*arguments, "folder=an export"])
    assert "greedy tokens the same: 128 of 128" in told
    assert (folder / "an export" / "export.json").is_file()


def test_questions_of_ones_own_are_evaluated(folder):
    arguments = shown("effchal evaluate outputs/train/<run> data=questions.jsonl")
    assert "greedy" in effchal(folder, [*arguments, "evaluate.resamples=100"])


def test_the_whole_config_is_shown(folder):
    assert "data_mix:" in effchal(folder, shown("effchal train --cfg job"))


def test_a_run_is_served_and_answers_what_the_page_asks(folder):
    arguments = shown("effchal serve outputs/train/<run> serve.port=8080")
    command = [word.replace("8080", "PORT") for word in arguments]
    curl = next(
        each for each in SHOWN if each.document == "docs/serving.md" and "curl" in each.text
    )
    body = curl.words[curl.words.index("-d") + 1]
    with Server(command, cwd=folder, env=environment()) as server:
        url = curl.words[1].replace("http://127.0.0.1:8080", server.url)
        answer = json.load(urllib.request.urlopen(url, body.encode(), timeout=60))
    assert answer["tokens"][0]["base_logprob"] <= 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_shown_script_answers(script):
    path = ROOT / script
    command = ["bash", "-n", path] if path.suffix == ".sh" else [sys.executable, path, "--help"]
    if path.suffix == ".py" and "argparse" not in path.read_text():
        command = [sys.executable, "-m", "py_compile", path]  # its arguments are positional
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_python_page_runs(folder):
    page = (ROOT / "docs" / "python.md").read_text()
    code = "\n".join(fenced(page, {"python"}))
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_site_builds_and_asks_nobody_else(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    env = environment() | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    loaded = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?://", re.IGNORECASE)
    for page in tmp_path.rglob("*.html"):
        assert not loaded.search(page.read_text()), page
