"""Record what a command shows on a terminal, as text: on the way, and at its end.

    python scripts/record_terminal.py 100 'step .* 4/8' effchal train model=tiny data_mix=quickstart

The command runs in tmux, at so many columns. The first screen that the pattern is found in is
printed, then the last one, both without the working directory in paths. docs/terminal.md is made
of such recordings.
"""

import os
import re
import shlex
import subprocess
import sys
import time

LINES, LOOK_S = 60, 0.2


def tmux(*arguments: str) -> str:
    server = ["tmux", "-L", f"record_{os.getpid()}"]
    return subprocess.run([*server, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    columns, pattern, *command = sys.argv[1:]
    run = f"{shlex.join(command)}; sleep 1; tmux wait-for -S over; sleep 60"
    tmux("new-session", "-d", "-x", columns, "-y", str(LINES), run)
    ended = subprocess.Popen(["tmux", "-L", f"record_{os.getpid()}", "wait-for", "over"])
    on_the_way = ""
    try:
        while ended.poll() is None:
            screen = tmux("capture-pane", "-p")
            on_the_way = on_the_way or (screen if re.search(pattern, screen) else "")
            time.sleep(LOOK_S)
        at_the_end = tmux("capture-pane", "-p", "-S", "-")
        for screen in (on_the_way, at_the_end):
            print(screen.rstrip().replace(f"{os.getcwd()}/", ""), "\n")
    finally:
        tmux("kill-server")


if __name__ == "__main__":
    main()
