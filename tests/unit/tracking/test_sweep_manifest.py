"""The manifest of a sweep: where each job stands, and what a second call does with it."""

import json
import types

import pytest

from effchal.config import ConfigError
from effchal.sweeping import on_ray, processes
from effchal.sweeping.halving import SweepClock, rung_sizes
from effchal.sweeping.processes import ProcessLauncher, visible_gpus
from effchal.tracking.manifest import Failure, Manifest, State, own_overrides, recorded_try


@pytest.fixture
def manifest(tmp_path):
    jobs = {0: ["lora.r=4", "name=x"], 1: ["lora.r=8", "name=x"]}
    found = Manifest(tmp_path, "train", jobs)
    found.save()
    return found


def leave(folder, status, **record):
    """A run as it lies there after its end."""
    (folder / "bundle").mkdir(parents=True)
    for name in ("manifest.json", "config.yaml"):
        (folder / "bundle" / name).touch()
    (folder / "run.json").write_text(json.dumps({"status": status, **record}))


def failure_of(error):
    return Failure(State.failed, str(error))


def fail(folder):
    with pytest.raises(RuntimeError), recorded_try(folder, failure_of):
        raise RuntimeError("no luck")


def test_a_job_stands_where_its_own_record_says(manifest, tmp_path):
    assert manifest.state(0) is State.new
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "config.yaml").touch()
    assert manifest.state(0) is State.interrupted  # killed
    leave(tmp_path / "0", "stopped_by_budget", limit_s=3600)
    assert manifest.state(0, lambda: 1.0) is State.done
    assert manifest.state(0, lambda: 2.0) is State.interrupted  # there is more to do
    leave(tmp_path / "1", "finished")
    assert manifest.state(1) is State.done
    (tmp_path / "1" / "bundle" / "manifest.json").unlink()
    assert manifest.state(1) is State.interrupted


def test_tries_count_failures_and_tell_the_last_reason(manifest, tmp_path):
    fail(tmp_path / "0")
    assert (manifest.state(0), manifest.failures(0)) == (State.failed, 1)
    assert manifest.reason(0) == "no luck"
    with recorded_try(tmp_path / "0", failure_of):
        assert "killed" in manifest.reason(0)
    assert manifest.reason(0) is None
    assert list(manifest.sweep_jobs()) == [tmp_path / "0"]
    with recorded_try(tmp_path / "elsewhere", failure_of):
        pass
    assert not (tmp_path / ".jobs" / "elsewhere.jsonl").exists()


def test_jobs_are_named_by_their_overrides(manifest, tmp_path):
    def name(words):
        return [word for word in words if not word.startswith("budget.")]

    assert manifest.number_of(["lora.r=8", "name=x", "budget.hours=2"], name) == 1
    assert manifest.number_of(["lora.r=16", "name=x"], name) == 2
    manifest.save()
    assert Manifest.load(tmp_path).jobs[1] == ["lora.r=8", "name=x", "budget.hours=2"]
    assert own_overrides(tmp_path / "2") == "lora.r=16"
    assert own_overrides(tmp_path / "other") == ""


def test_a_damaged_manifest_is_refused(manifest, tmp_path):
    (tmp_path / "sweep.json").write_text('{"jobs": {"a": 1}}')
    with pytest.raises(ConfigError, match=r"sweep.json is damaged; take another folder"):
        Manifest.load(tmp_path)


def test_rungs_end_with_one_training():
    assert rung_sizes(8, 3) == [8, 2, 1]
    assert rung_sizes(27, 3) == [27, 9, 3, 1]
    assert rung_sizes(1, 2) == [1]


def test_the_clock_of_a_sweep_counts_earlier_calls(tmp_path):
    with SweepClock(tmp_path, 100).kept():
        (tmp_path / ".jobs" / "spent_s").write_text("40")
        later = SweepClock(tmp_path, 100)
    assert 59 < later.left_s() <= 60


@pytest.mark.parametrize(("named", "gpus"), [("", []), ("2, 5", ["2", "5"]), ("-1", [])])
def test_visible_gpus_are_those_that_cuda_would_see(monkeypatch, named, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("gpus", "at_once", "sizes", "seen"),
    [
        ("2 5 7", 3, {0: 1, 1: 1, 2: 1}, ["2", "5", "7"]),
        ("2 5 7", 4, {0: 1, 1: 1, 2: 1, 3: 1}, ["2", "2", "5", "7"]),  # at_once as it was typed
        ("0 1 2 3 4", 2, {0: 2, 1: 1}, ["0,1", "2"]),
        ("", 2, {0: 2, 1: 2}, [None, None]),
    ],
)
def test_a_job_sees_as_many_gpus_as_it_asks_for(manifest, monkeypatch, gpus, at_once, sizes, seen):
    environments = {}

    def run_job(command, overrides, folder, log, environment, started):
        environments[folder.name] = environment
        return 0

    monkeypatch.setattr(processes, "run_job", run_job)
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: range(12))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    manifest.jobs |= {number: ["lora.r=16"] for number in sizes if number > 1}
    launcher = ProcessLauncher(manifest, at_once, gpus.split(), sizes)
    for number in sizes:  # a place that is free again is the last to be taken again
        launcher._do(number, [])
    found = [environments[str(number)].get("CUDA_VISIBLE_DEVICES") for number in sizes]
    assert sorted(found, key=str) == seen
    threads = [int(environments[str(number)]["OMP_NUM_THREADS"]) for number in sizes]
    assert threads == [12 // (at_once * size) for size in sizes.values()]


@pytest.mark.parametrize(("gpus", "on_node", "taken"), [(1, 0, 0), (1, 8, 1), (4, 8, 4)])
def test_a_task_of_ray_takes_the_gpus_of_its_job(monkeypatch, gpus, on_node, taken):
    nodes = [{"Alive": True, "Resources": {"GPU": on_node}}, {"Alive": True, "Resources": {}}]
    ray = types.SimpleNamespace(nodes=lambda: nodes)
    config = types.SimpleNamespace(train=types.SimpleNamespace(gpus=gpus))
    assert on_ray.resources(ray, config, {})["num_gpus"] == taken
    assert on_ray.resources(ray, config, {"num_gpus": 0.5})["num_gpus"] == 0.5
    ray.cluster_resources = lambda: {"CPU": 16.0, "GPU": 2.0 * on_node}
    monkeypatch.setattr(on_ray, "cluster", lambda options: ray)
    assert on_ray.places(config, {}) == (2 * on_node // gpus if on_node else 16)
    config.train.gpus = 9
    if on_node:
        with pytest.raises(ConfigError, match=r"train.gpus=9, but no node .* more than 8"):
            on_ray.resources(ray, config, {})
