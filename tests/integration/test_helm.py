"""HELM's genuine client against a real server; runs where scripts/helm.sh has installed HELM."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from support.configs import compose_config
from support.paths import ROOT
from support.servers import Server, status

from effchal.bundle import write_bundle
from effchal.model.tokenizer import load_tokenizer

HELM_PYTHON = ROOT / ".venv-helm" / "bin" / "python"
needs_helm = pytest.mark.skipif(
    not HELM_PYTHON.is_file(), reason="no HELM; run: bash scripts/helm.sh scenario=smoke ..."
)

# Ask HELM's window service to fit a prompt that is too long, and its client to answer it.
ASK_HELM = """
import json, sys, tempfile
from helm.benchmark.config_registry import register_builtin_configs_from_helm_package
from helm.benchmark.window_services.test_utils import get_tokenizer_service
from helm.benchmark.window_services.window_service_factory import WindowServiceFactory
from helm.clients.http_model_client import HTTPModelClient
from helm.common.cache import BlackHoleCacheConfig
from helm.common.cache_backend_config import BlackHoleCacheBackendConfig
from helm.common.request import Request

register_builtin_configs_from_helm_package()
service = get_tokenizer_service(tempfile.mkdtemp(), BlackHoleCacheBackendConfig())
window = WindowServiceFactory.get_window_service("neurips/local", service)
text = "The quick brown fox. " * 500
prompt = window.truncate_from_right(text, expected_completion_token_length=50)
request = Request(model="neurips/local", model_deployment="neurips/local", prompt=prompt,
                  temperature=0.0, max_tokens=5, stop_sequences=["###"], top_k_per_token=1)
