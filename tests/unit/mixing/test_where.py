"""Which rows a `where:` keeps, and what it refuses."""

import json

import pytest
from support.examples import load_source

from effchal.config import CleanConfig, ConfigError, DataSourceConfig
from effchal.mixing.read import read_source
from effchal.mixing.readers import DataError

COLUMNS = ("text", "score", "ok", "lang", "tags", "meta")
ROWS = [
    ("one", 5, True, "en", ["a"], {"lang": "en"}),
    ("three", 3.0, False, "en-GB", [], {"lang": "de"}),
    ("eleven", "5", None, None, ["a", "b"], {"lang": 5}),
    ("x", None, True, "fr", None, {"lang": None}),
]


def kept(tmp_path, where):
    path = tmp_path / "rows.jsonl"
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        int(example.id.partition(":")[2])
        for example in load_source("s", DataSourceConfig(path=str(path), where=where))
    ]


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ({"score": 5}, [0, 2]),
        ({"score": "5"}, [0, 2]),
        ({"score": [3]}, [1]),
        ({"score": ["3", 5]}, [0, 1, 2]),
        ({"ok": True}, [0, 3]),
        ({"ok": "true"}, [0, 3]),
        ({"ok": "True"}, [0, 3]),
        ({"ok": None}, [2]),
        ({"score": {"min": 4}}, [0, 2]),
        ({"score": {"min": 3, "max": 4.5}}, [1]),
        ({"score": {"max": 3}}, [1]),
        ({"text": {"min_chars": 4}}, [1, 2]),
        ({"text": {"min_chars": 3, "max_chars": 5}}, [0, 1]),
        ({"tags": {"max_chars": 1}}, [0, 1, 3]),
        ({"lang": {"matches": "^en"}}, [0, 1]),
        ({"lang": {"matches": "gb$"}, "ok": False}, []),
        ({"lang": {"not": "fr"}}, [0, 1, 2]),
        ({"lang": {"not": ["fr", "en"]}}, [1, 2]),
        ({"lang": {"not": {"matches": "^en"}}}, [2, 3]),
        ({"score": {"not": {"min": 4}}}, [1, 3]),
        ({"text": {"matches": "e", "not": "one", "max_chars": 5}}, [1]),
        ({"meta.lang": "en"}, [0]),
        ({"meta.lang": [5, "de"]}, [1, 2]),
        ({"lang": "en", "score": {"min": 5}}, [0]),
    ],
    ids=str,
)
def test_conditions_keep_rows(tmp_path, where, numbers):
    if numbers:
        assert kept(tmp_path, where) == numbers
    else:
        with pytest.raises(
            DataError, match=r"no example that passes `where`: lang has en, en-GB, "
        ):
            kept(tmp_path, where)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"minimum": 3}, r" has \{'minimum': 3\}; a condition is a value, .*min, max, min_chars"),
        ({}, r" has \{\}; a condition is a value"),
        ([], " must be a value or a list of values, got \\[\\]"),
        ([{"min": 3}], " must be a value or a list of values, got"),
        ({"min": "x"}, r"\.min must be a number, got 'x'"),
        ({"max_chars": True}, r"\.max_chars must be a number, got True"),
        ({"min": 5, "max": 3}, ": min is above max, so no row can pass"),
        ({"matches": "("}, r"\.matches is no regular expression \(.*\): '\('"),
        ({"matches": 5}, r"\.matches is no regular expression"),
        ({"not": {"less": 5}}, r"\.not has \{'less': 5\}"),
    ],
    ids=str,
)
def test_a_condition_that_is_none_is_refused_with_its_key(tmp_path, condition, message):
    with pytest.raises(ConfigError, match=rf"^data_mix\.sources\.s\.where\.score{message}"):
        kept(tmp_path, {"score": condition})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"language": "en"}, "line 1: no column 'language', which `where` filters by; it has"),
        ({"meta.language": "en"}, r"line 1: no column 'meta\.language', which `where` filters by"),
        ({"text.x": "en"}, r"line 1: no column 'text\.x', which `where`"),
        ({"text": {"min": 3}}, "line 1, column 'text': `where` compares it with a number"),
        ({"score": {"min_chars": 3}}, "line 1, column 'score': `where` measures the length"),
    ],
    ids=str,
)
def test_a_row_that_a_condition_cannot_judge_is_named(tmp_path, where, message):
    with pytest.raises(DataError, match=message):
        kept(tmp_path, where)


def test_a_listed_value_that_no_row_has_is_told(tmp_path, caplog):
    where = {"lang": ["en", "es", "pt"], "score": [5.0]}
    kept(tmp_path, where)
    read_source(
        "s", DataSourceConfig(path=str(tmp_path / "rows.jsonl"), where=where), CleanConfig()
    )
    assert caplog.messages[-1] == "source s has no row where lang is es, pt"
