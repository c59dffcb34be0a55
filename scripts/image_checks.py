"""The running part of scripts/check_images.sh, which sets the environment and calls it.

    python3 scripts/image_checks.py train|serve|baked

Prints a table row for each check; an AssertionError ends it. Standard library only.
"""

import contextlib
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

WORK, MODEL = Path(os.environ["WORK"]), Path(os.environ["MODEL"]).resolve()
BUILDAH = os.environ["BUILDAH"].split()
URL = "http://127.0.0.1:80"
PATIENCE_S = 300
OTHER_USER = 43210  # that no image knows
IMAGE_USER = 10001
PROMPT, TOKENS = "The capital of France is", 12
STEPS, FIRST_KILL, SECOND_KILL = 8, 2, 5
TRAIN = [
    *("experiment=quickstart", f"train.max_steps={STEPS}", "train.checkpoint_every=2"),
    *("train.examples_per_step=4", "train.samples=[]", "train.validate_every=100"),
    *("budget.hours=1", "budget.periodic_work_share=1.0"),
]


def buildah(*words: str) -> str:
    found = subprocess.run([*BUILDAH, *words], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@functools.cache
def configuration(image: str) -> dict:
    """What the image says of how it is run: Entrypoint, User, Env."""
    described = json.loads(buildah("inspect", "--type", "image", f"localhost/{image}"))
    return described["OCIv1"]["config"]


class Container:
    """An image that runs as `docker run <image> <arguments>` would; its output goes to `log`."""

    def __init__(self, image: str, *arguments: str, user: int | None = None, **mounts: Path):
        self.name = buildah("from", f"localhost/{image}")
        self.log = WORK / f"{self.name}.log"
        threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
        self.variables = [f"EFFCHAL_CHECK={self.name}", f"OMP_NUM_THREADS={threads}"]
        options = [f"--env={variable}" for variable in self.variables] + ["--network=host"]
        options += [f"--user={user}:{user}"] if user is not None else []
        options += [f"--volume={path}:{place}" for place, path in mounts.items()]
        command = [*configuration(image)["Entrypoint"], *arguments]
        self._run([*BUILDAH, "run", *options, self.name, "--", *command])

    def _run(self, command: list[str]) -> None:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        """The first process of the container: the one that `docker stop` would signal."""
        mark = f"EFFCHAL_CHECK={self.name}".encode()
        for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda each: int(each.name)):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().split(b"\0")
                marks = (folder / "environ").read_bytes().split(b"\0")
                if b"-m" in command and b"python" in command[0] and mark in marks:
                    return int(folder.name)
        raise AssertionError(f"{self.name} has ended:\n{self.log.read_text()}")

    @property
    def user(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("\nUid:")[2].split()[0])

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code; buildah tells a death by a signal as 1."""
        return self.process.wait(timeout=PATIENCE_S)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def ready(self) -> None:
        self.wait_for(lambda: status("/ready") == 200)


class ReadOnlyContainer(Container):
    """`docker run --read-only --tmpfs /tmp`, which buildah has no option for."""

    def _run(self, command: list[str]) -> None:
        image, command = configuration("effchal-baked"), command[command.index("--") + 1 :]
        root = buildah("mount", self.name)
        script = """
            mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"
            mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount -t tmpfs tmpfs "$1/tmp"
            exec chroot --userspec="$2" "$1" /usr/bin/env -i "${@:3}"
        """
        inside = ["unshare", "--mount", "bash", "-c", script, "inside", root, image["User"]]
        super()._run([*inside, *image["Env"], *self.variables, *command])


@contextlib.contextmanager
def running(container: Container) -> Iterator[Container]:
    try:
        yield container
    finally:
        if container.process.poll() is None:
            with contextlib.suppress(AssertionError):
                container.signal(signal.SIGKILL)
            container.process.wait()
        buildah("rm", container.name)


def status(path: str) -> int | None:
    """The HTTP status of a GET, or None where nobody listens."""
    try:
        with urllib.request.urlopen(URL + path, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def post(path: str, **body):
    return urllib.request.urlopen(URL + path, json.dumps(body).encode(), timeout=PATIENCE_S)


def process(**body) -> dict:
    with post("/process", prompt=PROMPT, **body) as answer:
        return json.load(answer)


@contextlib.contextmanager
def row(check: str) -> Iterator[list[str]]:
    """A row of the table, with what the block says in the list that it gets."""
    began, words = time.monotonic(), []
    yield words
    print(f"| {check} | {', '.join(words)} | {time.monotonic() - began:.0f} s |", flush=True)


def steps(run: Path) -> int:
    """The last step in a run's record."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines if '"loss"' in line), default=0)
    except (OSError, ValueError):  # not begun, or a line half written
        return 0


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def digest(run: Path) -> str:
    weights = run / "bundle" / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def check_train() -> None:
    runs = WORK / "train"
    runs.mkdir()
    os.chown(runs, OTHER_USER, OTHER_USER)
    # Below the image's VOLUME: at its own path buildah 1.28 mounts either of the two, at random.
    mounts = {"/effchal/outputs/train": runs, f"/effchal/outputs/models/{MODEL.name}": MODEL}
    whole, killed = runs / "whole", runs / "killed"

    def train(*words: str) -> Container:
        return Container("effchal-train", *words, user=OTHER_USER, **mounts)

    with row(f"train {STEPS} steps as uid {OTHER_USER}") as said:
        with running(train(*TRAIN, "hydra.run.dir=outputs/train/whole")) as run:
            assert run.wait() == 0, run.log.read_text()
        assert record(whole)["status"] == "finished"
        said += ["exit code 0", f"validation loss {record(whole)['validation_loss']:.3f}"]
    with row(f"SIGTERM after step {FIRST_KILL}") as said:
        with running(train(*TRAIN, "hydra.run.dir=outputs/train/killed")) as run:
            run.wait_for(lambda: steps(killed) >= FIRST_KILL)
            assert run.user == OTHER_USER
            run.signal(signal.SIGTERM)
            assert run.wait() == 128 + signal.SIGTERM, run.log.read_text()
        assert record(killed)["status"] == "interrupted"
        said += [f"exit code 143, interrupted and saved at step {record(killed)['step']}"]
    with row(f"resume, SIGKILL after step {SECOND_KILL}") as said:
        with running(train("resume_from=outputs/train/killed")) as run:
            run.wait_for(lambda: steps(killed) >= SECOND_KILL)
            run.signal(signal.SIGKILL)
            assert run.wait() != 0
        saved = max(path.stem for path in (killed / "checkpoint").glob("step_*"))
        said += [f"killed after step {steps(killed)}, newest checkpoint {saved}"]
    with row("resume") as said:
        with running(train("resume_from=outputs/train/killed")) as run:
            assert run.wait() == 0, run.log.read_text()
        assert record(killed)["status"] == "finished"
        assert digest(killed) == digest(whole)
        said += [f"finished with step {record(killed)['step']}, adapter as of the undisturbed run"]


