"""What people have, declared in one line of the command line: it loads, or says what is wrong."""

import gzip
import json
import random
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from support.paths import SHARED_CASES, needs_shared_cases

from effchal.cli.arguments import data_override, parse_override
from effchal.cli.compose import compose_config
from effchal.config import ConfigError
from effchal.config.io import sources_of, with_named
from effchal.mixing.locate import locate
from effchal.mixing.readers import read_rows
from effchal.mixing.sources import DataError, SourceReader

ROWS = [{"prompt": f"q{i}", "completion": f"a{i}", "n": i} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TABLE = "prompt;completion;n\n" + "".join(f"q{i};a{i};{i}\n" for i in range(3))
FORMATS = {
    "alpaca.jsonl": "platypus, 2 roles",
    "messages.jsonl": "messages, 3 roles",
    "messages_tools.jsonl": "messages, 3 roles",
    "messages_weighted.jsonl": "messages, 2 roles",
    "prompt_completion.jsonl": "prompt_completion, 2 roles",
    "prompt_completion_chat.jsonl": "prompt_completion, 2 roles",
    "qa.csv": "prompt_completion, 2 roles",
    "sharegpt.jsonl": "sharegpt, 3 roles",
    "text.jsonl": "text, 1 role",
}


def readers(*words):
    cfg = compose_config(list(words)).data_mix
    return [SourceReader(name, each, locate(name, each)) for name, each in cfg.sources.items()]


def questions(*words):
    return [example.turns[0].content for reader in readers(*words) for example in reader]


def arrow(path, as_file=False):
    table = pyarrow.Table.from_pylist(ROWS)
    make = pyarrow.ipc.new_file if as_file else pyarrow.ipc.new_stream
    with make(path, table.schema) as out:
        out.write_table(table, max_chunksize=2)


def zst(path, content=LINES):
    with pyarrow.output_stream(path, compression="zstd") as out:
        out.write(content)


WRITERS = {
    "mine.jsonl": lambda path: path.write_bytes(LINES),
    "mine.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "mine.jsonl.zst": lambda path: zst(str(path)),
    "mine.json": lambda path: path.write_text(json.dumps(ROWS)),
    "mine.json.zst": lambda path: zst(str(path), json.dumps(ROWS).encode()),
    "mine.csv": lambda path: path.write_text(TABLE.replace(";", ",")),
    "mine.csv.zst": lambda path: zst(str(path), TABLE.replace(";", ",").encode("utf-8-sig")),
    "mine.tsv": lambda path: path.write_text(TABLE.replace(";", "\t")),
    "mine.parquet": lambda path: pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(ROWS), path, row_group_size=2
    ),
    "mine.arrow": lambda path: arrow(str(path)),
    "mine.ARROW": lambda path: arrow(str(path), as_file=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_of_file_is_declared_in_a_word(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    WRITERS[name](tmp_path / name)
    (reader,) = readers(f"data={name}")
    assert [each.id for each in reader] == ["mine:0", "mine:1", "mine:2"]
    assert reader.described_format() == "prompt_completion, 2 roles"
    assert (reader.rows_read, reader.rows_kept, reader.located.described) == (3, 3, name)


@needs_shared_cases
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_declared_in_a_word(name):
    (reader,) = readers(f"data={SHARED_CASES / 'formats' / name}")
    assert sum(1 for _ in reader) == reader.rows_read > 0
    assert reader.described_format() == FORMATS[name]


def test_columns_are_declared_for_the_source_that_data_names(tmp_path):
    path = tmp_path / "own.jsonl"
    row = {"q": "asked", "meta": {"gold": "told"}, "text": "an article", "messages": None}
    path.write_text(json.dumps(row) + "\n")
    (reader,) = readers(
        f"data={path}:2", "data_mix.sources.own.columns={prompt: q, completion: meta.gold}"
    )
    (example,) = reader
    assert [turn.content for turn in example.turns] == ["asked", "told"]
    assert reader.cfg.weight == 2


ODD = ["a b.jsonl", "a,b.jsonl", "a=b.jsonl", "a[1].jsonl", "(x).jsonl", "l'été.jsonl"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_of_odd_characters_is_typed_as_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / name).touch()
    for word in (name, f"{name}:2", str(tmp_path / name), f"~/{name}"):
        assert read(f"data={word}") == word
    if "," not in name:
        assert read(f"data=[{name}, ~/{name}:2]") == [name, f"~/{name}:2"]


def read(word):
    return parse_override(data_override(word)).value()


def test_odd_paths_and_a_byte_order_mark_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a b.jsonl", "l'été.jsonl"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + LINES)
    assert questions("data=[a b.jsonl, ~/l'été.jsonl:2]") == ["q0", "q1", "q2"] * 2


@pytest.mark.parametrize(
    ("word", "paths"),
    [
        ("~/no.jsonl", "~/no.jsonl"),
        ("[~/no.jsonl:2, b.csv]", ["~/no.jsonl:2", "b.csv"]),
        ("d/*.jsonl", "d/*.jsonl"),
    ],
)
def test_a_path_that_is_not_there_is_read_as_it_is_too(word, paths):
    assert read(f"data={word}") == paths


@pytest.mark.parametrize("word", ["data=[a.jsonl", "data=a.jsonl,b.jsonl"])
def test_a_list_that_is_none_says_how_to_type_it(word):
    with pytest.raises(ConfigError, match=r"type .*'data="):
        compose_config([word])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["data=a.jsonl", "experiment=quickstart"], ["a"]),
        (["data=a.jsonl", "data_mix=lima"], ["lima", "a"]),
        (["data_mix=own", "data_mix.sources.mine.path=a.jsonl"], ["mine"]),
    ],
)
def test_data_is_the_whole_mix_or_added_to_the_one_typed_beside_it(words, names):
    assert list(compose_config(words).data_mix.sources) == names


