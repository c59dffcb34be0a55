"""Sentences and lines of the running text in documents, docstrings and comments."""

import ast
import io
import itertools
import re
import tokenize

MOST_WORDS = 32
COLUMNS = 88
SECTIONS = r"^(Args|Attributes|Raises|Returns|Yields):$"


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


def long_sentences(markdown):
    return [each for each in sentences(markdown) if len(each.split()) > MOST_WORDS]


def code_prose(source):
    """Docstrings up to their sections, without lines in columns, and blocks of comments."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    docstrings = filter(None, map(ast.get_docstring, nodes))
    texts = [re.split(SECTIONS, text, maxsplit=1, flags=re.MULTILINE)[0] for text in docstrings]
    return [re.sub(r"(?m)^.*\S {2,}\S.*$", "", text) for text in texts] + comments(source)


def comments(source):
    """The text of each block of comments; one behind code is a block of its own."""
    blocks = []
    for _, group in itertools.groupby(_comment_lines(source), lambda pair: pair[0]):
        blocks.append("\n".join(text for _, text in group))
    return blocks


def _comment_lines(source):
    """Each comment with a key that lines of one block share."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token for token in tokens if token.type == tokenize.COMMENT]
    for count, token in enumerate(found):
        row, is_alone = token.start[0], token.line.lstrip().startswith("#")
        yield (row - count if is_alone else f"line {row}"), token.string.lstrip("# ")


def long_lines(markdown):
    """Lines of running text over 88 columns that could be broken at a space."""
    text = re.sub(r"^ *```.*?^ *```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    prose = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "#"))]
    return [line for line in prose if len(line) > COLUMNS and _can_break(line)]


def _can_break(line):
    """Whether a space stands outside of code; that of a list item's mark does not count."""
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "", line)
    return " " in re.sub(r"`[^`]*`", "code", text).strip()
