"""A server whose GPU is lost to its process goes on in a fresh one."""

import json
import sys
import time
import urllib.error
import urllib.request

import pytest
from support.paths import ROOT
from support.servers import Server, status

# The GPU of this server is lost by token 7.
LOSING = """
import effchal.serving.app as app
load_engine = app.load_engine

def load(*told):
    engine = load_engine(*told)
    extend = engine.model.extend

    def lose(new, *rest):
        if any((each.ids == 7).any() for each in new):
            raise RuntimeError("CUDA error: device-side assert triggered")
        return extend(new, *rest)

    engine.model.extend = lose
    return engine

app.load_engine = load
import effchal.serve
effchal.serve.main()
"""


def complete(server, prompt):
    body = json.dumps({"prompt": prompt, "max_tokens": 2}).encode()
    request = urllib.request.Request(f"{server.url}/v1/completions", body)
    return json.load(urllib.request.urlopen(request, timeout=60))["choices"]


def test_a_fresh_worker_takes_over(tmp_path):
    overrides = ["model=tiny", "prompt=plain", "lora=none", "serve.port=PORT"]
    command = [sys.executable, "-c", LOSING, *overrides, f"hydra.run.dir={tmp_path}"]
    with Server(command, cwd=ROOT) as server:
        before = complete(server, [5, 6])
        with pytest.raises(urllib.error.HTTPError) as refused:
            complete(server, [5, 7])
        assert refused.value.code == 500
        end = time.monotonic() + 120
        while status(f"{server.url}/ready") == 200:  # the old worker, for a moment
            assert time.monotonic() < end
            time.sleep(0.02)
        while status(f"{server.url}/ready") != 200:
            assert time.monotonic() < end
            assert server.process.poll() is None
            time.sleep(0.1)
        after = complete(server, [5, 6])
    assert after[0]["text"] == before[0]["text"]