def test_data_does_not_take_the_name_of_another_source():
    with pytest.raises(ConfigError, match=r"names lima\.csv, and the mix has another source lima;"):
        with_named("lima.csv", {"lima": {"path": "GAIR/lima"}})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/**/*.jsonl", "data"),
        ("data/train-*.parquet", "train"),
        ("*.csv", "data"),
        ("../v1.2/", "v1_2"),
        ("org/name-1.5", "name_1_5"),
        ("my.rows.jsonl.zst", "my_rows"),
        ("/", "data"),
    ],
)
def test_a_source_gets_the_name_of_its_file_folder_or_data_set(path, name):
    assert list(sources_of(path)) == [name]


WRONG = {
    "cut.jsonl.zst": (lambda path: (zst(str(path)), cut(path)), r"not a whole zstd file .*; pack"),
    "not.jsonl.zst": (
        lambda path: path.write_bytes(LINES),
        r"not a whole zstd file .*; pack it ag",
    ),
    "not.arrow": (lambda path: path.write_bytes(LINES), r"not a readable arrow file \("),
    "not.parquet": (lambda path: path.write_bytes(LINES), r"not a readable parquet file \("),
    "rows.parquet.gz": (lambda path: path.write_bytes(LINES), r"is no \.jsonl, .* file$"),
    "semicolons.csv": (lambda path: path.write_text(TABLE), r"line 1: ';' seems to separate its "),
    "latin.csv": (lambda path: path.write_bytes("prompt\n\xe9".encode("latin-1")), "not UTF-8$"),
    "wide.csv": (lambda path: path.write_bytes(TABLE.encode("utf-16")), "but UTF-16, convert it"),
    "empty.jsonl": (lambda path: path.touch(), r"empty\.jsonl\) has no example$"),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_not_what_its_name_says_is_told(tmp_path, name):
    write, message = WRONG[name]
    write(tmp_path / name)
    with pytest.raises(DataError, match=message) as raised:
        questions(f"data={tmp_path / name}")
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_long_text_in_a_table_is_read(tmp_path):
    (tmp_path / "long.csv").write_text(f"prompt,completion\n{'word ' * 40_000},yes\n")
    assert len(questions(f"data={tmp_path / 'long.csv'}")[0]) == 200_000


def test_a_parquet_file_is_not_read_as_a_whole(tmp_path):
    texts = [random.Random(i).randbytes(500).hex() for i in range(20_000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "large.parquet")
    del texts
    before, most = pyarrow.total_allocated_bytes(), 0
    for row in read_rows(tmp_path / "large.parquet"):
        assert len(row.fields["text"]) == 1000
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert most < 12e6  # of 20 MB in one group of rows, read whole it takes 25 MB


TOLD = """
import sys, time
from effchal.cli.compose import compose_config
from effchal.config import ConfigError
from effchal.mixing.locate import locate
from effchal.mixing.sources import SourceReader
for name, source in compose_config({words}).data_mix.sources.items():
    try:
        list(SourceReader(name, source, locate(name, source)))
    except ConfigError as error:
        print(error)
heavy = {{"torch", "transformers", "datasets"}} & sys.modules.keys()
print(heavy or "nothing heavy", "in time" if time.process_time() < 2 else time.process_time())
"""


@pytest.mark.integration
def test_what_is_wrong_is_told_without_a_heavy_import(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"conversations": [{"from": "human", "value": "q"}]}\n')
    arrow(str(tmp_path / "b.arrow"))
    words = [
        "data=[a.jsonl, b.arrow, nowhere.csv, someone/something]",
        "data_mix.sources.a.format=lima",
        "data_mix.sources.b.where={n: {min: 9}}",
    ]
    command = [sys.executable, "-c", TOLD.format(words=words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    *messages, last = done.stdout.splitlines()
    assert last == "nothing heavy in time"
    for message, part in zip(
        messages,
        (
            "turn 1: expected text, found dict {'from': 'human', 'value': 'q'}; correct or remove "
            "the row; the row looks like sharegpt: data_mix.sources.a.format=sharegpt",
            "source b (b.arrow) has no example that passes `where`: n has 0, 1, 2",
            "source nowhere: no file nowhere.csv (from ",
            "source something: someone/something is no file here, and the hub cannot be asked",
        ),
        strict=True,
    ):
        assert part in message
