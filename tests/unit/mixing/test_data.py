import json
import sys
import types

import pytest
from support.examples import load_source
from support.paths import SHARED_DATA, needs_shared_data

from effchal.config import CleanConfig, DataSourceConfig
from effchal.config.choices import DataFormat
from effchal.mixing.locate import BUILTIN_DIR
from effchal.mixing.read import read_source
from effchal.mixing.sources import DataError

LIMA = {"conversations": ["q", "a"], "source": "x"}
PLATYPUS = {"instruction": "add", "input": "1 1", "output": "2", "data_source": "math"}


def source(path, data_format=DataFormat.platypus, **options):
    return DataSourceConfig(path=str(path), format=data_format, **options)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lima_rows_keep_their_turns(tmp_path):
    rows = [LIMA, {"conversations": ["q1", "a1", "q2", "a2"], "source": "x"}]
    examples = load_source("s", source(write(tmp_path / "a.jsonl", rows), DataFormat.lima))
    assert [example.id for example in examples] == ["s:0", "s:1"]
    assert [(turn.role, turn.content) for turn in examples[1].turns] == [
        *(("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"))
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_the_three_file_kinds_give_the_same_examples(tmp_path, suffix):
    rows = [PLATYPUS, PLATYPUS | {"input": ""}]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        write(path, rows)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(path)
    examples = load_source("s", source(path))
    assert [example.turns[0].content for example in examples] == ["add\n\n1 1", "add"]


def test_where_keeps_rows_by_column_and_says_what_it_never_saw(tmp_path, caplog):
    rows = [PLATYPUS | {"data_source": name} for name in ("a", "b", "a", "c")]
    cfg = source(write(tmp_path / "a.jsonl", rows), where={"data_source": ["a", "z"]})
    clean = CleanConfig()
    for _ in range(2):  # read, and found in the cache
        caplog.clear()
        assert read_source("s", cfg, clean).numbers.tolist() == [0, 2]
        assert "no row where data_source is z" in caplog.text


def test_where_that_keeps_nothing_says_what_there_is(tmp_path):
    with pytest.raises(DataError, match="no example that passes `where`: data_source has math"):
        load_source(
            "s", source(write(tmp_path / "a.jsonl", [PLATYPUS]), where={"data_source": ["zzz"]})
        )
    with pytest.raises(DataError, match=r"line 1: no column 'topic'.*it has instruction, input"):
        load_source("s", source(tmp_path / "a.jsonl", where={"topic": ["zzz"]}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"instruction": "x", "outp',
            r"line 2, column \d+: not JSON .*was it written to the end\?",
        ),
        ("\n", "line 2: empty line"),
        ("[1]\n", "line 2: expected an object with named fields, found list"),
        (
            json.dumps(PLATYPUS | {"output": " "}) + "\n",
            "line 2, field 'output': expected text, found str ' '",
        ),
        (
            json.dumps({"instruction": "x"}) + "\n",
            "line 2: platypus needs output, and the row has instruction",
        ),
        (
            json.dumps(PLATYPUS | {"instruction": 5}) + "\n",
            "line 2, field 'instruction': expected text, found int",
        ),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_field(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PLATYPUS) + "\n" + line)
    with pytest.raises(DataError, match=f"rows.jsonl, {message}"):
        load_source("s", source(path))


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"instruction": "\xff"}\n')
    with pytest.raises(DataError, match="line 1, byte 18: not UTF-8"):
        load_source("s", source(path))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["only a question"], ": 1 turns; it takes question and answer in turn"),
        (["q", "a", "q"], ": 3 turns"),
        (["q", " "], ", turn 2: expected text, found str ' '"),
        ("text", ": expected a list of texts, question and answer in turn, found str"),
        (None, ": expected a list of texts, question and answer in turn, found nothing"),
        (["q", 5], ", turn 2: expected text, found int 5"),
    ],
)
def test_a_bad_conversation_is_named(tmp_path, said, message):
    path = write(tmp_path / "a.jsonl", [LIMA, {"conversations": said}])
    with pytest.raises(DataError, match=rf"line 2, field 'conversations'{message}"):
        load_source("s", source(path, DataFormat.lima))


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_half_written_file_is_named(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_text('[{"instruction": "x", ')
    with pytest.raises(DataError, match=f"rows{suffix}.*(not JSON|not a readable parquet)"):
        load_source("s", source(path))


def test_a_missing_file_and_an_unknown_kind_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"source s: no file .*nope\.jsonl .*data_mix\.sources\.s\.path"
    ):
        load_source("s", source(tmp_path / "nope.jsonl"))
    (tmp_path / "rows.txt").write_text("a,b")
    with pytest.raises(DataError, match=r"rows\.txt is no \.jsonl, \.json, \.csv, \.tsv, "):
        load_source("s", source(tmp_path / "rows.txt"))


