"""Where a source's rows lie: folders, patterns, saved data sets, and the hub."""

import json
import types

import pytest
from support.examples import load_source

from effchal.config import ConfigError, DataMixConfig, DataSourceConfig
from effchal.mixing.hub import download
from effchal.mixing.locate import is_local, locate, pin_revisions
from effchal.mixing.readers import DataError, read_rows
from effchal.mixing.sources import SourceReader

COMMIT = "5d3ce1ca586ebe629847b7c81bfb7fa6373b9dbc"


def write(path, text="x", **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"text": text, **fields}) + "\n")
    return path


def files(path, **options):
    located = locate("s", DataSourceConfig(path=str(path), **options))
    return [file.name for file in located.files], located.described.removeprefix(str(path))


def test_a_folder_is_all_its_data_files_in_order(tmp_path):
    for name in ("b.jsonl", "a/z.jsonl", "a/y.csv", ".hidden/x.jsonl", "README.md", "c.txt"):
        write(tmp_path / name)
    assert files(tmp_path) == (["y.csv", "z.jsonl", "b.jsonl"], " (3 files)")


def test_a_folder_with_files_of_several_splits_gives_one_of_them(tmp_path, caplog):
    for name in ("train-0.jsonl", "train-1.jsonl", "test-0.jsonl", "val/0.jsonl", "more.jsonl"):
        write(tmp_path / name)
    assert files(tmp_path)[0] == ["more.jsonl", "train-0.jsonl", "train-1.jsonl"]
    assert caplog.messages == ["source s: split=train leaves out test-0.jsonl, val/0.jsonl"]
    assert files(tmp_path, split="test")[0] == ["more.jsonl", "test-0.jsonl"]
    for name in ("train-0.jsonl", "train-1.jsonl", "more.jsonl"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"only files of other splits than train: test-0\.jsonl"):
        files(tmp_path)


def test_a_pattern_is_the_files_that_match(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/2.jsonl", "d/10.jsonl", "d/e/1.jsonl", "d/notes.txt"):
        write(tmp_path / name)
    assert files("d/*.jsonl") == (["10.jsonl", "2.jsonl"], " (2 files)")
    assert files("d/**/[0-9].jsonl")[0] == ["2.jsonl", "1.jsonl"]
    with pytest.raises(DataError, match=r"no file matches d/\*\.csv \(from "):
        files("d/*.csv")
    with pytest.raises(DataError, match=r"source s: d/notes\.txt is no \.jsonl"):
        files("d/*")


@pytest.mark.parametrize("text", ["", "hello"])
def test_a_folder_without_data_says_what_it_has(tmp_path, text):
    if text:
        (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(DataError, match=f"it has {'notes.txt' if text else 'nothing'}$"):
        files(tmp_path)


def test_files_of_one_source_have_one_format_and_share_one_count(tmp_path):
    write(tmp_path / "a.jsonl", "first")
    write(tmp_path / "b.jsonl", "second")
    examples = load_source("s", DataSourceConfig(path=str(tmp_path)))
    assert [(each.id, each.turns[0].content) for each in examples] == [
        ("s:0", "first"),
        ("s:1", "second"),
    ]
    (tmp_path / "c.jsonl").write_text('{"prompt": "q", "completion": "a"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl is text and .*c\.jsonl is prompt_completion;"):
        load_source("s", DataSourceConfig(path=str(tmp_path)))


def test_a_data_set_that_was_saved_to_disk(tmp_path):
    import datasets

    table = datasets.Dataset.from_list([{"text": f"note {i}"} for i in range(4)])
    table.select([2, 0]).save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=table, test=table.select([3])).save_to_disk(tmp_path / "both")

    def texts(name, **options):
        cfg = DataSourceConfig(path=str(tmp_path / name), **options)
        return [example.turns[0].content for example in load_source("s", cfg)]

    assert texts("one") == ["note 2", "note 0"]
    assert len(texts("both")) == 4
    assert texts("both", split="test") == ["note 3"]
    with pytest.raises(DataError, match=r"no split dev; it has train, test: data_mix\.sour"):
        texts("both", split="dev")
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json: not a saved data set of `datasets`"):
        texts("one")


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("GAIR/lima", False),
        ("gsm8k", False),
        ("rows.jsonl.zst", True),
        ("nowhere/at/all", True),
        ("./nowhere", True),
        ("/nowhere", True),
        ("builtin:conversations.jsonl", True),
        ("data/*.jsonl", True),
    ],
)
def test_what_is_a_path_and_what_an_id_of_the_hub(path, local):
    assert is_local(DataSourceConfig(path=path)) is local


