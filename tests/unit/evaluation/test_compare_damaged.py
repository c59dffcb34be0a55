"""effchal compare: damaged files are named, with the entry and instance."""

import json

import pytest
from support.evaluations import write_evaluation

from effchal import compare as command
from effchal.config import ConfigError


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [str(write_evaluation(tmp_path / name, {"gsm": [1.0] * 5})) for name in "ab"]


def compare(*arguments):
    return command.run(command.parser().parse_args(list(arguments)))


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"high"', "null", "1" + "0" * 400])
def test_a_metric_that_is_no_number_is_told_with_its_instance(value, pair, tmp_path):
    path = tmp_path / "b" / "instances.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace('"exact_match": 1.0', f'"exact_match": {value}')
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"b/instances.jsonl is damaged at gsm, instance id3 .*"):
        compare(*pair)


def test_metrics_that_are_no_mapping_are_told_with_their_instance(pair, tmp_path):
    path = tmp_path / "b" / "instances.jsonl"
    path.write_text(path.read_text().replace('{"exact_match": 1.0}', "[1.0]", 1))
    with pytest.raises(ConfigError, match=r"instances.jsonl is damaged at gsm, instance id0 "):
        compare(*pair)


@pytest.mark.parametrize("key", ["split", "instances", "main_metric", "decodings"])
@pytest.mark.parametrize("value", [None, ["x"], 1.5])
def test_a_damaged_summary_is_told(key, value, pair, tmp_path):
    path = tmp_path / "b" / "results.json"
    record = json.loads(path.read_text())
    summary = record["entries"]["gsm"]
    for entries in ({"gsm": summary | {key: value}}, {"gsm": {}}, {"gsm": []}, ["gsm"], 5):
        path.write_text(json.dumps(record | {"entries": entries}))
        with pytest.raises(ConfigError, match=r"b/results.json is damaged"):
            compare(*pair)
    path.write_text(
        json.dumps(
            record
            | {"entries": {"gsm": {name: each for name, each in summary.items() if name != key}}}
        )
    )
    with pytest.raises(ConfigError, match=r"b/results.json is damaged"):
        compare(*pair)
