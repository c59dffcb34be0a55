"""Data files as people have them: other spellings load, and a wrong file is told what it is."""

import codecs
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from support.examples import load_source

from effchal.config import DataSourceConfig
from effchal.config.choices import DataFormat
from effchal.mixing.sources import DataError

OK_ROWS = [{"instruction": f"Say {i}", "input": "", "output": f"{i} it is"} for i in range(3)]
OK_LINES = "".join(json.dumps(row) + "\n" for row in OK_ROWS).encode()


def parquet_of(names, values):
    file = io.BytesIO()
    pa.parquet.write_table(pa.table([[value] for value in values], names), file)
    return file.getvalue()


def source(path, data_format=DataFormat.platypus):
    return DataSourceConfig(path=str(path), format=data_format)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.JSONL", OK_LINES),
        ("rows.jsonl", codecs.BOM_UTF8 + OK_LINES),
        ("rows.jsonl.gz", gzip.compress(OK_LINES, mtime=0)),
        ("rows.json.gz", gzip.compress(json.dumps(OK_ROWS).encode(), mtime=0)),
        ("rows.json", codecs.BOM_UTF8 + json.dumps(OK_ROWS).encode()),
    ],
)
def test_a_file_of_another_spelling_loads(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    examples = load_source("s", source(tmp_path / name))
    assert [example.turns[0].content for example in examples] == ["Say 0", "Say 1", "Say 2"]


def test_separators_of_unicode_end_no_line(tmp_path):
    row = {"instruction": "line\u2028sep\x85", "output": "x\u2029y"}
    text = json.dumps(row, ensure_ascii=False) + "\n"
    (tmp_path / "rows.jsonl").write_bytes(text.encode() * 2)
    examples = load_source("s", source(tmp_path / "rows.jsonl"))
    assert [turn.content for turn in examples[1].turns] == ["line\u2028sep\x85", "x\u2029y"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.jsonl",
            OK_LINES.replace(b"\n", b"\r"),
            r"line 1, column \d+: not JSON .*end in CR alone, convert them: tr ",
        ),
        ("rows.jsonl", json.dumps(OK_ROWS).encode(), "line 1: .*its name must end in .json$"),
        (
            "rows.jsonl",
            json.dumps(OK_ROWS, indent=1).encode(),
            "line 1, column 2: not JSON .*its name must end in .json$",
        ),
        ("rows.json", OK_LINES, "line 2, column 1: not JSON .*its name must end in .jsonl$"),
        (
            "rows.json",
            json.dumps({"data": OK_ROWS}).encode(),
            "expected a list of rows, found an object; write the list of its key 'data' alone",
        ),
        (
            "rows.jsonl",
            OK_LINES.decode().encode("utf-16"),
            "line 1, byte 1: not UTF-8 but UTF-16, convert it: iconv ",
        ),
        (
            "rows.jsonl",
            OK_LINES + b'{"instruction": "a", "output": "first", "output": "second"}\n',
            "line 4: the key 'output' stands twice; remove one of the two",
        ),
        (
            "rows.csv",
            b"instruction,output,output\na,first,second\n",
            "line 1: the column 'output' stands twice; remove one of the two",
        ),
        (
            "rows.parquet",
            parquet_of(["instruction", "output", "output"], ["a", "first", "second"]),
            "the column 'output' stands twice; remove one of the two",
        ),
        (
            "rows.jsonl",
            OK_LINES + b'{"instruction": "a", "output": ' + b"7" * 5000 + b"}\n",
            "line 4: a number with too many digits; write it as text",
        ),
        (
            "rows.jsonl",
            OK_LINES + b'{"instruction": "a", "output": null}\n',
            "line 4, field 'output': expected text, found nothing; correct or remove the row",
        ),
        (
            "rows.jsonl",
            OK_LINES + b'{"instruction": "a", "output": 42}\n',
            "line 4, field 'output': expected text, found int 42; correct or remove the row",
        ),
        (
            "rows.jsonl.gz",
            gzip.compress(OK_LINES, mtime=0)[:-12],
            r"not a whole gzip file \(.*\); pack it",
        ),
        ("rows.jsonl.gz", OK_LINES, r"not a whole gzip file \(.*\); pack it again"),
        ("rows.parquet.gz", OK_LINES, "is no .jsonl, .json, .csv, .tsv, .parquet, .arrow or "),
    ],
)
def test_what_a_file_really_is_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_source("s", source(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "data_format"),
    [
        ({"conversations": ["q", "a"]}, DataFormat.lima),
        ({"instruction": "q", "output": "a"}, DataFormat.platypus),
        (
            {
                "prompt": [{"role": "user", "content": "q"}],
                "completion": [{"role": "assistant", "content": "a"}],
            },
            DataFormat.prompt_completion,
        ),
    ],
)
def test_a_system_text_beside_a_conversation_is_its_first_turn(tmp_path, row, data_format):
    rows = [row | {"system": "be brief"}, row | {"system": ""}, row | {"system": None}, row]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    first, *others = load_source("s", source(tmp_path / "rows.json", data_format))
    assert [turn.role for turn in first.turns] == ["system", "user", "assistant"]
    assert first.turns[0].content == "be brief"
    assert all([turn.role for turn in each.turns] == ["user", "assistant"] for each in others)
    assert first.prompt_key == others[0].prompt_key  # a shared system text decides no split
