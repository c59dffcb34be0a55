"""Building a mix over Ray Data: the stages that its processes run give what one machine gives.

The stages run here without Ray, but for one test; scripts/check_ray_data.py has a real cluster.
"""

import dataclasses
import importlib.util
import itertools
import json
import os
import pickle
import signal
import socket
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.configs import compose_config

from effchal.cli.compose import overlay
from effchal.config import ConfigError, DataSourceConfig
from effchal.config.choices import DataEngine, OnFault
from effchal.mixing import encoded_source, on_ray, parallel, ray_cluster, read, select
from effchal.mixing.prepare import prepare_data, select_data
from effchal.mixing.readers import DataError
from effchal.mixing.stored_source import RowBatch
from effchal.planning.training_run import MAY_CHANGE

ASKED = "which of the seven lanterns burns longest when all of the winds are at rest"
HAS_RAY = importlib.util.find_spec("ray") is not None


def stages(row_work, batches, per_task=2):
    """What run_on_ray does but for Ray: stages on blocks of batches, their results in order."""
    batches, key = list(batches), f"{id(row_work)} {len(batches)}"

    def rows():
        packed = [{"number": n, "batch": pickle.dumps(b)} for n, b in enumerate(batches)]
        for start in range(0, len(packed), per_task):
            stage = pickle.loads(pickle.dumps(on_ray.Stage(key, Pickled(row_work), os.getcwd())))
            for table in stage(pa.Table.from_pylist(packed[start : start + per_task])):
                yield from table.to_pylist()

    on_ray._works.clear()
    return on_ray._in_order(rows(), len(batches))


@dataclasses.dataclass
class Pickled:
    row_work: object

    def __call__(self):
        return pickle.dumps(self.row_work)


@pytest.fixture
def on_ray_all(monkeypatch):
    """The engine `ray` is asked for small sources, too; the other one starts no process."""
    for module, limit in (
        (read, "MANY_BYTES"),
        (read, "LARGE_BYTES"),
        (select, "LARGE"),
        (encoded_source, "LARGE"),
    ):
        monkeypatch.setattr(module, limit, 0)
    monkeypatch.setattr(parallel, "_over_cores", map)


@pytest.fixture
def without_ray(monkeypatch, on_ray_all):
    """The engine `ray` runs its stages in this process."""
    calls = []

    def run(row_work, batches):
        calls.append(getattr(row_work, "func", type(row_work)).__name__)
        return stages(row_work, batches)

    monkeypatch.setattr(on_ray, "run_on_ray", run)
    monkeypatch.setattr("effchal.model.tokenizer.hide_torch", lambda: None)
    monkeypatch.setattr("effchal.mixing.prepare.check_ray", lambda *_: None)
    return calls


