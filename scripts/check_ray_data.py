"""Whether a mix built over Ray Data is the very same: two nodes, each lost once while it works.

pip install 'effchal[train,ray]'; python scripts/check_ray_data.py <new folder> [--rows 24000]
Builds one mix of JSON lines, gzip, Parquet and shipped rows with planted faults by both engines,
each in a cache of its own. Fails unless all files of the caches and the reports are equal, each
engine finds what the other built, and both tell the same error of a bad row in shard 17.
"""

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pyarrow.parquet
from check_ray import kill

SHARDS, BAD = 24, 17
WORDS = [f"{a}{b}" for a in "bdfgklmnprstvz" for b in ("ack", "ell", "ind", "ost", "um", "ave")]
ASKED = "which of the seven lanterns in the harbour burns longest when all winds rest at dawn"
MIX = ["data_mix=quickstart", "data=[shards,packed.jsonl.gz,table.parquet]", "scenario.path=none"]
MIX += ["data_mix.sources.shards.where={lang: [en, xx]}", "data_mix.sources.table.max_rows=9000"]
MIX += ["data_mix.clean.near_duplicates=drop", "data_mix.clean.empty_answers=drop"]
MIX += ["data_mix.decontaminate.action=drop", "data_mix.decontaminate.files=[eval.jsonl]"]
MODEL = ["model=tiny", "model.max_seq_len=2048", "prompt=instruction"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=24_000, help="of each of three sources")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    os.chdir(args.folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    write_sources(args.rows)
    local = build("local", "cache_local", MIX)
    tell("local", local)
    on_cluster()
    assert Path("local/mix.json").read_bytes() == Path("ray/mix.json").read_bytes()
    assert Path("local/mix.md").read_bytes() == Path("ray/mix.md").read_bytes()
    ours, theirs = digests(Path("cache_local")), digests(Path("cache_ray"))
    assert ours == theirs, set(ours.items()) ^ set(theirs.items())
    print(f"{len(ours)} files of both caches are equal, and so are mix.json and mix.md")
    each_finds_the_others(ours)
    for stop in (signal.SIGINT, signal.SIGTERM):
        leaves_nothing(stop)
    same_error()


def on_cluster() -> None:
    """Build on two nodes of one core, of which the second is lost twice and comes back once."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        lost = [cluster.add_node(num_cpus=1)]
        cluster.wait_for_nodes()

        def lose_nodes(_: subprocess.Popen, log: Path) -> None:
            for stage in ("reading source shards", "encoding source shards"):
                wait_for_work(lost[-1], log, stage)
                kill(cluster, lost[-1])
                print(f"killed a node at {stage!r}, while it worked on it", flush=True)
                if len(lost) == 1:
                    lost.append(cluster.add_node(num_cpus=1))

        tell("ray", build("ray", "cache_ray", MIX, cluster.address, lose_nodes))
        assert len(lost) == 2
    finally:
        cluster.shutdown()


def wait_for_work(node: Any, log: Path, stage: str) -> None:
    """Wait until a stage has begun and a process of the node is at work."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for _ in range(3000):
        time.sleep(0.1)
        with contextlib.suppress(psutil.NoSuchProcess):
            titles = [" ".join(each.cmdline()) for each in raylet.children(recursive=True)]
            if stage in log.read_text() and any("MapBatches" in title for title in titles):
                return
    raise AssertionError(f"no process of the node was at work at {stage!r}")


def build(
    engine: str,
    cache: str,
    words: list[str],
    address: str = "local",
    meanwhile: Callable[[subprocess.Popen, Path], None] | None = None,
) -> dict[str, Any]:
    """Build a mix in a process of its own. What it said, and what it took."""
    folder, log = Path(engine), Path(f"{engine}.log")
    command = [sys.executable, "-m", "effchal.data", *words, *MODEL, f"data.engine={engine}"]
    environment = os.environ | {"XDG_CACHE_HOME": str(Path(cache).absolute())}
    environment |= {"RAY_ADDRESS": address, "PYTHONPATH": str(Path(__file__).parents[1])}
    begun, most = time.monotonic(), [0]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, f"hydra.run.dir={folder}"], env=environment, stdout=output, stderr=output
        )
    watcher = threading.Thread(target=watch, args=(process, most))
    watcher.start()
    if meanwhile:
        meanwhile(process, log)
    code = process.wait(timeout=1800)
    watcher.join()
    return {
        "code": code,
        "seconds": round(time.monotonic() - begun, 1),
        "own_mib": round(most[0] / 2**20),
        "said": log.read_text(),
    }


def watch(process: subprocess.Popen, most: list[int]) -> None:
    """Keep the most memory that the process had for itself: no worker's, none that is shared."""
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            most[0] = max(most[0], psutil.Process(process.pid).memory_full_info().uss)
        time.sleep(0.2)


