"""The process of lm-eval, in its own environment: it asks, this process answers."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from effchal.config import Config, ConfigError
from effchal.evaluation.helm.processes import child, tail

MARK = "lm_eval.json"  # in a run's folder: what was asked of lm-eval
LOG = "lm-eval.log"  # lm_eval.log is ours
Message = dict[str, Any]


class LmEvalError(Exception):
    """lm-eval has failed or ended. Answers so far are kept."""


class LmEvalProcess:
    """The other end of inside.py."""

    def __init__(self, connection: socket.socket, log: Path) -> None:
        self._file = connection.makefile("rw", encoding="utf-8")
        self._log = log

    def send(self, message: Message) -> None:
        with contextlib.suppress(BrokenPipeError):  # receive tells why
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()

    def receive(self) -> Message:
        """The next message.

        Raises:
            LmEvalError: the process has ended without one, or says that it failed.
        """
        try:
            line = self._file.readline()
        except ConnectionError:
            line = ""
        if not line:
            raise LmEvalError(f"lm-eval ended; the end of {self._log}:\n{tail(self._log)}")
        message = json.loads(line)
        if "error" in message:
            raise LmEvalError(message["error"])
        return message

    def messages(self, reply: Callable[[Message], Message]) -> Iterator[Message]:
        """What it tells until it is done; what it asks is replied to."""
        while "done" not in (message := self.receive()):
            if "ask" in message:
                self.send(reply(message))
            else:
                yield message


def python_of(cfg: Config) -> Path:
    """The interpreter of lm-eval's environment.

    Raises:
        ConfigError: there is none, or it has no lm-eval.
    """
    environment = Path(cfg.lm_eval.environment).absolute()
    if not any(environment.glob("lib/python*/site-packages/lm_eval")):
        raise ConfigError(
            f"lm_eval.environment={cfg.lm_eval.environment} has no lm-eval (from {Path.cwd()}); "
            "name a folder that is not there, and it is made"
        )
    return environment / "bin" / "python"


@contextlib.contextmanager
def lm_eval_process(
    cfg: Config, run_dir: Path, job: Message, variables: dict[str, str]
) -> Iterator[LmEvalProcess]:
    """lm-eval at work on a job; it is stopped when the block ends.

    Args:
        job: as inside.py wants it.
        variables: of its environment, beside ours.
    """
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    program = str(Path(__file__).with_name("inside.py"))
    command = [str(python_of(cfg)), "-P", program, str(number)]
    environment = dict(os.environ) | {"TOKENIZERS_PARALLELISM": "false"} | variables
    log = run_dir / LOG
    options: dict[str, Any] = {"pass_fds": (number,), "env": environment, "start_new_session": True}
    with ours, child(command, log, signal.SIGKILL, **options):
        theirs.close()
        process = LmEvalProcess(ours, log)
        process.send(job)
        yield process
