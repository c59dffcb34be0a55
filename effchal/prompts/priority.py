"""Threads that let others go first."""

import os
import sys
import threading
from contextlib import suppress


def give_way(nice: int) -> None:
    """Run this thread after those that want a processor core more. Linux alone can say so.

    Args:
        nice: 1 to 19; the more, the fewer turns it gets where cores are short.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