@pytest.fixture
def mix(tiny_cfg, tmp_path, monkeypatch):
    """Five shards with faults of every kind, beside the shipped rows."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "prompt": f"{i}?",
            "completion": " ".join(f"{i}a{j}" for j in range(40)),
            "n": i % 5 or True,
        }
        for i in range(700)
    ]
    rows[150] |= {"completion": " "}
    rows[310] |= {"completion": "over and over " * 40}
    rows[320] |= {"prompt": rows[20]["prompt"], "completion": rows[20]["completion"]}
    rows[430] |= {"prompt": rows[30]["prompt"] + " now", "completion": rows[30]["completion"]}
    rows[440] |= {"completion": f"Well: {ASKED}?"}
    rows[450] |= {"completion": ""}
    (tmp_path / "shards").mkdir()
    for part in range(5):
        write(tmp_path / "shards" / f"{part}.jsonl", rows[140 * part : 140 * part + 140])
    write(tmp_path / "shards" / "empty.jsonl", [])
    write(tmp_path / "eval.jsonl", [{"question": ASKED}])
    source = DataSourceConfig(path="shards", where={"n": [1, 2, 3, 4, True, 77]})
    cfg = tiny_cfg.data_mix
    cfg.sources["shards"] = source
    cfg.clean.near_duplicates = cfg.clean.empty_answers = OnFault.drop
    cfg.decontaminate.action, cfg.decontaminate.files = OnFault.drop, ["eval.jsonl"]
    tiny_cfg.scenario.path = "none"
    return tiny_cfg


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def built(cfg, engine, cache, monkeypatch):
    """Digest, files of the cache and report of a mix that one engine built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    cfg.data_mix.engine = engine
    folder = cache / "run"
    folder.mkdir(parents=True)
    data = prepare_data(cfg, folder)
    files = {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*.*")}
    return data.sha256, files


def test_both_engines_leave_the_same_bytes(mix, tmp_path, monkeypatch, without_ray, caplog):
    ours = built(mix, DataEngine.local, tmp_path / "a", monkeypatch)
    warned = [each for each in caplog.messages if "no row where" in each]
    caplog.clear()
    assert without_ray == []
    assert ours == built(mix, DataEngine.ray, tmp_path / "b", monkeypatch)
    assert set(without_ray) == {"digest_file", "read_file", "sign_rows", "match_rows", "EncodeWork"}
    assert warned == [each for each in caplog.messages if "no row where" in each]
    assert warned == ["source shards has no row where n is 77"]
    (report,) = (text for path, text in ours[1].items() if path.name == "mix.json")
    shards = next(each for each in json.loads(report)["sources"] if each["source"] == "shards")
    found = {
        rule: [example["id"] for example in each["examples"]]
        for rule, each in shards["dropped"].items()
    }
    assert found == {
        "empty_answers": ["shards:150", "shards:450"],
        "loops": ["shards:310"],
        "duplicates": ["shards:320"],
        "near_duplicates": ["shards:430"],
        "decontaminate": ["shards:440"],
    }


def test_a_mix_that_one_engine_built_is_found_by_the_other(mix, monkeypatch, without_ray):
    first = prepare_data(mix, None).sha256
    mix.data_mix.engine = DataEngine.ray
    monkeypatch.setattr(read, "MANY_BYTES", 10**9)
    assert (prepare_data(mix, None).sha256, without_ray) == (first, [])


@pytest.mark.parametrize("engine", DataEngine)
def test_both_engines_tell_the_first_fault_by_file_and_row(mix, engine, without_ray):
    mix.data_mix.engine = engine
    clean, second = mix.data_mix.clean, Path("shards/1.jsonl")
    kept = mix.data_mix.sources["shards"].where
    mix.data_mix.sources["shards"].where = {"n": [78]}
    with pytest.raises(DataError, match=r"passes `where`: n has True, 1, 2, 3, 4$"):
        select_data(mix)
    mix.data_mix.sources["shards"].where, clean.empty_answers = kept, OnFault.refuse
    with pytest.raises(DataError, match=r"^shards/1.jsonl, line 11, field 'completion'"):
        select_data(mix)
    clean.empty_answers = OnFault.drop
    with second.open("a") as file:
        file.write('{"prompt": "half')
    with pytest.raises(DataError, match=r"^shards/1.jsonl, line 141, .*written to the end\?"):
        select_data(mix)
    write(second, [{"text": "another format", "n": 1}])
    with pytest.raises(
        DataError, match=r"shards/0.jsonl is prompt_completion and .*1.jsonl is text;"
    ):
        select_data(mix)


def test_a_file_that_differs_on_a_node_is_refused(mix, monkeypatch, without_ray):
    mix.data_mix.engine = DataEngine.ray
    whole = read.digest_of

    def changing(path, owner):
        return whole(path, owner) + ("?" if without_ray[-1] == "read_file" else "")

    monkeypatch.setattr(read, "digest_of", changing)
    with pytest.raises(DataError, match="changed while it was read"):
        select_data(mix)


def test_a_node_says_which_file_it_lacks_and_which_version_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr("effchal.model.tokenizer.hide_torch", lambda: None)
    with pytest.raises(ConfigError, match=rf"no file {tmp_path}/a on the Ray node \S+; all nodes"):
        list(stages(partial(read.digest_file, "s"), [read.FileBatch(tmp_path / "a")]))
    stage = on_ray.Stage("other", Pickled(partial(read.digest_file, "s")), str(tmp_path))
    stage._version = "0.0.1"
    block = pa.Table.from_pylist([{"number": 0, "batch": pickle.dumps(read.FileBatch(tmp_path))}])
    rows = itertools.chain.from_iterable(table.to_pylist() for table in stage(block))
    with pytest.raises(ConfigError, match=r"has effchal \S+, and this is 0.0.1: install the same"):
        list(on_ray._in_order(rows, 1))


@pytest.mark.parametrize("harm", ["twice", "missing", "cut"])
def test_results_that_are_missing_or_come_twice_are_no_mix(harm):
    rows = [
        {"number": number, "part": part, "last": part == 1, "result": pickle.dumps(number)}
        for number in range(2)
        for part in range(2)
    ]
    assert list(on_ray._in_order(iter(rows), 2)) == [0, 0, 1, 1]
    broken = {"twice": [*rows[:2], *rows[1:]], "missing": rows[:1] + rows[2:], "cut": rows[:3]}
    with pytest.raises(RuntimeError, match=r"result \d\.\d of Ray is missing"):
        list(on_ray._in_order(iter(broken[harm]), 2))


def test_a_batch_of_rows_travels_as_its_place(mix):
    source = read.read_source("shards", mix.data_mix.sources["shards"], mix.data_mix.clean)
    indices = np.array([0, 3, 4, 400, 690])
    (batch,) = source.batches(indices, 512)
    sent = pickle.dumps(batch)
    assert len(sent) < 400
    there = pickle.loads(sent)
    assert list(there) == list(RowBatch.of(source.path, indices))
    assert len(there) == 5
    texts = [json.loads(stored)[0][1] for stored in there]
    assert texts == [source.example(i).turns[0].content for i in indices]


def test_data_engine_is_typed_either_way():
    for key in ("data.engine", "data_mix.engine"):
        assert compose_config([f"{key}=ray"]).data_mix.engine is DataEngine.ray
    cfg = compose_config(["data=builtin:conversations.jsonl", "data.engine=ray"])
    assert (list(cfg.data_mix.sources), cfg.data) == (["builtin_conversations"], None)


def test_a_run_goes_on_where_there_is_no_ray():
    begun, typed = (compose_config([f"data_mix.engine={name}"]) for name in ("ray", "local"))
    cfg = overlay(begun, typed, ["data_mix.engine=local"], MAY_CHANGE, "run")
    assert cfg.data_mix.engine is DataEngine.local


@pytest.mark.skipif(HAS_RAY, reason="ray is installed here")
def test_without_ray_the_engine_is_refused_before_any_row(tiny_cfg):
    tiny_cfg.data_mix.engine = DataEngine.ray
    tiny_cfg.data_mix.sources = {}
    with pytest.raises(ConfigError, match=r"needs the package ray.*effchal\[ray\].*engine=local"):
        prepare_data(tiny_cfg, None)


@pytest.mark.parametrize("version", ["2.9.3", "2.64.0", "3.0.0rc1"])
def test_another_version_of_ray_is_refused(version, monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.metadata, "version", lambda name: version)
    with pytest.raises(ConfigError, match=f"another version of ray than {version}"):
        ray_cluster.check_ray()


def test_an_address_without_a_cluster_is_told_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"Ray at {address} does not answer"):
            ray_cluster._check_address(address)
    with pytest.raises(ConfigError, match="a client is not enough"):
        ray_cluster._check_address("ray://head:10001")


def test_a_ray_of_this_machine_leaves_the_same_bytes_and_signals(
    mix, tmp_path, monkeypatch, on_ray_all, request
):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    received = []
    request.addfinalizer(partial(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM)))
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    ours = built(mix, DataEngine.local, tmp_path / "a", monkeypatch)
    assert ours == built(mix, DataEngine.ray, tmp_path / "b", monkeypatch)
    assert not ray.is_initialized()
    os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]
