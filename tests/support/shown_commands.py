"""Commands, messages, paths and Python code that README, CONTRIBUTING and docs/ show."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

GENERATED = "configuration.md"  # written from the schema, which has tests of its own
SHELL = {"bash", "sh", "console"}
STARTS = ("effchal ", "python -m effchal", "bash scripts/", "python scripts/", "gunicorn ")
# Commands that no test runs, by how they start, and why.
NOT_RUN = {
    "docker": "needs Docker and its images",
    "pip install": "installs packages",
    "curl": "needs the server of the page; the integration test sends the same body",
    "inspect eval": "needs Inspect and a server",
    "gunicorn": "tests/integration/test_end_to_end.py starts it",
    "wandb sync": "tests/integration/test_wandb.py runs it",
    "eval": "changes the shell; the tests of completion run what it evaluates",
    "ruff": "scripts/test.sh runs it",
    "mypy": "scripts/test.sh runs it",
    "mkdocs build": "a test builds the site",
    "python -m pytest": "would run tests inside a test",
}


@dataclass(frozen=True)
class Shown:
    """One command as a document shows it."""

    document: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of the command, without a comment and without variables set before it."""
        words = shlex.split(self.text, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        return words

    @property
    def effchal(self) -> list[str] | None:
        """`[command, argument, ...]` of a command of this package, or None."""
        words = self.words
        if words[0] == "effchal":
            return words[1:]
        if words[:2] == ["python", "-m"] and words[2].partition(".")[0] == "effchal":
            module = words[2].partition(".")[2]
            return [module, *words[3:]] if module else words[3:]
        for command in ("helm", "lm_eval"):
            if words[:2] == ["bash", f"scripts/{command}.sh"]:
                return [command, *words[2:]]
        return None

    @property
    def script(self) -> str | None:
        """The file of the project that it runs, or None."""
        words = self.words
        is_file = len(words) > 1 and words[0] in ("bash", "python") and "/" in words[1]
        return words[1] if is_file else None

    @property
    def not_run(self) -> str | None:
        """Why no test runs it, or None."""
        text = " ".join(self.words)
        return next((why for start, why in NOT_RUN.items() if text.startswith(start)), None)


def documents() -> list[Path]:
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages]


def fenced(text: str, languages: set[str]) -> list[str]:
    """The fenced blocks of these languages."""
    blocks = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in blocks if language in languages]


def inline_code(text: str) -> list[str]:
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_blocks)]


def shown_commands() -> list[Shown]:
    """Every line of a shell block, and inline code that starts as a command and has arguments."""
    found = []
    for path in documents():
        text, name = path.read_text(), str(path.relative_to(ROOT))
        lines = []
        for block in fenced(text, SHELL):
            lines += block.replace("\\\n", " ").splitlines()
        spans = [span for span in inline_code(text) if span.startswith(STARTS)]
        for line in [*lines, *spans]:
            line = line.strip().removeprefix("$ ")
            if line and not line.startswith("#"):
                found.append(Shown(name, line))
    return found


def without_placeholders(words: list[str], run: str = "run", file: str = "file.jsonl") -> list[str]:
    """The words with a real run folder and a real file where a document says <run> or <file>."""
    places = {"outputs/train/<run>": run, "<run>": "run", "<file>": file, "<folder>": str(ROOT)}
    for place, real in places.items():
        words = [word.replace(place, real) for word in words]
    return words


def split_arguments(arguments: list[str]) -> tuple[str | None, list[str], list[str]]:
    """The positional folder, the overrides and Hydra's flags of a command."""
    folder, overrides, flags = None, [], []
    rest = iter(arguments)
    for word in rest:
        if word == "--config-dir":
            overrides.append(f"hydra.searchpath=[file://{ROOT / next(rest)}]")
        elif word.startswith("-"):
            flags += [word, next(rest)] if word == "--cfg" else [word]
        elif "=" in word:
            overrides.append(word)
        else:
            folder = word
    return folder, overrides, flags


def paths_named() -> list[tuple[str, str]]:
    """(document, path or path::name) of everything in the project that inline code names."""
    top = "effchal|conf|docs|examples|experiments|benchmarks|scripts|tests"
    pattern = re.compile(rf"(?:{top})/[\w./-]+(?:::\w+)?")
    found = []
    studies = [*ROOT.glob("effchal/**/README.md"), *ROOT.glob("experiments/*/README.md")]
    for path in [*documents(), *sorted(studies)]:
        for span in inline_code(path.read_text()):
            if pattern.fullmatch(span):
                found.append((str(path.relative_to(ROOT)), span))
    return found
