"""The code of a hand-in, and its checksums."""

import subprocess
import sys

import pytest
from support.paths import ROOT

from effchal.config import ConfigError
from effchal.submission.context import (
    CHECKSUMS,
    FILES,
    check_checksums,
    project_root,
    write_checksums,
    write_context,
)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    write_context(folder)
    write_checksums(folder)
    return folder


@pytest.mark.integration
def test_the_context_is_the_program(context):
    code = "import effchal.cli.compose as cli; print(cli.PACKAGE, cli.CONF_DIR)"
    run = [sys.executable, "-P", "-c", code]
    environment = {"PYTHONPATH": str(context), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(context / "effchal"), str(context / "conf")]
    assert project_root() == ROOT
    assert all((context / name).is_file() for name in FILES)


def test_what_dockerfiles_copy_is_in_the_context(context):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    names = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    missing = {name for name in names if not list(context.glob(name))}
    # What a hand-in has of its own, and what a user may put there.
    assert missing == {"README.md", "bundle", "base_model", "outputs/models", "outputs/train"}


def test_sha256sum_reads_the_checksums(context):
    subprocess.run(["sha256sum", "--quiet", "-c", CHECKSUMS], cwd=context, check=True)
    assert check_checksums(context) > 300


def test_what_using_the_folder_leaves_is_no_part_of_it(context):
    for name in ("build/x", "effchal.egg-info/x", "again/x", "effchal/__pycache__/x.pyc"):
        (context / name).parent.mkdir(exist_ok=True)
        (context / name).write_text("x")
    check_checksums(context)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "a").write_text("other"), "a is not as it was handed in"),
        (lambda f: (f / "a").unlink(), "a is missing"),
        (lambda f: (f / "c").write_text("c"), "c is not in SHA256SUMS; remove it"),
        (lambda f: (f / CHECKSUMS).unlink(), "is no folder of effchal submit"),
        (lambda f: (f / CHECKSUMS).write_text("nonsense\n"), "line 1: not a checksum"),
        (lambda f: (f / CHECKSUMS).write_text("0" * 64 + "  ../a\n"), "line 1: not a checksum"),
    ],
)
def test_a_spoilt_folder_is_refused(tmp_path, spoil, message):
    for name in "ab":
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    assert check_checksums(tmp_path) == 2
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=message):
        check_checksums(tmp_path)


def test_an_installed_wheel_cannot_hand_in(monkeypatch, tmp_path):
    monkeypatch.setattr("effchal.submission.context.PACKAGE", tmp_path / "effchal")
    with pytest.raises(ConfigError, match="run effchal from a checkout"):
        project_root()
