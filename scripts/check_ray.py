"""Whether a sweep on Ray survives the loss of a node: two nodes, 8 jobs, one node killed half-way.

pip install 'effchal[ray]'; python scripts/check_ray.py <new folder>
Prints every job's tries by node, and fails unless all jobs are done and nothing was done twice.
"""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from effchal.runs import checkpoints, read_json_lines
from effchal.tracking.manifest import Manifest, State

TRAIN = ["model=tiny", "data_mix=quickstart", "rules=none", "budget=smoke"]
TRAIN += ["train.examples_per_step=16", "train.max_steps=30", "train.checkpoint_every=5"]
TRAIN += ["lora.r=2,4,6,8", "train.lr=1e-3,3e-3"]
ALL, HALF = 8, 3  # jobs; how many are done when a node is killed


def main(folder: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    words = ["hydra/launcher=ray", f"hydra.launcher.address={cluster.address}"]
    command = [sys.executable, "-m", "effchal.train", "-m", *TRAIN, *words]
    began = time.monotonic()
    try:
        process = subprocess.Popen([*command, f"hydra.sweep.dir={folder}"])
        lost = wait_for_half(folder, process, other.node_id)
        kill(cluster, other)
        print(f"killed node {other.node_id[:8]}, on which job {lost} trained", flush=True)
        code = process.wait(timeout=540)
    finally:
        cluster.shutdown()
    print(f"the sweep ended with code {code} after {time.monotonic() - began:.0f} s")
    check(folder, lost)
    sys.exit(code)


def kill(cluster: Any, node: Any) -> None:
    """Kill a node as a power cut does: with every process on it."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    processes = raylet.children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait_for_half(folder: Path, process: subprocess.Popen, node: str) -> int:
    """Wait until HALF of the jobs are done and one on `node` has a checkpoint; its number."""
    while process.poll() is None:
        time.sleep(0.1)
        if not (folder / "sweep.json").is_file():
            continue
        manifest = Manifest.load(folder)
        done = sum(manifest.state(n) is State.done for n in manifest.jobs)
        for number in manifest.jobs if done >= HALF else ():
            last = next(iter(manifest.tries(number)[::-1]), {})
            at_work = last.get("node") == node and "ended" not in last
            if at_work and checkpoints(manifest.folder_of(number) / "checkpoint"):
                return number
    raise AssertionError("the sweep ended before a node could be killed")


def check(folder: Path, lost: int) -> None:
    """Print the jobs; raise AssertionError if one is not done, or was done twice."""
    manifest = Manifest.load(folder)
    assert len(manifest.jobs) == ALL
    for number in manifest.jobs:
        tries = manifest.tries(number)
        metrics = read_json_lines(manifest.folder_of(number) / "metrics.jsonl")
        steps = [each["step"] for each in metrics if "loss" in each]
        starts = [each["step"] for each in metrics if set(each) == {"step", "spent_s"}]
        record = json.loads((manifest.folder_of(number) / "run.json").read_text())
        nodes = [f"{t['node'][:8]} {'ended' if 'ended' in t else 'killed'}" for t in tries]
        told = f"{len(steps)} steps, begun after {starts}"
        print(f"{number} {manifest.differs(number)}: {record['status']}, {told}; {nodes}")
        assert record["status"] == "finished"
        assert steps == list(range(1, record["step"] + 1))  # each once
        assert sum("ended" in each for each in tries) == 1
        assert len(tries) == len(starts) == (2 if number == lost else 1)
        assert number != lost or 0 < starts[-1] < len(steps)  # it went on from a checkpoint


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
