"""The commands that a person types: train, serve with gunicorn, ask, stop; and a wheel."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile

import pytest
from support import forked
from support.paths import ROOT, SMOLLM2, needs_smollm2
from support.servers import Server, status

from effchal.serving.ready import free_port

SERVE = ["serve", "serve.port=PORT"]
TRAIN = ["train", "model=tiny", "data_mix=quickstart"]
TRAIN += ["budget=smoke", "train.max_steps=3", "train.examples_per_step=4"]


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    forked.run([*TRAIN, f"hydra.run.dir={folder}"]).check_returncode()
    return folder / "bundle"


def serve_command(bundle, *overrides):
    return [*SERVE, f"bundle={bundle}", f"hydra.run.dir={bundle.parent / 'serve'}", *overrides]


def test_train_serve_ask_and_drain(bundle):
    serve = serve_command(bundle, "decoding.max_new_tokens=3")
    with Server([sys.executable, "-m", "effchal", *serve], cwd=ROOT) as server:
        assert status(f"{server.url}/health") == 200
        answer = post(f"{server.url}/process", {"prompt": "The capital of France is "})
        assert 0 < len(answer["tokens"]) <= 3
        tokens = post(f"{server.url}/tokenize", {"text": "naïve"})["tokens"]
        assert post(f"{server.url}/decode", {"tokens": tokens})["text"] == "naïve"
        whole = post(f"{server.url}/process", LONG)
        running = subprocess.Popen(
            [sys.executable, "-c", ASK, server.url, json.dumps(LONG)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.stdout.readline()  # it is about to ask
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=60)
        assert output.strip() == str(len(whole["tokens"])), output  # what runs is finished
        assert server.process.wait(timeout=60) == 0
        assert status(f"{server.url}/health") is None


LONG = {"prompt": "x", "max_new_tokens": 400, "temperature": 1.0, "seed": 1}
ASK = """
import json, sys, urllib.request
print("asking", flush=True)
request = urllib.request.Request(sys.argv[1] + "/process", sys.argv[2].encode())
print(len(json.load(urllib.request.urlopen(request, timeout=60))["tokens"]))
"""


def test_gunicorn_serves_the_bundle_of_the_environment(bundle):
    command = [sys.executable, "-m", "gunicorn", "-k", "effchal.serving.worker.Worker"]
    command += ["--threads", "8", "--bind", "127.0.0.1:PORT"]
    command += ["effchal.serve:create_app('decoding.max_new_tokens=2')"]
    environment = os.environ | {"EFFCHAL_BUNDLE": str(bundle)}
    with Server(command, env=environment, cwd=bundle.parent) as server:
        assert len(post(f"{server.url}/process", {"prompt": "x"})["tokens"]) == 2


@pytest.mark.parametrize("override", ["lora.r=8", "prompt=chatml", "model=smollm2_135m"])
def test_what_the_bundle_froze_cannot_be_overridden(bundle, override):
    command = [part.replace("PORT", "1") for part in serve_command(bundle, override)]
    result = forked.run(command, timeout=60)
    assert result.returncode == 2
    assert f"{override.partition('=')[0]} is frozen in" in result.stderr


def test_a_damaged_bundle_ends_the_server_with_the_reason(bundle, tmp_path):
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle, damaged)
    (damaged / "tokenizer" / "tokenizer.json").write_text("{}")
    command = [part.replace("PORT", str(free_port())) for part in serve_command(damaged)]
    result = forked.run(command, timeout=60)
    assert result.returncode != 0
    assert (
        "tokenizer.json has changed since the bundle was written" in result.stdout + result.stderr
    )


def test_the_plain_base_model_is_packaged_and_served(tmp_path):
    model = ["model=tiny", "prompt=plain", f"hydra.run.dir={tmp_path}"]
    refused = forked.run(["package", *model])
    assert refused.returncode == 2
    assert "add lora=none" in refused.stderr
    forked.run(["package", *model, "lora=none"]).check_returncode()
    again = forked.run(["package", *model, "lora=none"])
    assert again.returncode == 2
    assert "holds a bundle already; take another folder" in again.stderr
    ask = {"prompt": "once", "max_new_tokens": 6}
    with Server(serve_command(tmp_path / "bundle"), cwd=ROOT) as server:
        packaged = post(f"{server.url}/process", ask)["text"]
    with Server([*SERVE, *model, "lora=none"], cwd=ROOT) as server:
        assert post(f"{server.url}/process", ask)["text"] == packaged


def test_an_installed_wheel_finds_its_config_from_any_folder(tmp_path):
    # A copy: building in place leaves a folder that spoils the next wheel.
    source = tmp_path / "source"
    shutil.copytree(ROOT / "effchal", source / "effchal")
    shutil.copytree(ROOT / "conf", source / "conf")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", str(source), "--wheel-dir", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("effchal-*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "effchal" / "mixing" / "quickstart" / "conversations.jsonl").is_file()
    assert (site / "effchal" / "serving" / "page.html").is_file()
    away = tmp_path / "away"
    away.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "from effchal.cli import compose; print(compose.CONF_DIR)"]
    found = subprocess.run(
        where, cwd=away, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert found.strip() == str(site / "effchal" / "conf")
    run = [sys.executable, "-m", "effchal", *TRAIN, "hydra.run.dir=out"]
    subprocess.run(run, cwd=away, env=environment, check=True, capture_output=True)
    assert (away / "out" / "bundle" / "manifest.json").is_file()


@needs_smollm2
def test_the_real_small_model_answers_through_the_server(tmp_path):
    model = [f"model.name={SMOLLM2}", "model=smollm2_135m", "lora=none", "prompt=plain"]
    with Server([*SERVE, *model, f"hydra.run.dir={tmp_path}"], cwd=ROOT) as server:
        body = {"prompt": "The capital of France is", "max_new_tokens": 20}
        body["stop_sequences"] = ["\n"]
        answer = post(f"{server.url}/process", body)
    assert answer["text"].startswith(" Paris")
    assert "\n" not in answer["text"]
    assert "".join(token["text"] for token in answer["tokens"]) == answer["text"]
