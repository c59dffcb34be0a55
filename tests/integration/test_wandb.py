"""wandb through whole runs: read back what it recorded offline, and what a stand-in server got."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import forked
from support.own_questions import write_questions
from support.training_runs import TINY, metrics, record, start, wait_for_checkpoint
from support.wandb_files import offline_runs
from support.wandb_server import silent_server, wandb_server

from effchal.config import Config, TrackConfig, load_config, save_config
from effchal.config.choices import WandbMode
from effchal.tracking.tracker import Tracker

KEY = "0" * 40
ONLINE = TrackConfig(wandb=WandbMode.online)
OFFLINE = TrackConfig(wandb=WandbMode.offline)


@pytest.fixture(autouse=True)
def _own_wandb(tmp_path_factory, monkeypatch):
    """No account and no settings of the user's."""
    home = str(tmp_path_factory.mktemp("home"))
    for name in ("WANDB_MODE", "WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "NETRC"):
        monkeypatch.setenv(name, home)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(Config(name="first"), folder / "config.yaml")
    return folder


def command(*words):
    done = forked.run(words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def when_ended(folder, count=1):
    """The offline runs of a folder, once all their mirrors are done: some go on alone."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        runs = offline_runs(folder)
        if len(runs) == count and all(run.exit_code is not None for run in runs):
            return runs
        time.sleep(0.2)
    raise AssertionError((folder / "wandb" / "mirror.log").read_text())


def wait_until(is_so, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not is_so() and time.monotonic() < end:
        time.sleep(0.1)


def last_values(runs, name):
    """By training step; a later row wins, as in a chart."""
    rows = [row for run in runs for row in run.history if name in row]
    return {row["train/step"]: row[name] for row in rows}


def recorded(folder, name):
    return {row["step"]: row[name] for row in metrics(folder) if name in row}


def test_a_run_and_its_evaluation_are_in_wandbs_own_files(tmp_path):
    folder, evaluation = tmp_path / "run", tmp_path / "evaluation"
    output = command("train", *TINY, "track.wandb=offline", f"hydra.run.dir={folder}")
    (run,) = when_ended(folder)
    assert f"wandb sync {run.folder}" in output or "goes on alone" in output
    assert (run.name, run.group, run.job_type, run.exit_code) == ("dev", "", "train", 0)
    assert run.config["lora"]["r"] == load_config(folder / "config.yaml").lora.r
    for key, name in (("loss", "train/loss"), ("validation_loss", "validation/loss")):
        assert last_values([run], name) == recorded(folder, key)
    assert len(run.history) == len(metrics(folder))
    assert run.x_axes["train/*"] == run.x_axes["validation/*"] == "train/step"
    assert run.artifacts["bundle-dev"][0] == "model"
    assert "adapter/adapter_model.safetensors" in run.artifacts["bundle-dev"][1]
    assert run.artifacts["mix-dev"] == ("dataset", {"mix.json", "mix.md"})
    plan = record(folder)["plan"]
    assert run.summary["plan/memory_gib/predicted"] == plan["memory_gib"]["predicted"]
    assert run.summary["plan/tokens/actual"] == plan["tokens"]["actual"] > 0
    assert run.summary["status"] == "finished"

    texts, _ = write_questions(tmp_path)
    words = [f"bundle={folder}", f"scenario.entries=['jsonl:path={texts}']"]
    words += ["decoding=dola_high", "decoding.premature_layers=[0,1]", "evaluate.resamples=200"]
    command("evaluate", *words, "track.wandb=offline", f"hydra.run.dir={evaluation}")
    (scored,) = when_ended(evaluation)
    results = json.loads((evaluation / "results.json").read_text())["entries"]
    assert scored.job_type == "evaluate"
    for entry, result in results.items():
        score = result["decodings"]["greedy"]["metrics"][result["main_metric"]]["mean"]
        assert scored.summary[f"evaluation/{entry}/greedy"] == score
    table = scored.table("evaluation/results")
    assert table["columns"] == ["entry", "metric", "decoding", "score", "low", "high"]
    assert {row[0] for row in table["data"]} == set(results)
    kinds = [row.get("evaluation/results_figure/_type") for row in scored.history]
    assert "image-file" in kinds


def test_a_run_killed_and_resumed_has_one_id_and_each_steps_last_value(tmp_path):
    folder = tmp_path / "run"
    words = [*TINY, "track.wandb=offline", "train.checkpoint_every=3"]
    words += ["train.max_steps=40", "train.epochs=100"]  # far from done when it is killed
    process = start(words, folder)
    wait_for_checkpoint(process, folder, step=6)
    process.kill()
    process.communicate()
    command("train", f"resume_from={folder}", "track.wandb=offline")
    first, second = when_ended(folder, count=2)
    assert first.id == second.id
    assert first.exit_code == 1
    assert second.exit_code == 0
    assert first.summary["status"] == "killed"
    losses = recorded(folder, "loss")
    assert sorted(losses) == list(range(1, 41))
    assert last_values([first, second], "train/loss") == losses
    steps = [row["train/step"] for row in second.history if "train/loss" in row]
    assert steps == list(range(steps[0], 41))  # only what the second process did


def test_samples_are_a_table_that_grows_over_processes(tmp_path):
    folder = run_folder(tmp_path)
    for step in (1, 2):
        tracker = Tracker(folder, OFFLINE, "run", step - 1)
        tracker.log({"step": step, "loss": 1.0})
        samples = [{"prompt": "Who?", "completion": str(step)}]
        tracker.log({"step": step, "samples": samples, "spent_s": 1.0})
        tracker.close()
        when_ended(folder, count=step)
    table = when_ended(folder, count=2)[-1].table("samples/completions")
    assert table["columns"] == ["step", "prompt", "completion"]
    assert table["data"] == [[1, "Who?", "1"], [2, "Who?", "2"]]


def test_jobs_of_a_sweep_are_grouped_and_named_by_what_differs(tmp_path):
    sweep = tmp_path / "ranks"
    words = [*TINY, "train.max_steps=1", "track.wandb=offline", "lora.r=2,4"]
    command("train", "--multirun", *words, f"hydra.sweep.dir={sweep}")
    names = set()
    for job in ("0", "1"):
        (run,) = when_ended(sweep / job)
        names.add(run.name)
        assert run.group == "ranks"
    assert names == {"lora.r=2", "lora.r=4"}


@pytest.mark.parametrize("network", ["closed port", "silent server", "closed proxy", "no key"])
def test_a_dead_network_costs_five_seconds_and_one_line_at_most(
    tmp_path, monkeypatch, caplog, network
):
    folder = run_folder(tmp_path)
    with silent_server() as silent:
        urls = {"silent server": silent, "closed proxy": "http://wandb.invalid"}
        monkeypatch.setenv("WANDB_BASE_URL", urls.get(network, "http://127.0.0.1:9"))
        if network == "closed proxy":
            monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        if network != "no key":
            monkeypatch.setenv("WANDB_API_KEY", KEY)
        started = time.monotonic()
        tracker = Tracker(folder, ONLINE, "run")
        for step in range(100):
            tracker.log({"step": step, "loss": 1.0})
        spent_s = time.monotonic() - started
        wait_until(lambda: "wandb cannot go online" in caplog.text)  # as training goes on
        started = time.monotonic()
        tracker.close()
        spent_s += time.monotonic() - started
        (run,) = when_ended(folder)
    assert spent_s < 5.0
    assert len(metrics(folder)) == len(run.history) == 100
    lines = [line.getMessage() for line in caplog.records if "wandb" in line.name]
    told = [line for line in lines if "wandb cannot go online" in line]
    assert len(told) == 1
    assert f"wandb sync {run.folder}" in told[0]
    assert len(lines) == 1 or "goes on alone" in "".join(lines)  # on a busy machine


def test_a_server_that_hangs_after_its_first_answer_costs_no_more(tmp_path, monkeypatch):
    folder = run_folder(tmp_path)
    with wandb_server() as server:
        server.answers = False
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        started = time.monotonic()
        tracker = Tracker(folder, ONLINE, "run")
        tracker.log({"step": 1, "loss": 1.0})
        tracker.close()
        assert time.monotonic() - started < 5.0
        assert len(metrics(folder)) == 1
        server.answers = True
    tracker._wandb._process.kill()  # it would try for an hour
    tracker._wandb._process.wait(10)


def send(folder, first, last, **record):
    """One process of a run: the steps after `first` up to `last`."""
    tracker = Tracker(folder, ONLINE if "WANDB_BASE_URL" in os.environ else OFFLINE, "run", first)
    for step in range(first + 1, last + 1):
        tracker.log({"step": step, "loss": float(step)} | record)
    tracker.close()
    tracker._wandb._process.wait(60)


def test_online_a_resumed_run_goes_on_and_uses_its_data_and_makes_its_bundle(tmp_path, monkeypatch):
    folder = run_folder(tmp_path)
    (folder / "mix.json").write_text("{}")
    (folder / "bundle").mkdir()
    for name in ("manifest.json", "config.yaml"):
        (folder / "bundle" / name).write_text("name: first\n")
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        send(folder, 0, 4)
        (folder / "run.json").write_text(json.dumps({"status": "finished", "step": 5}))
        send(folder, 3, 5, again=1)  # a kill after step 4, and a checkpoint at step 3
        ((run_id, run),) = server.runs.items()
        steps = [row["train/step"] for row in run.history]
        assert steps == [1, 2, 3, 4, 4, 5]
        assert [row["_step"] for row in run.history] == list(range(6))
        assert run.history[4]["train/again"] == 1
        made = {each["artifactCollectionName"]: each["runName"] for each in server.artifacts}
        assert made == {"mix-first": None, "bundle-first": run_id}
        (used,) = server.used
        assert used["input"]["runName"] == run_id


def test_wandb_sync_appends_the_folders_of_a_resumed_offline_run(tmp_path, monkeypatch):
    folder = run_folder(tmp_path)
    send(folder, 0, 4)
    time.sleep(1.0)  # wandb names folders by the second
    send(folder, 3, 5)
    assert len(when_ended(folder, count=2)) == 2
    with wandb_server() as server:
        paths = [str(run.folder) for run in offline_runs(folder)]
        keys = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        program = Path(sys.executable).with_name("wandb")
        words = [program, "sync", "--yes", *paths]
        subprocess.run(words, env=os.environ | keys, cwd=tmp_path, check=True, timeout=120)
        (run,) = server.runs.values()
        assert [row["train/step"] for row in run.history] == [1, 2, 3, 4, 4, 5]


def test_a_broken_wandb_leaves_the_run_alone(tmp_path, monkeypatch, caplog):
    folder = run_folder(tmp_path)
    broken = tmp_path / "broken" / "wandb"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('built for another machine')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    tracker = Tracker(folder, OFFLINE, "run")
    tracker.log({"step": 1, "loss": 1.0})
    tracker.close()
    assert len(metrics(folder)) == 1
    assert "wandb stopped (built for another machine)" in caplog.text
    shutil.rmtree(broken)
