"""A user's own function that grades answers: evaluate.grader=<file.py>:<function>."""

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from effchal.config import ConfigError
from effchal.evaluation.questions.imports import imports_of

FORM = "evaluate.grader=<file.py>:<function>"
MAIN = "score"


class GraderError(Exception):
    """The user's function failed on an answer. The answers are kept, and can be graded again."""

    def __init__(self, label: str, message: str) -> None:
        super().__init__(message)
        self.label = label  # of the function


@dataclass(frozen=True)
class Grader:
    path: Path
    name: str
    function: Callable[[Any, str, dict[str, Any]], Any]
    imports: tuple[Path, ...] = ()  # files of its folder that it imports, directly or not
    sha256: str = field(init=False)  # of its file and of these

    def __post_init__(self) -> None:
        digests = [sha256_of(path) for path in (self.path, *self.imports)]
        joined = hashlib.sha256("".join(digests).encode()).hexdigest()
        object.__setattr__(self, "sha256", joined if self.imports else digests[0])

    def record(self) -> dict[str, Any]:
        """What results.json says of it."""
        folder = self.path.parent
        found = {path.relative_to(folder).as_posix(): sha256_of(path) for path in self.imports}
        named = {"function": self.label, "sha256": self.sha256}
        return named | ({"imports": found} if found else {})

    @property
    def label(self) -> str:
        return f"{self.path.name}:{self.name}"

    def grade(self, place: str, prompt: Any, row: dict[str, Any], answer: str) -> dict[str, float]:
        """What the function says of an answer, as scores by name, `score` first.

        Args:
            place: of the row, for messages.
            prompt: a text, or OpenAI's messages.

        Raises:
            GraderError: the function raised, or returned no finite number.
        """
        try:
            found = self.function(deepcopy(prompt), answer, deepcopy(row))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [each.lineno for each in frames if each.filename == str(self.path)]
            where = f", line {lines[-1]}" if lines else ""
            what = f"raised {type(error).__name__}: {error}"
            raise GraderError(self.label, f"{place}: {self.label}{where} {what}") from error
        try:
            return scores_of(found, self.name)
        except ValueError as error:
            raise GraderError(self.label, f"{place}: {self.label} returned {error}") from error


def load_grader(text: str) -> Grader:
    """The function of `<file.py>:<function>`.

    Raises:
        ConfigError: no such file or function, a file that cannot be imported, or a function that
            does not take three arguments.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        raise ConfigError(f"evaluate.grader={text}: give {FORM}")
    path = Path(file).absolute()
    if not path.is_file():
        raise ConfigError(f"evaluate.grader: no file {file} (from {Path.cwd()}); give {FORM}")
    module = imported(path)
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        has = f"it has {', '.join(own)}" if own else "it has no function"
        raise ConfigError(f"evaluate.grader: {file} has no function {name}; {has}")
    try:
        inspect.signature(function).bind("", "", {})
    except TypeError as error:
        raise ConfigError(
            f"evaluate.grader: {name} of {file} is called as {name}(prompt, answer, row): {error}"
        ) from error
    except ValueError:  # written in C, without a signature
        pass
    return Grader(path, name, function, imports_of(path))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def imported(path: Path) -> ModuleType:
    """A file as a module. What lies beside it can be imported, as from a script."""
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"effchal_grader_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"evaluate.grader: {path} is no file of Python; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"evaluate.grader: {path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


def scores_of(found: Any, name: str) -> dict[str, float]:
    """A function's result as scores by name, `score` first.

    Raises:
        ValueError: no finite number, or a dict without `score` that has several.
    """
    if not isinstance(found, dict):
        value = as_number(found)
        return {MAIN: value, name: value}
    named = {key: as_number(value, f"{key!r}: ") for key, value in found.items()}
    if not named or not all(isinstance(key, str) and key for key in named):
        raise ValueError(f"{found!r}; the keys of its dict must be names, at least one")
    if MAIN not in named and len(named) > 1:
        raise ValueError(f"{found!r}; one of several numbers must be called {MAIN!r}")
    main = named.get(MAIN, next(iter(named.values())))
    return {MAIN: main} | named


def as_number(value: Any, key: str = "") -> float:
    """Raises ValueError if it is no finite number."""
    value = value.item() if hasattr(value, "item") else value  # of numpy or torch
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{key}{value!r}; it must be a finite number, or True or False")
    return float(value)
