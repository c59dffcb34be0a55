"""Jobs for processes that prepare data, which end badly."""

import os
import signal


def killed(batch):
    os.kill(os.getpid(), signal.SIGKILL)


def faulty(batch):
    return divmod(batch, 0)
