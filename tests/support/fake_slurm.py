"""sbatch, srun, sacct and scontrol for tests: a queue of this machine, in files of one folder.

The folder has pid_<task> of each task's process, for a signal such as Slurm's warning, and the
calls of scontrol. A task that was put back into the queue begins again when its process ends.
"""

import os
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("sbatch", "srun", "sacct", "scontrol")


def install(folder: Path) -> dict[str, str]:
    """Put the programs into a folder. Returns the environment in which they are found."""
    folder.mkdir()
    for name in NAMES:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    queue = {"FAKE_SLURM": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}
    return os.environ | queue


def sbatch(script: str) -> None:
    """Begin the tasks of an array, one process each."""
    text = Path(script).read_text()
    option = next((line for line in text.splitlines() if "--array=" in line), "--array=0-0")
    first, last = option.partition("=")[2].partition("%")[0].split("-")
    for number in range(int(first), int(last) + 1):
        run_in_background(script, number)
    print("Submitted batch job 77")


def run_in_background(script: str, number: int) -> None:
    environment = {
        "SLURM_JOB_ID": f"77{number}",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "FAKE_SCRIPT": script,
    }
    subprocess.Popen(
        ["bash", script],
        env=os.environ | environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def srun(*words: str) -> None:
    """Run the command behind srun's own options, with its output where they say."""
    queue, task = Path(os.environ["FAKE_SLURM"]), os.environ["SLURM_ARRAY_TASK_ID"]
    output = words[words.index("--output") + 1].replace("%t", "0").replace("%A", "77")
    command = words[words.index("--output") + 2 :]
    with Path(output.replace("%a", task).replace("%j", f"77_{task}")).open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    (queue / f"pid_{task}").write_text(str(process.pid))
    code = process.wait()
    (queue / f"state_{task}").write_text("COMPLETED" if code == 0 else "FAILED")
    if (queue / f"requeue_{task}").exists():
        (queue / f"requeue_{task}").unlink()
        (queue / f"state_{task}").unlink()
        run_in_background(os.environ["FAKE_SCRIPT"], int(task))


def sacct(*words: str) -> None:
    queue = Path(os.environ["FAKE_SLURM"])
    print("JobID|State|NodeList")
    for pid in sorted(queue.glob("pid_*")):
        task = pid.name.removeprefix("pid_")
        state = queue / f"state_{task}"
        print(f"77_{task}|{state.read_text() if state.exists() else 'RUNNING'}|here")


def scontrol(*words: str) -> None:
    """`scontrol requeue <job>`."""
    queue = Path(os.environ["FAKE_SLURM"])
    with (queue / "calls").open("a") as calls:
        calls.write(f"{time.time()} {shlex.join(words)}\n")
    (queue / f"requeue_{os.environ['SLURM_ARRAY_TASK_ID']}").touch()


if __name__ == "__main__":
    {"sbatch": sbatch, "srun": srun, "sacct": sacct, "scontrol": scontrol}[sys.argv[1]](
        *sys.argv[2:]
    )