def tell(engine: str, result: dict[str, Any]) -> None:
    assert result["code"] == 0, result["said"]
    digest = re.search(r"^Digest: (\w+)", result["said"], re.MULTILINE)
    assert digest is not None
    mix = json.loads(Path(engine, "mix.json").read_text())
    for each in mix["sources"] if engine == "ray" else ():
        dropped = {rule: one["count"] for rule, one in each["dropped"].items()}
        print(f"{each['source']}: {each['rows']:,} rows read, {each['kept']:,} kept; {dropped}")
    took = f"{result['seconds']} s, {result['own_mib']} MiB in the process that asked"
    print(f"{engine}: digest {digest[1]}, {took}", flush=True)


def digests(cache: Path) -> dict[str, str]:
    """Of all files of data in a cache."""
    files = [path for path in cache.rglob("*") if path.is_file() and "data" in path.parts]
    return {
        str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def each_finds_the_others(built: dict[str, str]) -> None:
    """Neither engine builds anything in the other's cache, and no Ray is asked."""
    for engine, cache in (("local", "cache_ray"), ("ray", "cache_local")):
        result = build(engine, cache, MIX, "127.0.0.1:1")
        assert (result["code"], digests(Path(cache))) == (0, built), result["said"]
        print(f"{engine} finds all of {cache}, without Ray, in {result['seconds']} s")


def leaves_nothing(stop: signal.Signals) -> None:
    """A signal while Ray works ends it and the Ray that was started, and leaves no half folder."""
    found: list[psutil.Process] = []
    ended: list[float] = []

    def interrupt(process: subprocess.Popen, log: Path) -> None:
        while "reading source shards: 0 rows, 10 s" not in log.read_text():
            time.sleep(0.1)
        found.extend(psutil.Process(process.pid).children(recursive=True))
        process.send_signal(stop)
        begun = time.monotonic()
        process.wait(60)
        ended.append(time.monotonic() - begun)

    code = build("ray", "cache_stopped", MIX, meanwhile=interrupt)["code"]
    _, alive = psutil.wait_procs(found, timeout=5)
    assert len(found) > 3
    assert code != 0
    assert not alive, alive
    assert not list(Path("cache_stopped").rglob(".*_*"))
    print(f"{stop.name}: code {code} after {ended[0]:.1f} s; nothing is left", flush=True)


def same_error() -> None:
    """Both engines name file and line of a row that is cut off."""
    bad = Path("shards", f"part_{BAD}.jsonl")
    lines = bad.read_text().splitlines(keepends=True)
    bad.write_text("".join([*lines[:99], lines[99][:40] + "\n", *lines[100:]]))
    errors = set()
    for engine in ("local", "ray"):
        result = build(engine, "cache_bad", ["data=shards", "data_mix.clean.empty_answers=drop"])
        assert result["code"] == 2, result["said"]
        errors.add(result["said"].strip().splitlines()[-1])
    (error,) = errors
    assert f"{bad}, line 100" in error
    print(f"both: {error}")


def write_sources(count: int) -> None:
    """Three sources, the first with planted faults, and questions of an evaluation."""
    draw = random.Random(22)
    rows = [row(draw, number) for number in range(3 * count)]
    shards = rows[:count]
    for at in range(0, count, 97):
        question, answer = shards[at]["prompt"], shards[at]["completion"]
        other = rows[(at + 210) % count]
        faults = [
            {"completion": "again and again " * 60},
            {"completion": "  "},
            {"prompt": other["prompt"], "completion": other["completion"]},
            {"prompt": question, "completion": f"{answer} And one more word."},
            {"completion": f"{answer[:200]} {ASKED.title()}?"},
            {"lang": "de"},
        ]
        for place, fault in enumerate(faults, start=1):
            if at + place < count:
                shards[at + place] |= fault
    Path("shards").mkdir()
    for part in range(SHARDS):
        text = "".join(json.dumps(each) + "\n" for each in shards[part::SHARDS])
        Path("shards", f"part_{part:02}.jsonl").write_text(text)
    with gzip.open("packed.jsonl.gz", "wt", compresslevel=1) as file:
        file.writelines(json.dumps(each) + "\n" for each in rows[count : 2 * count])
    table = pyarrow.Table.from_pylist(rows[2 * count :])
    pyarrow.parquet.write_table(table, "table.parquet", compression="none", use_dictionary=False)
    Path("eval.jsonl").write_text(json.dumps({"question": ASKED}) + "\n")


def row(draw: random.Random, number: int) -> dict[str, str]:
    question, answer = (" ".join(draw.choices(WORDS, k=size)) for size in (60, 200))
    return {"prompt": f"{number}: {question}?", "completion": f"{answer}.", "lang": "en"}


if __name__ == "__main__":
    main()
