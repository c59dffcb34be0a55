"""What the documents say is so: commands compose, paths, names and messages exist."""

import ast
import importlib
import re

import pytest
from support.paths import ROOT
from support.shown_commands import (
    GENERATED,
    documents,
    fenced,
    paths_named,
    shown_commands,
    split_arguments,
    without_placeholders,
)

from effchal.cli.arguments import SWEPT, parse_override
from effchal.cli.command_help import COMMANDS
from effchal.cli.compose import compose_config
from effchal.cli.evaluate_arguments import has_several_decodings, models_as_words, question_words
from effchal.cli.several_models import are_several
from effchal.config.words import own_words

README_LINES = 130
SHOWN = shown_commands()
VARIES = "…"


def by_text(commands):
    return {f"{shown.document}: {shown.text}": shown for shown in commands}


PROGRAM = by_text(shown for shown in SHOWN if shown.effchal is not None)
SCRIPT = by_text(shown for shown in SHOWN if shown.script is not None)
OTHER = by_text(shown for shown in SHOWN if shown.effchal is None and shown.script is None)


def test_the_documents_show_every_command():
    shown = {command.effchal[0] for command in PROGRAM.values()}
    assert shown >= set(COMMANDS)
    assert len(SHOWN) > 60  # or the extraction has missed most of them


@pytest.mark.integration
@pytest.mark.parametrize("text", PROGRAM)
def test_a_shown_command_composes(text):
    command, *arguments = without_placeholders(PROGRAM[text].effchal)
    assert command in COMMANDS
    if not COMMANDS[command].reads:
        parser = importlib.import_module(f"effchal.{command}").parser()
        if arguments:  # without any, the document names the command
            parser.parse_args(arguments)
        return
    _, overrides, flags = split_arguments(arguments)
    assert set(flags) <= {"-m", "--cfg", "job", "--help"}
    is_sweep = "-m" in flags
    if command in SWEPT:
        models = [word for word in models_as_words(arguments) if "=" not in word and word[0] != "-"]
        is_sweep = is_sweep or are_several(models) or has_several_decodings(overrides)
        overrides = [w for w in models_as_words(overrides) if "=" in w]
    overrides = question_words(overrides) if command == "evaluate" else overrides
    overrides = own_words(command, overrides)
    compose_config([first_job(word) for word in overrides] if is_sweep else overrides)


def first_job(word):
    """The override as the first job of a sweep has it."""
    override = parse_override(word)
    if not override.is_sweep_override():
        return word
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize("text", SCRIPT)
def test_a_shown_script_exists_and_knows_its_flags(text):
    path = ROOT / SCRIPT[text].script
    assert path.is_file()
    if path.suffix == ".py":
        flags = [word for word in SCRIPT[text].words if word.startswith("--")]
        assert [flag for flag in flags if f'"{flag}"' not in path.read_text()] == []


@pytest.mark.parametrize("text", OTHER)
def test_any_other_command_is_listed_with_a_reason(text):
    assert OTHER[text].not_run


def defines(file, name):
    return re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b", file.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("document", "path"), sorted(set(paths_named())))
def test_a_named_path_exists(document, path):
    file, _, name = path.partition("::")
    if "/results" not in file:  # what a run leaves, not what the project holds
        assert (ROOT / file).exists()
        assert not name or defines(ROOT / file, name)


def printed_texts():
    """Every text of the package, with `…` for what is filled in."""
    for path in [*(ROOT / "effchal").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", None) for part in node.values)
                yield "".join(part if isinstance(part, str) else VARIES for part in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[srd]|\{[^}]*\}", VARIES, node.value)


def fragments(message):
    """What the code may build a message from: the text between values, and the sentences."""
    parts = (part.strip() for part in re.split(rf"{VARIES}|; ", message))
    return [part for part in parts if len(part) > 4]


def test_every_message_of_troubleshooting_is_one_of_the_package():
    texts = "\n".join(printed_texts())
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\|(?: \d+ \|)? `(.+?)` \|", page, re.MULTILINE)
    assert len(messages) > 60
    assert [m for m in messages if not all(part in texts for part in fragments(m))] == []


def test_readme_is_short_and_no_page_is_left_out():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = [path for path in documents() if path.parent.name == "docs"]
    assert [path.name for path in pages if path.name not in nav] == []
    assert GENERATED in nav


def test_python_code_of_the_documents_parses():
    blocks = [block for path in documents() for block in fenced(path.read_text(), {"python"})]
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_sentences_are_short():
    texts = [path.read_text() for path in documents() if path.name != GENERATED]
    lengths = [len(sentence.split()) for text in texts for sentence in sentences(text)]
    assert sum(lengths) / len(lengths) <= 15
    assert max(lengths) <= 32


def sentences(markdown):
    """Sentences of the running text: no code blocks, no tables, no headings."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(#|\||Held by).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text).replace("*", "")
    paragraphs = re.split(r"\n\s*\n|\n\s*(?:-|\d+\.) ", text)
    for paragraph in paragraphs:
        for sentence in re.split(r"(?<=[.?!])\s+", " ".join(paragraph.split())):
            if len(sentence.split()) > 2:
                yield sentence
