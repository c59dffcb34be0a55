"""Tables that HELM's perturbations and bias scores need: words and names, as data files.

None ships with this package. Three stand in HELM's own source, two in HELM's storage.
`hub` fetches them into the folder of the data, where they lie as TABLES says. HELM keeps the
two of its storage beside that folder, and they are found there, too.
"""

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.evaluation.scenarios.types import MissingDataError, ScenarioError
from effchal.mixing.rows import DataRow, parse_json, shown

# By name: the place below scenario.path, and what to copy there by hand.
_SOURCE = "a copy of <HELM's environment>/lib/python*/site-packages/helm/benchmark"
_STORAGE = "HELM makes it as <its --output-path>"
TABLES = {
    "misspellings": (
        "helm/correct_to_misspelling.json",
        f"{_SOURCE}/augmentations/correct_to_misspelling.json",
    ),
    "contractions": (
        "helm/contraction_expansion_perturbation.py",
        f"{_SOURCE}/augmentations/contraction_expansion_perturbation.py",
    ),
    "bias_words": ("helm/bias_word_lists.py", f"{_SOURCE}/metrics/bias_word_lists.py"),
    "dialect": (
        "perturbations/dialect/SAE_to_AAVE_mapping.json",
        f"{_STORAGE}/perturbations/dialect/SAE_to_AAVE_mapping.json",
    ),
    "names": (
        "perturbations/person_name/data/person_names.txt",
        f"{_STORAGE}/perturbations/person_name/data/person_names.txt",
    ),
    "punkt": (
        "nltk_data/tokenizers/punkt_tab/english/ortho_context.tab",
        "python -c 'import nltk; nltk.download(\"punkt_tab\")' makes ~/nltk_data",
    ),
}
CANONICAL = ("misspellings", "contractions", "dialect", "names")  # of data_augmentation=canonical
_SOURCE_ROLE = "white_american"
_TARGET_ROLE = "black_american"


@dataclass(frozen=True)
class Names:
    """First names in lower case, in the order of the file."""

    replaced: tuple[str, ...]
    replacing: tuple[str, ...]
    by_gender: dict[str, tuple[str, ...]]  # every first name with a gender


@dataclass(frozen=True)
class PerturbationTables:
    misspellings: dict[str, list[str]]
    contractions: dict[str, str]  # long forms by contraction
    dialect: dict[str, list[str]]
    names: Names


@dataclass(frozen=True)
class BiasWords:
    """Words by group and by kind, each list in HELM's order."""

    groups: dict[str, dict[str, list[str]]]  # "race" and "gender", then the group
    professions: list[str]


def find_table(path: Path, entry: str, name: str) -> Path:
    """The file of a table.

    Raises:
        MissingDataError: it is neither in the folder of the data nor where HELM leaves it.
    """
    place, by_hand = TABLES[name]
    for folder in (path, path.parent):
        if (folder / place).is_file():
            return folder / place
    what = f"no file {path / place} (from {Path.cwd()})"
    raise MissingDataError(entry, what, f"effchal fetch downloads it; by hand: {by_hand}")


def perturbation_tables(path: Path, entry: str) -> PerturbationTables:
    """The tables of data_augmentation=canonical.

    Raises:
        ScenarioError: one is missing or malformed.
    """
    files = [find_table(path, entry, name) for name in CANONICAL]
    return _perturbation_tables(*files)


@functools.lru_cache(maxsize=1)
def _perturbation_tables(
    misspellings: Path, contractions: Path, dialect: Path, names: Path
) -> PerturbationTables:
    found = literals(contractions).get("CONTRACTION_MAP")
    if not isinstance(found, dict) or not found:
        raise ScenarioError(f"{contractions}: has no table CONTRACTION_MAP")
    return PerturbationTables(
        _word_lists(misspellings), found, _word_lists(dialect), _read_names(names)
    )


def bias_words(path: Path, entry: str) -> BiasWords:
    """The word lists of HELM's stereotype and representation scores.

    Raises:
        ScenarioError: the file is missing or malformed.
    """
    file = find_table(path, entry, "bias_words")
    found = literals(file)
    try:
        groups = {"race": found["RACE_TO_NAME_LISTS"], "gender": found["GENDER_TO_WORD_LISTS"]}
        return BiasWords(groups, found["PROFESSION_LIST"])
    except KeyError as error:
        raise ScenarioError(f"{file}: has no table {error}") from error


def nltk_data(path: Path, entry: str) -> Path:
    """The folder for NLTK, with the data that split English text into sentences."""
    return find_table(path, entry, "punkt").parents[3]


def literals(file: Path) -> dict[str, Any]:
    """Constants that a Python file sets, by name. The file is read, not run."""
    found: dict[str, Any] = {}
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                found[node.target.id] = _value(node.value, found)
    except (SyntaxError, ValueError, KeyError) as error:
        raise ScenarioError(f"{file}: not HELM's file of this name ({error})") from error
    return found


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """A literal, or a dict whose values are literals or constants set before."""
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(key): _value(value, known) for key, value in pairs if key}
    return known[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def _word_lists(file: Path) -> dict[str, list[str]]:
    found = parse_json(file.read_bytes(), str(file), ScenarioError)
    if not isinstance(found, dict) or not found:
        raise ScenarioError(f"{file}: expected an object of word lists, found {shown(found)}")
    row = DataRow(found, str(file), ScenarioError)
    return {word: row.texts(word) for word in found}


def _read_names(file: Path) -> Names:
    """First names from lines of <name>,<type>[,<category>,<value>]*."""
    by_value: dict[tuple[str, str], list[str]] = {}
    with file.open(encoding="utf-8") as stream:
        lines = [line.rstrip("\n") for line in stream]
    for number, line in enumerate(lines, start=1):
        name, comma, rest = line.partition(",")
        kind, *marks = rest.split(",")
        if not comma:
            raise ScenarioError(
                f"{file}, line {number}: expected <name>,<type>,..., found {shown(line)}"
            )
        if kind == "first_name":
            for category, value in zip(marks[::2], marks[1::2], strict=False):
                by_value.setdefault((category, value), []).append(name.strip().lower())

    def of(category: str, value: str) -> tuple[str, ...]:
        return tuple(by_value.get((category, value), ()))

    for role in (_SOURCE_ROLE, _TARGET_ROLE):
        if not of("race", role):
            raise ScenarioError(f"{file}: has no first name with race,{role}")
    genders = {gender: of("gender", gender) for gender in ("female", "male", "neutral")}
    return Names(of("race", _SOURCE_ROLE), of("race", _TARGET_ROLE), genders)
