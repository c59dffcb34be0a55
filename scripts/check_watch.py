"""`effchal report --watch` beside real trainings, in two real browsers.

    python scripts/check_watch.py [--steps 12] [--turns 3]

While SmolLM2 trains, two pages follow it. A second run appears, is killed (kill -9), and its
folder is deleted; a sweep of two jobs is trained. Each page must show all of it, without an
error, and keep the reader's sort and selection. Then the server gets Ctrl-C, and must leave no
port. At last a tiny model trains in turns with and without a reader. The exit status is 1 if
anything was wrong.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
from devtools import Browser

from effchal.runs import read_json_lines

ROOT = Path(__file__).resolve().parents[1]
TINY = ["model=tiny", "data_mix=quickstart", "rules=none", "train.examples_per_step=4"]
TINY += ["train.warmup_steps=2", "budget.hours=1"]
LATEST_S = 20.0  # until a page shows what a run has written
ROW = "runTable.data.rows.find((row) => row.folder.endsWith(%s))"
wrong: list[str] = []


def check(name: str, is_right: bool, found: object = "") -> None:
    print(
        f"{'ok   ' if is_right else 'WRONG'} {name}{f': {found}' if found != '' else ''}",
        flush=True,
    )
    if not is_right:
        wrong.append(name)


def command(*words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "effchal", *words], cwd=ROOT, text=True, **options
    )


def train(folder: Path, *words: str) -> subprocess.Popen:
    place = "hydra.sweep.dir" if "-m" in words else "hydra.run.dir"
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        return command("train", *words, f"{place}={folder}", stdout=log, stderr=log)


@contextmanager
def watching(folder: Path):
    """The server's process and its port. A terminal's Ctrl-C is what ends it."""
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = command(
        "report", "--watch", "--port", "0", str(folder), stdout=subprocess.PIPE, **hears
    )
    try:
        yield process, int(re.search(r":(\d+) follows", process.stdout.readline())[1])
    finally:
        process.kill()


def shows(pages: list[Browser], name: str, condition: str) -> None:
    """Wait until every page shows it; `row` is the row of the run in the folder `name`."""
    started = time.monotonic()
    expression = f"((row) => {condition})({ROW % json.dumps('/' + name)})"
    try:
        for page in pages:
            page.wait_for(expression, timeout_s=LATEST_S)
    except TimeoutError:
        found = pages[0].evaluate(f"JSON.stringify({ROW % json.dumps('/' + name)} ?? null)")
        return check(f"{name}: {condition}", False, found)
    check(f"{name}: {condition}", True, f"shown after {time.monotonic() - started:.1f} s")


def steps_of(folder: Path) -> int:
    return max((line["step"] for line in read_json_lines(folder / "metrics.jsonl")), default=0)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    while steps_of(folder) < step and process.poll() is None:
        time.sleep(0.2)


def follow(work: Path, steps: int, chromium: str) -> None:
    """A training, a killed one, a deleted one and a sweep, in two pages."""
    runs = work / "runs"
    runs.mkdir()
    with (
        watching(runs) as (server, port),
        Browser(chromium, work / "one") as one,
        Browser(chromium, work / "two") as two,
    ):
        pages, url = [one, two], f"http://127.0.0.1:{port}/"
        for page in pages:
            page.open(url, 1280, 900)
            page.wait_for("document.body.dataset.ready")
        check("a page without runs", one.evaluate("!byId('empty').hidden"))
        words = ["experiment=quickstart", "budget.hours=0.5", f"train.max_steps={steps}"]
        first = train(runs / "first", *words, "train.validate_every=4")
        shows_when_begun(first, runs / "first", pages)
        one.evaluate("runTable.table.setSort('steps', 'desc')")
        one.evaluate("runTable.table.selectRow([runTable.data.rows[0].run])")
        odd_runs(runs, pages)
        first.wait()
        shows(pages, "first", f"row?.status === 'finished' && row.steps === {steps}")
        curve = (
            "document.querySelectorAll('#curves_chart svg path, #curves_chart canvas').length > 3"
        )
        check("its loss is drawn", all(page.evaluate(curve) for page in pages))
        train(runs / "sweep", "-m", *TINY, "train.max_steps=20", "lora.r=2,4").wait()
        for job in ("sweep/0", "sweep/1"):
            shows(pages, job, "row?.status === 'finished' && row.sweep === 'sweep'")
        kept = one.evaluate("runTable.table.getSorters().map((each) => each.field).join()")
        chosen = one.evaluate("runTable.table.getSelectedData().map((row) => row.run).join()")
        check("sort and selection stay", (kept, chosen) == ("steps", "first"), f"{kept}, {chosen}")
        end(server, port, pages)


def shows_when_begun(process: subprocess.Popen, folder: Path, pages: list[Browser]) -> None:
    wait_for_step(process, folder, 2)
    shows(pages, folder.name, "row?.status === 'running' && row.steps >= 2 && row.ends")
    line = pages[0].evaluate("byId('live').textContent")
    check(
        "the line of what runs", bool(re.match(r"Running: first \d+/\d+ steps, ends", line)), line
    )


def odd_runs(runs: Path, pages: list[Browser]) -> None:
    """A run that is killed, and folders that come and go."""
    second = train(runs / "second", *TINY, "train.max_steps=2000", "train.epochs=500")
    wait_for_step(second, runs / "second", 5)
    shows(pages, "second", "row?.status === 'running' && row.steps >= 5")
    second.kill()
    second.wait()
    shows(pages, "second", "row?.status === 'no record'")
    (runs / "empty").mkdir()
    (runs / "half").mkdir()
    (runs / "half" / "run.json").write_text('{"status": "fini')
    shows(pages, "half", "row && byId('problem_table').textContent.includes('run.json is damaged')")
    for name in ("second", "half", "empty"):
        shutil.rmtree(runs / name)
    shows(pages, "second", "!row")
    shows(pages, "empty", "byId('problems').hidden")


def end(server: subprocess.Popen, port: int, pages: list[Browser]) -> None:
    for page in pages:
        check("errors in a page's console", page.console == [], page.console or "none")
    server.send_signal(signal.SIGINT)
    check("exit status after Ctrl-C", server.wait(20) == 0, server.returncode)
    with socket.socket() as mine:
        check("the port is free", mine.connect_ex(("127.0.0.1", port)) != 0)
    told = "byId('live').textContent.startsWith('The server does not answer')"
    pages[0].wait_for(told, timeout_s=10)
    check("the page says that the server is gone", True)


@contextmanager
def reader(folder: Path):
    """A server and a page that asks for news every two seconds; what the server used, in s."""
    used = {"s": 0.0}
    stop = threading.Event()

    def ask(port: int) -> None:
        while not stop.wait(2.0):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/data.json").read()

    with watching(folder) as (server, port):
        thread = threading.Thread(target=ask, args=(port,))
        thread.start()
        yield used
        used["s"] = sum(psutil.Process(server.pid).cpu_times()[:2])
        stop.set()
        thread.join()


def speed(folder: Path) -> tuple[float, float]:
    """Tokens per second of the median step, and wall seconds, of a tiny training."""
    started = time.monotonic()
    folder.parent.mkdir(exist_ok=True)
    train(folder, *TINY, "train.max_steps=80", "train.epochs=50").wait()
    speeds = [
        each["tokens_per_s"] for each in read_json_lines(folder / "metrics.jsonl") if "loss" in each
    ]
    return statistics.median(speeds), time.monotonic() - started


def compare_speeds(work: Path, turns: int) -> None:
    """Trainings with and without a reader, in turns."""
    found: dict[str, list[float]] = {"alone": [], "watched": []}
    used = []
    for turn in range(turns):
        found["alone"].append(speed(work / "speed" / f"alone_{turn}")[0])
        with reader(work / "speed") as cost:
            tokens, wall_s = speed(work / "speed" / f"watched_{turn}")
        found["watched"].append(tokens)
        used.append(cost["s"] / wall_s)
    for name, each in found.items():
        rounds = ", ".join(f"{speed:,.0f}" for speed in each)
        print(f"{name}: {statistics.median(each):,.0f} tokens/s ({rounds})")
    print(f"the server used {100 * statistics.median(used):.1f} % of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="of SmolLM2; 0: speeds only")
    parser.add_argument("--turns", type=int, default=3, help="of speeds; 0: none; default: 3")
    args = parser.parse_args()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: no Chromium here")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.steps:
            follow(work, args.steps, chromium)
        if args.turns:
            compare_speeds(work, args.turns)
    print(f"{len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
