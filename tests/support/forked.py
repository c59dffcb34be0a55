"""Commands in processes forked from one that has imported torch: each starts seconds sooner.

For tests of what a command does. Those of how a process starts need one of its own.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from support.paths import ROOT

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "datasets",
        "effchal.evaluation.run",
        "effchal.planning.report",
        "effchal.serving.app",
        "effchal.tracking.terminal",
        "effchal.training.build",
        "hydra._internal.hydra",
        "matplotlib.pyplot",
        "pandas",
        "peft",
        "transformers.models.llama.modeling_llama",
        "transformers.trainer_utils",
    ]
)


class Command:
    """`effchal <arguments>` that runs, with the part of subprocess.Popen that tests use."""

    def __init__(self, arguments, cwd=ROOT, env=None, stderr=subprocess.PIPE, before=None):
        """before: called in the process, before the command begins."""
        self.args = ["effchal", *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory(prefix="effchal-output-")
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        err = self._out if stderr == subprocess.STDOUT else self._err
        given = (self.args, cwd, dict(os.environ if env is None else env), self._out, err, before)
        self._process = FORKS.Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """Standard output and standard error, once it has ended."""
        self.wait(timeout)
        return tuple(path.read_text() if path.exists() else "" for path in (self._out, self._err))

    def send_signal(self, number):
        os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(arguments, timeout=300, **options):
    """`effchal <arguments>` to its end, as subprocess.run gives it."""
    command = Command(arguments, **options)
    try:
        out, err = command.communicate(timeout)
    except subprocess.TimeoutExpired:
        command.kill()
        raise
    return subprocess.CompletedProcess(command.args, command.returncode, out, err)


def _run(arguments, cwd, environment, out, err, before):
    gc.freeze()  # nothing that was imported is garbage
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = arguments
    if before is not None:
        before()
    from effchal.__main__ import main

    main()