def test_a_condition_is_refused_before_a_file_is_looked_for():
    with pytest.raises(ConfigError, match=r"^data_mix\.sources\.s\.where\.n has"):
        files("nowhere.jsonl", where={"n": {"more": 3}})
    with pytest.raises(DataError, match=r"split=train\[:9\]: no part of a split; .*max_rows="):
        files("GAIR/lima", split="train[:9]")


class Hub:
    """A hub with one data set, of one file, at one commit."""

    def __init__(self, file):
        self.file, self.asked = file, []

    def dataset_info(self, path, revision):
        self.asked.append((path, revision))
        return types.SimpleNamespace(sha=COMMIT)

    def hf_hub_download(self, path, file, repo_type, revision, tqdm_class):
        assert (path, file, repo_type, revision) == ("org/set", "rows.jsonl", "dataset", COMMIT)
        return str(self.file)


def test_a_data_set_without_a_commit_gets_the_newest_one(tmp_path, monkeypatch, caplog):
    hub = Hub(write(tmp_path / "rows.jsonl"))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.hf_hub_download)
    mix = DataMixConfig(
        sources={
            "new": DataSourceConfig(path="org/set", file="rows.jsonl"),
            "branch": DataSourceConfig(path="org/set", file="rows.jsonl", revision="main"),
            "pinned": DataSourceConfig(path="org/set", file="rows.jsonl", revision=COMMIT),
            "local": DataSourceConfig(path=str(hub.file)),
        }
    )
    assert pin_revisions(mix) == [f"data_mix.sources.{name}.revision" for name in ("new", "branch")]
    assert [source.revision for source in mix.sources.values()] == [COMMIT] * 3 + [None]
    assert caplog.messages[0] == (
        "data_mix.sources.new.revision names no commit; this run takes "
        f"data_mix.sources.new.revision={COMMIT}"
    )
    assert hub.asked == [("org/set", None), ("org/set", "main")]
    located = locate("new", mix.sources["new"])
    assert (located.files, located.revision) == ((hub.file,), COMMIT)
    assert located.described == f"org/set at {COMMIT[:12]}, rows.jsonl"
    assert pin_revisions(mix) == []


def test_a_table_of_the_hub_is_the_files_that_its_client_keeps(tmp_path, monkeypatch):
    import datasets

    # The genuine client, with a folder in place of the hub's.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("train", "test"):
        write(tmp_path / "set" / f"{name}.jsonl", name)
    (path,) = download("s", DataSourceConfig(path=str(tmp_path / "set"), split="test"), COMMIT)
    assert path.is_relative_to(tmp_path / "cache" / f"effchal-{COMMIT}")
    assert [row.fields for row in read_rows(path)] == [{"text": "test"}]
    with pytest.raises(DataError, match=r"set cannot be reached \(ValueError\).*Unknown split"):
        download("s", DataSourceConfig(path=str(tmp_path / "set"), split="d", revision="x"), COMMIT)


def test_a_file_that_is_gone_when_it_is_read_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl")
    cfg = DataSourceConfig(path=str(path))
    reader = SourceReader("s", cfg, locate("s", cfg))
    path.unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl: cannot be read \(No such file"):
        list(reader)


def test_without_the_hub_a_data_set_without_a_commit_is_refused():
    mix = DataMixConfig(sources={"s": DataSourceConfig(path="org/set")})
    with pytest.raises(DataError, match=r"source s: org/set is no file here.*s\.revision=<commit>"):
        pin_revisions(mix)
