"""The examples of deployment: what linters say, and the Slurm job with stand-ins of Slurm."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from support.configs import compose_config
from support.paths import ROOT

DEPLOY = ROOT / "examples" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DEPLOYMENT, SERVICE, POD_MONITOR = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
SLURM = DEPLOY / "slurm.sbatch"
PROGRAMS = Path(sys.executable).parent
SLURM_OPTIONS = {  # of sbatch's manual
    *("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "output"),
    *("open-mode", "requeue", "signal"),
}


def lint(program, *arguments):
    """What a linter of the extra `dev` finds wrong; empty if nothing."""
    path = shutil.which(program, path=str(PROGRAMS)) or shutil.which(program)
    if path is None:
        pytest.skip(f"no {program}; it comes with the extra dev")
    result = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True)
    return "" if result.returncode == 0 else result.stdout + result.stderr


@pytest.mark.integration
@pytest.mark.parametrize("name", ["Dockerfile.serve", "Dockerfile.train"])
def test_hadolint_finds_nothing(name):
    assert lint("hadolint", ROOT / name) == ""


@pytest.mark.integration
def test_shellcheck_finds_nothing():
    scripts = sorted((ROOT / "scripts").glob("*.sh"))
    sources = [f"--source-path={path}" for path in ("SCRIPTDIR", "SCRIPTDIR/..")]
    assert lint("shellcheck", "--shell=bash", "--external-sources", *sources, SLURM, *scripts) == ""


@pytest.mark.integration
def test_the_compose_file_fits_its_specification(tmp_path):
    words = ("--no-cache", "--builtin-schema", "vendor.compose-spec")
    assert lint("check-jsonschema", *words, DEPLOY / "compose.yaml") == ""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("healthcheck:", "healthchek:"))
    assert "healthchek" in lint("check-jsonschema", *words, wrong)


@pytest.mark.parametrize("resource", [DEPLOYMENT, SERVICE], ids=lambda each: each["kind"])
def test_kubernetes_knows_the_resource(resource):
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="no kubernetes-validate; it comes with the extra dev"
    )
    newest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(resource, newest, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource | {"sepc": {}}, newest, strict=True)


def test_the_pod_monitor_scrapes_a_port_of_the_deployment():
    # What the operator's custom resource requires; no package has its schema.
    assert POD_MONITOR["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(POD_MONITOR["spec"]) == {"selector", "podMetricsEndpoints"}
    (endpoint,) = POD_MONITOR["spec"]["podMetricsEndpoints"]
    assert set(endpoint) == {"port", "path", "interval"}
    pod = DEPLOYMENT["spec"]["template"]
    ports = {port["name"] for each in pod["spec"]["containers"] for port in each["ports"]}
    assert {endpoint["port"], SERVICE["spec"]["ports"][0]["targetPort"]} == ports
    labels = pod["metadata"]["labels"]
    assert POD_MONITOR["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"] == labels


def test_kubernetes_asks_the_port_that_the_server_is_told():
    pod = DEPLOYMENT["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    serve = compose_config(container["args"]).serve
    assert serve.port == container["ports"][0]["containerPort"]
    asked = {kind: container[kind]["httpGet"]["path"] for kind in container if "Probe" in kind}
    health = dict.fromkeys(("startupProbe", "livenessProbe"), "/health")
    assert asked == {"readinessProbe": "/ready", **health}
    assert pod["terminationGracePeriodSeconds"] > serve.drain_s


def test_compose_waits_until_running_answers_have_ended():
    (service,) = COMPOSE["services"].values()
    drain_s = compose_config(service["command"]).serve.drain_s
    assert service["stop_grace_period"] == f"{drain_s // 60 + 1}m"


@pytest.fixture
def answering():
    """A server whose routes answer with the statuses of a dictionary."""
    statuses = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, statuses
    server.shutdown()


@pytest.mark.integration
@pytest.mark.parametrize("where", ["compose", "image"])
def test_a_health_check_asks_what_it_should(where, answering):
    port, statuses = answering
    if where == "compose":
        path, command = "/ready", COMPOSE["services"]["serve"]["healthcheck"]["test"][1:]
    else:
        path, text = "/health", (ROOT / "Dockerfile.serve").read_text()
        words = re.search(r"^HEALTHCHECK .*? CMD (\[.*?\])$", text, re.MULTILINE | re.DOTALL)[1]
        command = json.loads(words.replace("\\\n", ""))
    command = [word.replace("127.0.0.1", f"127.0.0.1:{port}") for word in command]
    command[0] = sys.executable
    environment = os.environ | {"http_proxy": "http://127.0.0.1:1"}  # not asked
    for code, expected in ((503, 1), (200, 0)):
        statuses.clear()
        statuses[path] = code
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == expected, result.stderr


def test_sbatch_knows_the_options_of_the_slurm_job():
    text = SLURM.read_text()
    before, _, after = text.partition("\nset -euo")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", before, re.MULTILINE))
    assert len(options) == before.count("#SBATCH")
    assert "#SBATCH" not in after  # Slurm reads none behind the first command
    assert set(options) <= SLURM_OPTIONS
    patience_s = int(re.search(r"SHUTDOWN_TIMEOUT=(\d+)", after)[1])
    assert int(options["signal"].removeprefix("B:USR1@")) > patience_s


STAND_INS = {
    # srun: its options, then a command. Like the real one it turns SIGTERM into SIGKILL.
    "srun": """while [[ $1 == --* ]]; do shift; done
        "$@" & child=$!
        trap "kill -KILL $child" TERM
        wait $child""",
    "scontrol": 'echo "scontrol $*" >>calls; [ "$1" != show ] || printf "one\\ntwo\\n"',
    "scancel": '[ "$*" = "--signal=TERM 7" ] && kill -TERM "$(cat pid)"',
    "torchrun": """echo "torchrun $*" >>calls
        trap 'echo "{\\"status\\": \\"interrupted\\"}" >outputs/train/slurm_7/run.json; exit 1' TERM
        mkdir -p outputs/train/slurm_7/checkpoint
        echo $$ >pid
        for i in {1..200}; do [ ! -e ended ] || exit "$(cat ended)"; sleep 0.05; done""",
}


class SlurmJob:
    """The job in a folder, with stand-ins of Slurm's programs and torchrun."""

    def __init__(self, folder):
        self.folder, programs = folder, folder / "programs"
        programs.mkdir()
        for name, text in STAND_INS.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_PER_NODE": "a100:4",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
        }

    def run(self, end=None, to_job=None, to_run=None):
        """Calls of one try, which ends with an exit code, or gets signals."""
        for name in ("calls", "pid", "ended"):
            (self.folder / name).unlink(missing_ok=True)
        if end is not None:
            (self.folder / "ended").write_text(str(end))
        command = ["bash", str(SLURM), "lora.r=64", "name=a b"]
        job = subprocess.Popen(command, cwd=self.folder, env=self.environment)
        pid = self.folder / "pid"
        while not (pid.exists() and pid.read_text().endswith("\n")):
            assert job.poll() is None
            time.sleep(0.01)
        if to_job is not None:
            job.send_signal(to_job)
        if to_run is not None:
            os.kill(int(pid.read_text()), to_run)
        code = job.wait(timeout=20)
        assert code == (1 if end is None else end)
        return (self.folder / "calls").read_text().splitlines()