result = HTTPModelClient(BlackHoleCacheConfig()).make_request(request)
tokens = len(result.completions[0].tokens)
print(json.dumps({"prompt": prompt, "success": result.success, "tokens": tokens}))
"""


class Counter(ThreadingHTTPServer):
    """Passes requests on to the server, and keeps the bodies of those answered, by path."""

    def __init__(self, target, pause_s=0.0):
        self.target, self.pause_s, self.asked = target, pause_s, {}
        super().__init__(("127.0.0.1", 0), Forward)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def counts(self):
        return {path: len(bodies) for path, bodies in self.asked.items()}


class Forward(BaseHTTPRequestHandler):
    def do_GET(self):
        self.forward(None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.pause_s)
        self.forward(body)
        self.server.asked.setdefault(self.path, []).append(body)

    def forward(self, body):
        with urllib.request.urlopen(self.server.target + self.path, body) as answer:
            content = answer.read()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


TINY = ["model=tiny", "prompt=plain", "lora=none"]
SERVE_TINY = ["serve", *TINY, "serve.port=PORT"]


def helm(*arguments, **environment):
    """python -m effchal.helm, started."""
    command = [sys.executable, "-m", "effchal.helm", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Tests that run in the background ignore SIGINT, and so would their children.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, preexec_fn=heed, **pipes
    )


@needs_helm
def test_an_over_long_prompt_costs_helm_two_tokenize_calls_and_one_decode(tmp_path):
    with (
        Server([*SERVE_TINY, f"hydra.run.dir={tmp_path}"], cwd=ROOT) as server,
        Counter(server.url) as counter,
    ):
        asked = subprocess.run(
            [HELM_PYTHON, "-c", ASK_HELM],
            env={"HELM_HTTP_MODEL_BASE_URL": counter.url},
            capture_output=True,
            text=True,
        )
        counter.shutdown()
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout.splitlines()[-1])
    assert answer["success"]
    assert answer["tokens"] <= 5
    assert ("The quick brown fox. " * 500).startswith(answer["prompt"])
    assert 0 < len(answer["prompt"]) <= 2048
    assert counter.counts() == {"/tokenize": 2, "/decode": 1, "/process": 1}


@needs_helm
def test_helm_scores_a_bundle_under_its_own_name_and_shows_its_page(tmp_path):
    cfg = compose_config([*TINY, "name=tried"])
    write_bundle(tmp_path / "bundle", cfg, None, load_tokenizer(cfg.model))
    run_dir = tmp_path / "run"
    process = helm(
        f"bundle={tmp_path / 'bundle'}",
        "decoding=dola_low",
        "decoding.premature_layers=[0,1]",
        "scenario.entries=[simple_mcqa]",
        "scenario.max_instances=2",
        "helm.page=true",
        f"hydra.run.dir={run_dir}",
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("HELM's page"):
            break
    else:
        raise AssertionError(process.stderr.read())
    scores = json.loads((run_dir / "scores.json").read_text())
    assert scores["status"] == "finished"
    assert scores["model"] | {"name": "effchal/tried", "helm": "0.5.16"} == scores["model"]
    assert scores["runs"][0]["requests"] == 2
    assert any("| simple_mcqa:model=effchal_tried | quasi_exact_match |" in line for line in lines)
    assert "dola" in (run_dir / "server" / "config.yaml").read_text()

    port = int(re.search(r"127\.0\.0\.1:(\d+)/", lines[-1])[1])
    end = time.monotonic() + 60
    while status(f"http://127.0.0.1:{port}/") != 200:
        assert time.monotonic() < end
        time.sleep(0.2)
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/benchmark_output/runs/effchal/runs.json"
    ) as answer:
        assert json.load(answer)[0]["run_spec"]["name"] == "simple_mcqa:model=effchal_tried"
    listening = [
        c.laddr
        for c in psutil.net_connections("tcp")
        if c.status == "LISTEN" and c.laddr.port == port
    ]
    assert [address.ip for address in listening] == ["127.0.0.1"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert status(f"http://127.0.0.1:{port}/") is None


def kill_while_asking(process, counter):
    """Kill the run after a few answers; HELM has to end with it. Returns the counts then."""
    while counter.counts().get("/process", 0) < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(1)
    killed_at = counter.counts()
    time.sleep(1)
    assert counter.counts() == killed_at, "HELM outlived the process that started it"
    return killed_at


def processes_of(run_dir):
    commands = (each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"]))
    return [command for command in commands if str(run_dir) in " ".join(command)]


@needs_helm
def test_a_killed_run_goes_on_without_asking_again_and_names_what_failed(tmp_path):
    run_dir = tmp_path / "run"
    # The second entry is scored with ROUGE. That fails, because the tokenizer's data that HELM
    # finds are an empty folder.
    (tmp_path / "nltk" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    nltk = str(tmp_path / "nltk")
    with (
        Server([*SERVE_TINY, f"hydra.run.dir={tmp_path}"], cwd=ROOT) as server,
        Counter(server.url, 0.2) as counter,
    ):
        options = ["scenario.max_instances=12", "helm.threads=2", f"helm.url={counter.url}"]
        entries = "scenario.entries=[simple_mcqa,simple_short_answer_qa]"
        first = helm(*TINY, entries, *options, f"hydra.run.dir={run_dir}", NLTK_DATA=nltk)
        assert 5 <= kill_while_asking(first, counter)["/process"] < 12
        assert json.loads((run_dir / "scores.json").read_text())["status"] == "running"

        again = helm(f"resume_from={run_dir}", NLTK_DATA=nltk)
        output, errors = again.communicate(timeout=600)
        assert again.returncode == 1, errors
        assert "1 of 2 runs failed" in errors
        failed = "simple_short_answer_qa:model=effchal_builtin-tiny"
        assert re.search(rf"{failed}: \w*Error", errors), errors
        assert f"| {failed} | FAILED |" in output
        assert "| simple_mcqa:model=effchal_builtin-tiny | quasi_exact_match | 0." in output
        prompts = [json.loads(body)["prompt"] for body in counter.asked["/process"]]
        assert len(set(prompts)) == 24
        assert len(prompts) <= 24 + 2  # two were asked and not yet kept when the kill came

        asked = counter.counts()
        third = helm(f"resume_from={run_dir}", "helm.url=null", NLTK_DATA=nltk)
        _, errors = third.communicate(timeout=600)
        assert third.returncode == 1, errors
        assert "1 of 2 runs to do" in (run_dir / "helm.log").read_text()
        assert counter.counts() == asked
        counter.shutdown()
    assert not processes_of(run_dir)