def test_a_hub_id_without_a_revision_needs_the_hub():
    with pytest.raises(
        DataError, match=r"the hub cannot be asked .*data_mix\.sources\.lima\.revision="
    ):
        load_source("lima", source("GAIR/lima", DataFormat.lima))


class Hub:
    """Stands where huggingface_hub and datasets stand, and fails as they do."""

    config = types.SimpleNamespace(HF_DATASETS_CACHE="cache")

    def __init__(self, error):
        self.error = error

    def hf_hub_download(self, *_, **__):
        raise self.error

    load_dataset = hf_hub_download


class GatedRepoError(OSError):
    pass


class DatasetNotFoundError(FileNotFoundError):
    pass


@pytest.mark.parametrize("file", [None, "train.jsonl"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            GatedRepoError("Access restricted"),
            "is gated: accept its terms on the hub and set HF_TOKEN",
        ),
        (DatasetNotFoundError("no such"), "is no file here, and not on the hub at revision 0{40}"),
        (ConnectionError("no route"), r"cannot be reached \(ConnectionError\)"),
    ],
)
def test_a_hub_that_refuses_is_an_error_with_reason_and_way_out(monkeypatch, file, error, reason):
    monkeypatch.setitem(sys.modules, "datasets", Hub(error))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Hub(error).hf_hub_download)
    lima = source("GAIR/lima", DataFormat.lima, revision="0" * 40, file=file)
    with pytest.raises(
        DataError, match=rf"source lima: GAIR/lima {reason}.*data_mix\.sources\.lima\.path=<\.jsonl"
    ):
        load_source("lima", lima)


def test_the_genuine_hub_clients_fail_with_the_same_message():
    lima = source(
        "GAIR/effchal-has-no-such-set", DataFormat.lima, revision="0" * 40, file="train.jsonl"
    )
    with pytest.raises(DataError, match=r"source lima: .*data_mix\.sources\.lima\.path"):
        load_source("lima", lima)


def test_the_shipped_examples_are_what_the_readme_says():
    talk = load_source("talk", source("builtin:conversations.jsonl", DataFormat.lima))
    tasks = load_source("tasks", source("builtin:instructions.jsonl"))
    assert (len(talk), len(tasks)) == (85, 92)
    assert sum(len(example.turns) > 2 for example in talk) == 37
    assert len({example.prompt_key for example in talk + tasks}) == 177
    assert {path.suffix for path in BUILTIN_DIR.iterdir()} == {".jsonl"}


@needs_shared_data
def test_real_lima_and_open_platypus_load():
    lima = load_source("lima", source(SHARED_DATA / "train" / "lima.jsonl", DataFormat.lima))
    assert len(lima) == 1029
    path = SHARED_DATA / "train" / "open_platypus_components.jsonl"
    kept = {"data_source": ["scienceqa", "scibench", "reclor", "theoremqa", "ARB", "guanaco"]}
    assert len(load_source("platypus", source(path, where=kept))) == 1532
    assert len(load_source("platypus", source(path, where={"data_source": ["scibench"]}))) == 690