REQUEUE = "scontrol requeue 7"


def test_a_slurm_job_starts_its_run_on_every_node(tmp_path):
    _, torchrun = SlurmJob(tmp_path).run(end=0)
    assert "--nnodes=2 --nproc-per-node=4 " in torchrun
    assert "--rdzv-endpoint=one:29500 -m effchal.train" in torchrun
    assert torchrun.endswith("lora.r=64 name=a b hydra.run.dir=outputs/train/slurm_7")


def test_a_slurm_job_that_must_end_saves_and_goes_back_into_the_queue(tmp_path):
    job = SlurmJob(tmp_path)
    assert job.run(to_job=signal.SIGUSR1)[-1] == REQUEUE  # its time
    (tmp_path / "outputs/train/slurm_7/checkpoint/step_0000009.pt").touch()
    _, torchrun, last = job.run(to_run=signal.SIGTERM)  # preempted: Slurm signals the run
    assert torchrun.endswith("-m effchal.train resume_from=outputs/train/slurm_7")
    assert last == REQUEUE
    assert REQUEUE not in job.run(end=1)  # failed, though run.json is of the try before


def test_a_slurm_job_that_is_cancelled_is_not_put_back(tmp_path):
    calls = SlurmJob(tmp_path).run(to_job=signal.SIGTERM, to_run=signal.SIGTERM)
    assert REQUEUE not in calls
