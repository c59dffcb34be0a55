"""Rows as people have them: each file is declared by its path alone, and becomes turns."""

import json
import re

import pytest
from support.examples import encode_example, load_source

from effchal.cli.compose import compose_config
from effchal.config import CleanConfig, ConfigError, DataSourceConfig, ModelConfig, PromptConfig
from effchal.config.choices import DataFormat
from effchal.mixing.encode import IGNORE_INDEX
from effchal.mixing.read import read_source
from effchal.mixing.sources import DataError
from effchal.prompts.encoder import PromptEncoder

PARTS = [{"type": "text", "text": "Name a "}, {"type": "text", "text": "prime."}]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": "Seven"},
]
TOOLS = [
    {"role": "user", "content": "Weather in Oslo?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}],
    },
    {"role": "tool", "content": "4 C"},
    {"role": "assistant", "content": "Four degrees."},
]
WEIGHTED = [
    {"role": "user", "content": "Say no."},
    {"role": "assistant", "content": "Yes", "weight": 0},
    {"role": "user", "content": "No, please."},
    {"role": "assistant", "content": "No", "weight": 1},
]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
SYSTEM = {"from": "system", "value": "s"}
CALL = '{"name": "weather", "arguments": {}}'
ASKED = [("user", "q"), ("assistant", "a")]
PRIME = [("user", "Name a prime."), ("assistant", "Seven")]
ROWS = {
    "alpaca": (
        {"instruction": "Double.", "input": "2", "output": "4"},
        [("user", "Double.\n\n2"), ("assistant", "4")],
    ),
    "lima": ({"conversations": ["q", "a"]}, ASKED),
    "messages": ({"messages": MESSAGES}, [("system", "Be brief."), *PRIME]),
    "messages under another name": ({"conversations": MESSAGES[1:]}, PRIME),
    "tools": (
        {"messages": TOOLS, "tools": []},
        [
            ("user", "Weather in Oslo?"),
            ("assistant", CALL),
            ("tool", "4 C"),
            ("assistant", "Four degrees."),
        ],
    ),
    "sharegpt": ({"conversations": [SYSTEM, *SHAREGPT]}, [("system", "s"), *ASKED]),
    "prompt and completion": ({"prompt": "q", "completion": "a"}, ASKED),
    "prompt and completion of messages": (
        {"prompt": MESSAGES[1:2], "completion": MESSAGES[2:]},
        PRIME,
    ),
    "text": ({"text": "A note."}, [("text", "A note.")]),
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def loaded(path, **options):
    return load_source("mine", DataSourceConfig(path=path, **options))


@pytest.mark.parametrize("name", ROWS)
def test_a_format_is_known_by_its_fields(tmp_path, name):
    row, turns = ROWS[name]
    examples = loaded(write(tmp_path / "mine.jsonl", row, row))
    assert len(examples) == 2
    assert [(turn.role, turn.content) for turn in examples[0].turns] == turns


def test_the_format_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    path = write(tmp_path / "a.jsonl", {"messages": MESSAGES})
    for _ in range(2):  # read, and found in the cache
        caplog.clear()
        read_source("mine", DataSourceConfig(path=path), CleanConfig())
        assert "source mine: messages, 3 roles, 1 rows" in caplog.text


@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_a_table_keeps_quotes_separators_and_line_ends(tmp_path, ending, separator):
    path = tmp_path / f"qa{ending}"
    values = ['"Say ""1"", then."', '"""1"",\ndone"', "x"]
    lines = [separator.join(["prompt", "completion", "topic"]), separator.join(values)]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    (example,) = loaded(str(path), where={"topic": ["x"]})
    assert [turn.content for turn in example.turns] == ['Say "1", then.', '"1",\ndone']


def test_columns_of_other_names_are_mapped(tmp_path):
    path = write(tmp_path / "own.jsonl", {"question_text": "q", "gold": "a", "topic": "art"})
    (example,) = loaded(path, columns={"prompt": "question_text", "completion": "gold"})
    assert [turn.content for turn in example.turns] == ["q", "a"]
    with pytest.raises(DataError, match=r"line 1: no column 'golden', which `columns` reads as co"):
        loaded(path, columns={"prompt": "question_text", "completion": "golden"})


ENDS_WITH_USER = [*MESSAGES, {"role": "user", "content": "Bye"}]
EMPTY = {"role": "assistant", "content": ""}
IMAGE = MESSAGES[1] | {"content": [{"type": "image_url"}]}
WRONG = [
    (ENDS_WITH_USER, ": the last turn is user's; add the answer"),
    ([MESSAGES[1], EMPTY], ", turn 2, field 'content': expected text, found str ''"),
    ([{"role": "bot", "content": "x"}], ", turn 1, field 'role': expected one of system, user"),
    ([], ": expected a list of objects"),
    ("hello", ": expected a list of objects"),
    ([IMAGE], ", turn 1, field 'content', field 'type': expected one of text"),
    (
        [MESSAGES[1], {"role": "assistant", "content": None, "tool_calls": ["x"]}],
        ", turn 2, field 'tool_calls', turn 1: expected an object with named fields, found",
    ),
    ([turn | {"weight": 0} for turn in WEIGHTED], ": every answer has weight 0"),
    ([WEIGHTED[0], WEIGHTED[1] | {"weight": 0.5}], ", turn 2, field 'weight': expected 0 or 1"),
]


@pytest.mark.parametrize(("messages", "message"), WRONG)
def test_a_wrong_conversation_is_told_with_its_line(tmp_path, messages, message):
    path = write(tmp_path / "a.jsonl", {"messages": MESSAGES}, {"messages": messages})
    with pytest.raises(DataError) as raised:
        loaded(path)
    assert str(raised.value).startswith(f"{path}, line 2, field 'messages'{message}")


def test_a_row_of_no_format_names_its_fields_and_the_nearest(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question_text": "q", "completion": "a"})
    with pytest.raises(
        DataError,
        match=r"It has question_text, completion; prompt_completion needs prompt, too\. .*columns=",
    ):
        loaded(path)


def test_a_row_that_shares_no_field_is_told_what_to_map(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "q", "answer": "a"})
    message = (
        "It has question, answer; prompt_completion needs prompt, completion. Name its columns: "
        "data_mix.sources.mine.columns={prompt: <column>, completion: <column>}"
    )
    with pytest.raises(DataError, match=f"{re.escape(message)}$"):
        loaded(path)


def test_rows_of_two_formats_are_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", {"messages": MESSAGES}, {"text": "x"})
    with pytest.raises(DataError, match=r"line 1 is messages and .*line 2 is text; one source"):
        loaded(path)


def test_sharegpt_under_the_name_of_lima_says_what_it_is_not(tmp_path):
    row = ROWS["sharegpt"][0]
    message = "turn 1: expected text, found dict .*; the row looks like sharegpt: .*=sharegpt$"
    with pytest.raises(DataError, match=message):
        loaded(write(tmp_path / "a.jsonl", row), format=DataFormat.lima)


def target_texts(tokenizer, templates, turns_of_row, tmp_path):
    (example,) = loaded(write(tmp_path / "a.jsonl", turns_of_row))
    encoded = encode_example(example, PromptEncoder(tokenizer, templates), 512)
    return tokenizer.decode([target for target in encoded.targets if target != IGNORE_INDEX])


def test_what_is_learned_of_each_format(tmp_path):
    from effchal.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(ModelConfig(name="builtin:tiny"))
    templates = PromptConfig(user="U:{content}\n")

    def learned(row):
        return target_texts(tokenizer, templates, row, tmp_path)

    assert learned({"messages": WEIGHTED}) == "No</s>"
    assert learned({"messages": TOOLS}) == f"{CALL}</s>Four degrees.</s>"
    # The first token has no token before it.
    assert learned({"text": "A note."}) == " note.</s>"


def test_data_names_files_with_their_weights():
    cfg = compose_config(["data=[a.jsonl:2, b.parquet:0.5, x/a.jsonl]"])
    found = {name: (source.path, source.weight) for name, source in cfg.data_mix.sources.items()}
    assert found == {"a": ("a.jsonl", 2), "b": ("b.parquet", 0.5), "a_2": ("x/a.jsonl", 1)}
    assert cfg.data is None  # what the run's config.yaml keeps is the sources


def test_a_source_can_be_added_on_the_command_line():
    cfg = compose_config(["data_mix=quickstart", "+data_mix.sources.mine.path=a.jsonl"])
    assert cfg.data_mix.sources["mine"] == DataSourceConfig(path="a.jsonl")
    assert len(cfg.data_mix.sources) == 3
    with pytest.raises(ConfigError, match=r"unknown key data_mix\.sources\.mine\.pth; the nearest"):
        compose_config(["+data_mix.sources.mine.pth=a.jsonl"])


@pytest.mark.parametrize("value", ["5", "[1,2]", "{a: 1}"])
def test_data_that_names_no_file_is_refused(value):
    with pytest.raises(
        ConfigError, match=r"^data must be a file or a list of files, got .*a\.jsonl"
    ):
        compose_config([f"data={value}"])
