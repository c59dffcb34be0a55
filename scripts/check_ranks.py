"""Train with several processes as with one, and kill some of them.

    python scripts/check_ranks.py

builtin:tiny trains in float32 on the CPU with 1, 2 and 4 processes, by data parallel and by FSDP2,
and by FSDP2 with NF4 weights, which are compared with NF4 weights in one process.
Then one of two processes is killed, and other numbers of processes go on. torchrun starts a run
again after one of its processes was killed. Prints a table of the largest differences from the run
of one process; the exit status is 1 if one is above 1e-5, or a run did not end as it should.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

STEPS, AT = 60, 5  # of a run; after how many one of its processes is killed
WORDS = [
    *("model=tiny", "data_mix=quickstart", "budget.hours=0.3", "train.examples_per_step=6"),
    *("train.validate_every=20", f"train.max_steps={STEPS}"),
]
LIMIT = 1e-5
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TRAIN = [sys.executable, "-m", "effchal.train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def records(folder):
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines]


def numbers(folder):
    """Losses and gradient norms of each step, and validation losses."""
    names = ("loss", "grad_norm", "validation_loss")
    return [record[name] for record in records(folder) for name in names if name in record]


def start(command, folder, words=()):
    with folder.with_suffix(".log").open("a") as log:
        words = [*command, *(words or [*WORDS, f"hydra.run.dir={folder}"])]
        return subprocess.Popen(words, env=ENVIRONMENT, stdout=log, stderr=log)


def kill_at(process, folder, rank):
    """Kill one rank once AT steps are done."""
    while sum("loss" in record for record in records(folder)) < AT:
        assert process.poll() is None, f"it ended before step {AT}"
        time.sleep(0.02)
    others = psutil.Process(process.pid).children(recursive=True)
    ranks = {each.environ().get("RANK"): each.pid for each in others if "RANK" in each.environ()}
    os.kill(ranks.get(str(rank), process.pid), signal.SIGKILL)


def status(folder):
    try:
        return json.loads((folder / "run.json").read_text())["status"]
    except OSError:
        return "none"


def show(name, folder, wanted):
    """Print a row of the table. Returns whether all is as it should be."""
    found = numbers(folder)
    same = len(found) == len(wanted)
    worst = max(abs(a - b) for a, b in zip(found, wanted, strict=True)) if same else float("inf")
    print(f"| {name} | {len(found)} | {worst:.1e} | {status(folder)} |", flush=True)
    return worst <= LIMIT and status(folder) == "finished"


def killed(top, rank, size, parallel, wanted):
    """Kill one of two processes, and go on with `size` of them."""
    folder = Path(top, f"killed_{rank}_{size}")
    process = start([*TRAIN, "train.gpus=2", f"train.parallel={parallel}"], folder)
    kill_at(process, folder, rank)
    process.wait()
    time.sleep(6)  # rank 1 may still save in place of rank 0
    saved = [path.stem for path in (folder / "checkpoint").glob("step_*.pt")]
    again = [f"resume_from={folder}", f"train.gpus={size}", "train.parallel=data"]
    start(TRAIN, folder, again).wait()
    name = f"2, {parallel}; rank {rank} killed ({' '.join(saved)}), then {size}"
    return show(name, folder, wanted)


def main():
    with tempfile.TemporaryDirectory() as top:
        one = Path(top, "one")
        start(TRAIN, one).wait()
        wanted, good = numbers(one), []
        print("| processes | numbers | largest difference | status |\n|---|---|---|---|")
        for size in (2, 4):
            for parallel in ("data", "fsdp"):
                folder = Path(top, f"{parallel}_{size}")
                start([*TRAIN, f"train.gpus={size}", f"train.parallel={parallel}"], folder).wait()
                good.append(show(f"{size}, {parallel}", folder, wanted))
        four_bit = "model.quantization=nf4"
        start([*TRAIN, four_bit], Path(top, "nf4")).wait()
        for size in (2, 4):
            folder = Path(top, f"nf4_{size}")
            words = [four_bit, f"train.gpus={size}", "train.parallel=fsdp"]
            start([*TRAIN, *words], folder).wait()
            good.append(show(f"{size}, fsdp, NF4", folder, numbers(Path(top, "nf4"))))
        for rank, size, parallel in ((1, 3, "fsdp"), (1, 1, "data"), (0, 3, "data")):
            good.append(killed(top, rank, size, parallel, wanted))
        folder = Path(top, "elastic")
        torchrun = [*TORCHRUN, "--nproc-per-node=2", "--max-restarts=2", "-m", "effchal.train"]
        process = start(torchrun, folder)
        kill_at(process, folder, 1)
        process.wait()
        good.append(show("2 by torchrun; rank 1 killed, then started again", folder, wanted))
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
