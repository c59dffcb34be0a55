"""What the cache of data survives: changed and damaged files, two builders, a full disk."""

import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
from support.jobs import faulty, killed
from support.paths import ROOT

from effchal.config import CleanConfig, ConfigError, DataSourceConfig, ModelConfig, PromptConfig
from effchal.config.choices import DataEngine, Dtype
from effchal.mixing import read, store
from effchal.mixing.encode import EncodeWork
from effchal.mixing.encoded_source import encode_source
from effchal.mixing.locate import locate
from effchal.mixing.parallel import run_batches
from effchal.mixing.read import read_source
from effchal.mixing.readers import DataError
from effchal.mixing.select import SelectedSource
from effchal.runs import cache_folder

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)


def write(path, texts):
    rows = [{"prompt": text, "completion": f"{text}!"} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSourceConfig(path=str(path))


def folders(kind):
    return sorted(path.name for path in (cache_folder() / "data" / kind).glob("[!.]*"))


def leftovers():
    return list((cache_folder() / "data").glob("*/.*"))


def texts_of(source):
    return [source.example(i).turns[0].content for i in range(len(source))]


def test_a_source_is_read_once_and_anew_when_its_content_changes(tmp_path, monkeypatch):
    cfg = write(tmp_path / "a.jsonl", ["one", "two"])
    first = read_source("s", cfg, CleanConfig())
    os.utime(tmp_path / "a.jsonl", (1, 1))  # only its content counts
    with monkeypatch.context() as patch:
        patch.setattr(read, "SourceReader", None)  # the cache is all that there is
        assert texts_of(read_source("s", cfg, CleanConfig())) == texts_of(first) == ["one", "two"]
    write(tmp_path / "a.jsonl", ["one", "2"])
    assert texts_of(read_source("s", cfg, CleanConfig())) == ["one", "2"]
    assert len(folders("rows")) == 2


def test_what_was_dropped_is_told_by_the_name_of_now(tmp_path):
    cfg = write(tmp_path / "a.jsonl", ["one", "again " * 100])
    for name in ("before", "now"):
        found = SelectedSource.of(read_source(name, cfg, CleanConfig()), CleanConfig())
        assert [each.id for each in found.dropped["loops"].examples] == [f"{name}:1"]
    assert len(folders("rows")) == 1


def test_a_file_that_changes_while_it_is_read_is_refused_and_not_kept(tmp_path, monkeypatch):
    cfg = write(tmp_path / "a.jsonl", ["one"])

    class Changing(read.SourceReader):
        def __iter__(self):
            yield from super().__iter__()
            write(tmp_path / "a.jsonl", ["other"])

    monkeypatch.setattr(read, "SourceReader", Changing)
    with pytest.raises(DataError, match=r"source s: .*a\.jsonl changed while it was read"):
        read_source("s", cfg, CleanConfig())
    assert folders("rows") == leftovers() == []


def test_a_file_that_vanishes_is_told(tmp_path, monkeypatch):
    cfg = write(tmp_path / "a.jsonl", ["one"])
    located = locate("s", cfg)
    (tmp_path / "a.jsonl").unlink()
    monkeypatch.setattr(read, "locate", lambda *_: located)  # it was there a moment ago
    with pytest.raises(DataError, match=r"source s: .*a\.jsonl is gone"):
        read_source("s", cfg, CleanConfig())


@pytest.mark.parametrize("harm", ["cut", "no meta data", "half meta data"])
def test_a_damaged_folder_is_built_again(tmp_path, harm):
    cfg = write(tmp_path / "a.jsonl", ["one", "two"])
    source = read_source("s", cfg, CleanConfig())
    if harm == "cut":
        source.path.write_bytes(source.path.read_bytes()[:100])
    elif harm == "no meta data":
        (source.path.parent / store.META).unlink()
    else:
        (source.path.parent / store.META).write_text('{"meta": {')
    assert texts_of(read_source("s", cfg, CleanConfig())) == ["one", "two"]
    assert len(folders("rows")) == 1


def test_two_builders_at_once_end_with_one_whole_folder():
    begun = threading.Barrier(2)

    def build(folder):
        begun.wait(10)  # both build
        (folder / "a").write_text("whole")
        time.sleep(0.05)
        return {"n": 1}

    results = []
    threads = [
        threading.Thread(target=lambda: results.append(store.cached("k", "key", build)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [meta for _, meta in results] == [{"n": 1}] * 2
    assert {(folder / "a").read_text() for folder, _ in results} == {"whole"}
    assert (folders("k"), leftovers()) == (["key"], [])


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    cfg = write(tmp_path / "a.jsonl", ["one"])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(read, "write_arrow", full)
    with pytest.raises(OSError, match="No space left"):
        read_source("s", cfg, CleanConfig())
    assert folders("rows") == leftovers() == []


def test_without_a_writable_cache_a_temporary_folder_takes_its_place(tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(store.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path))
    source = read_source("s", write(tmp_path / "a.jsonl", ["one"]), CleanConfig())
    assert texts_of(source) == ["one"]
    assert "no cache at" in caplog.text
    shutil.rmtree(source.path.parent)


@pytest.mark.integration
def test_workers_give_what_one_process_gives(tmp_path):
    source = read_source(
        "s", write(tmp_path / "a.jsonl", [f"text {i}" for i in range(40)]), CleanConfig()
    )
    job = EncodeWork(TINY, PromptConfig(user="{content}"), 64)
    batches = list(source.batches(np.arange(40), 10))
    alone, together = (list(run_batches(job, batches, who)) for who in (None, DataEngine.local))
    for one, other in zip(alone, together, strict=True):
        for name in ("rows", "lengths", "ids", "learned", "truncated"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()


@pytest.mark.integration
def test_a_worker_that_dies_is_told(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    with pytest.raises(ConfigError, match=r"ended with code -9; was it killed for memory"):
        list(run_batches(killed, [1, 2, 3], DataEngine.local))


@pytest.mark.integration
def test_an_error_of_a_worker_comes_out(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    with pytest.raises(ZeroDivisionError):
        list(run_batches(faulty, [1], DataEngine.local))


def test_ids_are_kept_by_tokenizer_template_and_rows(tmp_path):
    source = read_source("s", write(tmp_path / "a.jsonl", ["one", "two"]), CleanConfig())
    selected = SelectedSource.of(source, CleanConfig())
    job = EncodeWork(TINY, PromptConfig(), 64)
    file = encode_source(selected, job).file
    again = encode_source(selected, job).file
    assert [each.ids.tolist() for each in file] == [each.ids.tolist() for each in again]
    assert len(folders("ids")) == 1
    encode_source(selected, EncodeWork(TINY, PromptConfig(user="{content}?"), 64))
    selected.kept[0] = False
    assert [each.id for each in encode_source(selected, job).file] == ["s:1"]
    assert len(folders("ids")) == 3


def test_what_a_killed_builder_left_is_removed_once_it_is_old():
    store.cached("k", "first", lambda _: {})
    fresh, old = (cache_folder() / "data" / "k" / name for name in (".now_x", ".old_x"))
    for folder in (fresh, old):
        folder.mkdir()
    os.utime(old, (1, 1))
    store.cached("k", "second", lambda _: {})
    assert leftovers() == [fresh]


def test_a_builder_that_ends_last_leaves_the_folder_that_is_in_use(monkeypatch):
    look, builders = store._meta_of, []

    def other_ends_after_a_look(folder):
        found = look(folder)
        if len(builders) == 1:
            builders.append("fast")
            store.cached("k", "both", built_by("fast"))
        return found

    def built_by(name):
        def build(folder):
            builders.append(name)
            (folder / "name").write_text(name)
            return {}

        return build

    monkeypatch.setattr(store, "_meta_of", other_ends_after_a_look)
    folder, _ = store.cached("k", "both", built_by("slow"))
    assert builders[0] == "slow"
    assert (folder / "name").read_text() == ("fast" if "fast" in builders else "slow")
    assert leftovers() == []
