"""Rows of data files: what is read, and what an error says of a bad one."""

import pytest

from effchal.config import ConfigError
from effchal.mixing.rows import DataRow, parse_json, read_jsonl, shown


class RowError(ConfigError):
    """One that a caller brings."""


def write(folder, content):
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    return path


def test_rows_know_their_line(tmp_path):
    path = write(tmp_path, '{"a": "é"}\r\n{"a": "two"}'.encode())
    rows = list(read_jsonl(path, RowError))
    assert [row.text("a") for row in rows] == ["é", "two"]
    assert [row.place for row in rows] == [f"{path}, line 1", f"{path}, line 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "line 1: empty line; remove it"),
        (b'{"a": 1}\n  \n', "line 2: empty line"),
        (b'{"a": "\xff"}\n', "line 1, byte 8: not UTF-8"),
        (b"{\n", r"line 1, column 2: not JSON \(.*\)$"),
        (
            b'{"a": "x',
            r"line 1, column 7: not JSON .*the file ends inside it: was it written to the end",
        ),
        (b"[" * 100_000 + b"\n", "line 1: brackets nested too deeply"),
        (b"[1]\n", r"line 1: expected an object with named fields, found list \[1\]"),
    ],
)
def test_a_bad_line_is_named_with_its_place(tmp_path, content, message):
    with pytest.raises(RowError, match=f"rows.jsonl, {message}"):
        list(read_jsonl(write(tmp_path, content), RowError))


def test_an_error_in_a_whole_file_names_line_and_column():
    with pytest.raises(RowError, match=r"^task.json, line 2, column 1: not JSON \(.*\)$"):
        parse_json(b"{\n{", "task.json", RowError)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda row: row.text("absent"), "field 'absent': expected text, found nothing"),
        (lambda row: row.text("number"), "field 'number': expected text, found int 5"),
        (lambda row: row.text("empty"), "field 'empty': expected text, found str ' '"),
        (lambda row: row.text("half"), "field 'half': half a character"),
        (lambda row: row.texts("list"), "field 'list', item 2: expected text, found int 5"),
        (lambda row: row.texts("number"), "field 'number': expected a list of texts, found int 5"),
        (lambda row: row.texts("none"), r"field 'none': expected a list of texts, found list \[\]"),
        (lambda row: row.choice("text", ("b", "c")), "expected one of b, c, found str 'a'"),
        (lambda row: row.nested("text"), "field 'text': expected an object with named fields"),
        (lambda row: row.nested("object").text("x"), "field 'object', field 'x': expected text"),
    ],
)
def test_a_bad_field_is_named_with_what_it_has(check, message):
    fields = {"text": "a", "number": 5, "empty": " ", "half": "\ud800", "list": ["a", 5]}
    row = DataRow(fields | {"none": [], "object": {}}, "f, line 3", RowError)
    with pytest.raises(RowError, match=message) as caught:
        check(row)
    assert str(caught.value).startswith("f, line 3, field ")


def test_good_fields_are_returned():
    row = DataRow(
        {"text": "a", "empty": " ", "list": ["a", "b"], "object": {"x": "y"}}, "f", RowError
    )
    assert (row.text("text"), row.texts("list")) == ("a", ["a", "b"])
    assert row.text("empty", may_be_empty=True) == " "
    assert row.choice("text", ("a", "b")) == "a"
    assert row.nested("object").text("x") == "y"


def test_a_long_value_is_cut():
    assert shown("x" * 200) == f"str 'x{'x' * 91}..."
    assert shown(None) == "nothing"
