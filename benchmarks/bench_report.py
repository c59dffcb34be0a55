"""Seconds and bytes of `effchal report` over many runs, and of its page in a browser.

    python benchmarks/bench_report.py [--runs 500] [--steps 1000] [--into FOLDER] [--profile]

Copies the runs of experiments/report/runs until there are enough. Each copy has its own seed
and bundle; `--steps` says again what a run logged until it has so many steps. Then it runs
`effchal report`, and Chromium, if there is one, opens the page. One line each.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from common import ROOT

SOURCE = ROOT / "experiments" / "report" / "runs"
SLOWEST = 25  # functions that --profile prints
# What a reader does, and what has to be true before it is done.
GESTURES = {
    "sort by hours": (
        "document.querySelector('[tabulator-field=hours] .tabulator-col-title').click()",
        "runTable.table.getSorters()[0]?.field === 'hours'",
    ),
    "filter by kind": (
        "runTable.table.setHeaderFilterValue('kind', 'train')",
        "runTable.table.getData('active').every((row) => row.kind === 'train')",
    ),
    "find a text": (
        "byId('find').value = 'lora_r'; byId('find').dispatchEvent(new Event('input'))",
        "runTable.table.getDataCount('active') < runTable.data.rows.length / 3",
    ),
    "clear the filters": (
        "byId('reset').click()",
        "runTable.table.getDataCount('active') === runTable.data.rows.length",
    ),
    "group by sweep": (
        "byId('group').value = 'sweep'; byId('group').dispatchEvent(new Event('change'))",
        "runTable.table.getGroups().length > 1",
    ),
    "select all runs": (
        "runTable.table.selectRow()",
        "runTable.table.getSelectedRows().length === runTable.data.rows.length",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--steps", type=int, default=0, help="of each training; 0: as they are")
    parser.add_argument("--into", type=Path, help="an empty folder, to keep the runs and the page")
    parser.add_argument("--profile", action="store_true", help="print what takes the time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = args.into or Path(folder)
        made = make_runs(work / "runs", args.runs, args.steps)
        print(f"{made} run folders")
        measure_command(work, args.profile)
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if chromium is None:
            print("no Chromium here: the page was not opened")
        else:
            measure_page(work, chromium)


def make_runs(into: Path, wanted: int, steps: int) -> int:
    """Copies of the real runs in `into`; returns how many."""
    if into.exists():
        sys.exit(f"error: {into} is there already; give an empty folder")
    made = 0
    while made < wanted:
        copy = into / f"copy_{made}"
        shutil.copytree(SOURCE, copy)
        make_own(copy, number=made, steps=steps)
        for config in sorted(copy.rglob("config.yaml"))[wanted - made :]:
            shutil.rmtree(config.parent)
        made += len(list(copy.rglob("config.yaml")))
    return made


def make_own(copy: Path, number: int, steps: int) -> None:
    """Give a copy its own bundles and seed, so that its evaluations belong to its own runs."""
    digests = {}
    for path in copy.rglob("manifest.json"):
        before = sha256(path.read_bytes()).hexdigest()
        path.write_text(path.read_text() + " " * number)
        digests[before] = sha256(path.read_bytes()).hexdigest()
    for path in copy.rglob("results.json"):
        path.write_text(
            re.sub(r"\b[0-9a-f]{64}\b", lambda x: digests.get(x[0], x[0]), path.read_text())
        )
    for path in copy.rglob("config.yaml"):
        text = re.sub(r"^  seed: 0$", f"  seed: {number}", path.read_text(), flags=re.MULTILINE)
        path.write_text(text)
    for path in copy.rglob("metrics.jsonl"):
        lengthen(path, steps)


def lengthen(path: Path, steps: int) -> None:
    """Say again what a run logged, at later steps, until there are so many."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    own = max(record["step"] for record in records)
    with path.open("a", encoding="utf-8") as file:
        for shift in range(own, steps, own):
            for record in records:
                if record["step"] > 0:
                    file.write(json.dumps(record | {"step": record["step"] + shift}) + "\n")


def measure_command(work: Path, with_profile: bool) -> None:
    words = ["-m", "effchal.report", str(work / "runs"), "--output", str(work / "report.html")]
    if with_profile:
        words = ["-m", "cProfile", "-s", "tottime", *words]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    wall_s, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stdout.decode().splitlines()
    print("\n".join(lines if not with_profile else lines[: SLOWEST + 8]))
    process_s = sum((after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime))
    size = (work / "report.html").stat().st_size
    print(
        f"effchal report: {process_s:.1f} s of a processor, {wall_s:.1f} s in all, "
        f"{after.ru_maxrss / 1024:.0f} MiB; the page has {size / 1e6:.2f} MB"
    )


def measure_page(work: Path, chromium: str) -> None:
    """Wall seconds until the page is drawn, and until each gesture has its effect."""
    sys.path.append(str(ROOT / "scripts"))
    from devtools import Browser

    with Browser(chromium, work / "profile") as browser:
        started = time.monotonic()
        browser.open((work / "report.html").as_uri(), 1280, 900)
        browser.wait_for("document.body.dataset.ready")
        print(f"open the page: {time.monotonic() - started:.2f} s")
        for name, (gesture, effect) in GESTURES.items():
            started = time.monotonic()
            # The second frame after a gesture is drawn once all of its work is done.
            browser.evaluate(f"(async () => {{ {gesture}; {TWO_FRAMES} }})()")
            browser.wait_for(effect, timeout_s=30)
            print(f"{name}: {time.monotonic() - started:.2f} s")
        print(f"errors of the page: {browser.console or 'none'}")


TWO_FRAMES = "for (let i = 0; i < 2; i += 1) await new Promise(requestAnimationFrame)"


if __name__ == "__main__":
    main()
