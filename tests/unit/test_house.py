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


def is_private(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"_[^\W_]\w*", name) is not None


def own_names(tree: ast.AST) -> set[str]:
    """What a file defines: functions, classes, variables, attributes of self."""
    own = set()
    for node in ast.walk(tree):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store())
            ):
                own.add(name)
    return own


def foreign_private_names(tree: ast.AST, own: set[str], all_own: set[str]) -> set[str]:
    """Private names that a file takes from objects of others; os._exit is documented."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=module, names=names):
                found.update(*(f"{module}.{each.name}".split(".") for each in names))
            case ast.Import(names=names):
                found.update(*(each.name.split(".") for each in names))
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                found |= {name} - all_own
            case ast.Attribute(attr=name):
                found |= {name} - own
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" | "setattr" | "delattr"),
                args=[_, ast.Constant(value=name), *_],
            ):
                found |= {name} - own
    return set(filter(is_private, found - {"_exit"}))


def test_a_private_name_of_a_library_stands_in_one_module_with_its_version():
    files = sorted((ROOT / "effchal").rglob("*.py"))
    trees = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in files}
    own = {path: own_names(tree) for path, tree in trees.items()}
    all_own = set().union(*own.values())
    uses: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for name in foreign_private_names(tree, own[path], all_own):
            uses.setdefault(name, []).append(str(path))
    assert {"_internal", "_cdata", "_version", "_linear_pointwise"} <= set(uses)
    assert {name: places for name, places in uses.items() if len(places) > 1} == {}
    for name, (place,) in uses.items():
        says = re.search(r"checked[\s#]+with[\s#]+[\w\s#-]*\d", (ROOT / place).read_text())
        assert says, f"{place} uses {name}: say the version that it was checked with"
