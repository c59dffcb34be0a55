"""What no linter holds: short files and functions, and lists that must agree with one another."""

import ast
import re
import tomllib
from itertools import chain

import pytest
from support.paths import ROOT

from effchal import __version__

FOLDERS = ("benchmarks", "effchal", "examples", "experiments", "scripts", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOUNS = ("bundle", "model_source", "rules", "runs")  # beside the commands; more is in packages
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_300_lines_and_a_function_50(path):
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= 300
    if lines <= 50:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTION):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 50, f"{node.name} has {lines} lines"


def test_a_command_is_a_short_file_that_nothing_imports():
    from effchal.cli.command_help import COMMANDS

    root = {path.stem for path in (ROOT / "effchal").glob("*.py")}
    assert root == set(COMMANDS) | {"__init__", "__main__", "api", *NOUNS}
    names = "|".join(COMMANDS)
    imports = re.compile(
        rf"^\s*(?:(?:from|import) effchal\.(?:{names})|from effchal import .*\b(?:{names}))\b",
        re.MULTILINE,
    )
    for name in COMMANDS:
        assert len((ROOT / "effchal" / f"{name}.py").read_text().splitlines()) <= 95, name
    for path in (ROOT / "effchal").rglob("*.py"):
        assert not imports.search(path.read_text()), path


def test_no_test_file_imports_another():
    for path in SOURCES:
        if path.is_relative_to(ROOT / "tests") and path.name.startswith("test_"):
            imported = re.findall(r"^\s*(?:from|import) (test_\w+)", path.read_text(), re.MULTILINE)
            assert not imported, path


def test_every_package_is_in_the_wheel():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "effchal").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == {*packages, "effchal.conf"}


def locked(name: str) -> dict[str, str]:
    """Exact versions of a lock file, by package name in small letters with hyphens."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(
        line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#")
    )


def test_the_oldest_lock_has_the_lower_bounds():
    oldest = locked("constraints-oldest.txt")
    project = PYPROJECT["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    for name, bound in re.findall(r"([\w-]+)>=([\d.]+)", " ".join(wanted)):
        assert f"{oldest[name]}.".startswith(f"{bound}."), f"{name}>={bound} but {oldest[name]}"


def test_pre_commit_runs_the_locked_versions():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    versions = locked("constraints.txt")
    hooks = re.findall(r"/(ruff|codespell)[\w-]*\n\s+rev: v(\S+)", text)
    assert hooks == [(name, versions[name]) for name in ("ruff", "codespell")]


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == __version__
