"""What the documents say is so: commands compose, paths, names and messages exist."""

import ast
import importlib
import re
import textwrap

import pytest
from support.paths import ROOT
from support.prose import code_prose, long_lines, long_sentences, sentences
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


def test_the_documents_count_the_entries_that_are_compared_with_helm():
    from helm_parity import DRY, ENTRIES, expanded

    scored = [entry for entry in ENTRIES if not entry.startswith(DRY)]
    assert f"ours against HELM's, {len(scored)} kinds of entry" in (ROOT / "README.md").read_text()
    runs = [run for entry in ENTRIES for run in expanded(entry)]
    compared = (ROOT / "experiments" / "equality" / "README.md").read_text()
    assert f"HELM 0.5.16's, {len(runs)} runs of {len(ENTRIES)} entries" in compared


def test_python_code_of_the_documents_parses():
    blocks = [block for path in documents() for block in fenced(path.read_text(), {"python"})]
    assert blocks
    for block in blocks:
        ast.parse(block)


def beside_documents():
    """Pages whose prose is held to the same form, though nothing else of them is read here."""
    others = [ROOT / "CHANGELOG.md", ROOT / "effchal" / "kernels" / "README.md"]
    experiments = sorted((ROOT / "experiments").glob("*/README.md"))
    assert experiments
    return others + experiments


def test_sentences_are_short():
    texts = [path.read_text() for path in documents() if path.name != GENERATED]
    lengths = [len(sentence.split()) for text in texts for sentence in sentences(text)]
    assert sum(lengths) / len(lengths) <= 15
    texts += [path.read_text() for path in beside_documents()]
    assert [long for text in texts for long in long_sentences(text)] == []


def test_sentences_in_docstrings_and_comments_are_short():
    files = sorted((ROOT / "effchal").rglob("*.py"))
    prose = {file: code_prose(file.read_text()) for file in files}
    assert sum(len(texts) for texts in prose.values()) > 3000  # or most of it was missed
    assert [
        (f, long) for f, texts in prose.items() for t in texts for long in long_sentences(t)
    ] == []


LONG = "This " + "very " * 32 + "long sentence is one too many."


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (f'"""Short.\n\n{textwrap.fill(LONG, 60)}\n"""', True),
        (f'class A:\n    def f():\n        """{LONG}"""', True),
        (textwrap.indent(textwrap.fill(LONG, 60), "# "), True),
        (f'"""Short.\n\nArgs:\n    a: {LONG}\n"""', False),
        (f'"""Short.\n\n`{LONG}` is code.\n"""', False),
        (f'"""Short:\n\na=1   {LONG}\n"""', False),  # columns
        (f'text = "{LONG}"', False),
    ],
)
def test_a_long_sentence_in_code_is_found(code, found):
    assert bool([long for text in code_prose(code) for long in long_sentences(text)]) is found


def test_lines_of_prose_fit_88_columns():
    pages = [path for path in documents() if path.name != GENERATED] + beside_documents()
    found = {str(page.relative_to(ROOT)): long_lines(page.read_text()) for page in pages}
    assert {page: lines for page, lines in found.items() if lines} == {}
    assert long_lines("# " + LONG + f"\n| {LONG} |\n```\n{LONG}\n```\n- `{LONG}`,\n") == []
    assert long_lines(f"- {LONG}\n") == [f"- {LONG}"]