def check_serve() -> None:
    with row("serve without a bundle") as said, running(Container("effchal-serve")) as server:
        assert server.wait() == 2
        (line,) = [line for line in server.log.read_text().splitlines() if "error" in line]
        said += ["exit code 2", line.strip()]
    mounts = {"/bundle": WORK / "train" / "killed" / "bundle", "/base_model": MODEL}
    with running(Container("effchal-serve", **mounts)) as server:
        with row("serve a mounted bundle on port 80") as said:
            server.wait_for(lambda: status("/health") == 200)
            server.ready()
            assert server.user == IMAGE_USER
            said += [f"uid {server.user}", "/health and /ready answer 200"]
        ask_by_helm()
        stop_during_an_answer(server)


def ask_by_helm() -> None:
    with row("HELM's client and tokenizer (crfm-helm 0.5.16)") as said:
        words = [os.environ["HELM_PYTHON"], "scripts/ask_by_helm.py", URL, PROMPT, str(TOKENS)]
        found = subprocess.run(words, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        theirs, ours = json.loads(found.stdout.splitlines()[-1]), process(max_new_tokens=TOKENS)
        assert theirs["text"] == ours["text"]
        assert theirs["tokens"] == [token["text"] for token in ours["tokens"]]
        assert theirs["decoded"] == PROMPT
        said += [f"{len(ours['tokens'])} tokens, as of /process; prompt decoded as it was"]


def stop_during_an_answer(server: Container) -> None:
    wanted = 100
    with row("SIGTERM during an answer") as said:
        options = {"stream_options": {"include_usage": True}, "ignore_eos": True, "temperature": 0}
        answer = post("/v1/completions", prompt=PROMPT, max_tokens=wanted, stream=True, **options)
        answer.readline()
        server.signal(signal.SIGTERM)
        events = [line for line in answer.read().decode().splitlines() if line]
        assert events[-1] == "data: [DONE]"
        usage = json.loads(events[-2].removeprefix("data: "))["usage"]
        assert usage["completion_tokens"] == wanted
        assert server.wait() == 0, server.log.read_text()
        said += [f"all {wanted} tokens came", "exit code 0"]


def check_baked() -> None:
    answers = []
    kinds = {
        "run alone, no argument and no mount": (Container, [], {}),
        f"run as uid {OTHER_USER}": (Container, [], {"user": OTHER_USER}),
        "read-only root, /tmp in memory": (ReadOnlyContainer, [], {}),
        "run with decoding.max_new_tokens=5": (Container, ["decoding.max_new_tokens=5"], {}),
    }
    for kind, (container, words, options) in kinds.items():
        with (
            row(f"baked in: {kind}") as said,
            running(container("effchal-baked", *words, **options)) as server,
        ):
            server.ready()
            assert server.user == options.get("user", IMAGE_USER)
            answers.append(process()["text"])
            number = len(process()["tokens"])
            server.signal(signal.SIGTERM)
            assert server.wait() == 0, server.log.read_text()
            is_read_only = "Read-only file system" in server.log.read_text()
            assert is_read_only == (container is ReadOnlyContainer)
            said += [f"uid {options.get('user', IMAGE_USER)}", f"{number} tokens"]
    assert len(set(answers[:3])) == 1
    assert answers[0].startswith(answers[3])
    assert number == 5


if __name__ == "__main__":
    {"train": check_train, "serve": check_serve, "baked": check_baked}[sys.argv[1]]()
