"""HELM's genuine client against a real server; runs where scripts/helm.sh has installed HELM."""

import json
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT
from test_end_to_end import Server

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
prompt = window.truncate_from_right("The quick brown fox. " * 500, expected_completion_token_length=50)
request = Request(model="neurips/local", model_deployment="neurips/local", prompt=prompt, temperature=0.0,
                  max_tokens=5, stop_sequences=["###"], top_k_per_token=1)
result = HTTPModelClient(BlackHoleCacheConfig()).make_request(request)
print(json.dumps({"prompt": prompt, "success": result.success, "tokens": len(result.completions[0].tokens)}))
"""


class Counter(ThreadingHTTPServer):
    """Passes every request on to the server and counts them by path."""

    def __init__(self, target):
        self.target, self.counts = target, {}
        super().__init__(("127.0.0.1", 0), Forward)


class Forward(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.counts[self.path] = self.server.counts.get(self.path, 0) + 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with urllib.request.urlopen(self.server.target + self.path, body) as answer:
            content = answer.read()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@needs_helm
def test_an_over_long_prompt_costs_helm_two_tokenize_calls_and_one_decode(tmp_path):
    command = [sys.executable, "-m", "effchal.serve", "model=tiny", "prompt=plain", "lora=none", "serve.port=PORT"]
    with Server([*command, f"hydra.run.dir={tmp_path}"], cwd=ROOT) as server, Counter(server.url) as counter:
        threading.Thread(target=counter.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{counter.server_address[1]}"
        asked = subprocess.run(
            [HELM_PYTHON, "-c", ASK_HELM], env={"HELM_HTTP_MODEL_BASE_URL": url}, capture_output=True, text=True
        )
        counter.shutdown()
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout.splitlines()[-1])
    assert answer["success"]
    assert answer["tokens"] <= 5
    assert ("The quick brown fox. " * 500).startswith(answer["prompt"])
    assert 0 < len(answer["prompt"]) <= 2048
    assert counter.counts == {"/tokenize": 2, "/decode": 1, "/process": 1}
