"""What a run shows on a terminal, and in a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from support.paths import ROOT

TRAIN = ["train", "model=tiny", "data_mix=quickstart", "rules=none"]
TRAIN += ["budget=smoke", "train.max_steps=3", "train.examples_per_step=4", "train.warmup_steps=0"]
TRAIN += ["train.samples=[hello there]", "train.sample_tokens=8", "train.validate_every=2"]
ANSI = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]")


def on_a_terminal(words, columns):
    """Run `effchal <words>` on a pseudo-terminal; its exit code and all that it wrote there."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "effchal", *words]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=its, stdout=its, stderr=its, env=environment | {"TERM": "xterm"}
    )
    os.close(its)
    written = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # all of its ends are closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    return process.wait(timeout=60), written.decode()


def test_a_run_on_a_terminal_shows_the_view_and_ends_clean(tmp_path):
    code, written = on_a_terminal([*TRAIN, f"hydra.run.dir={tmp_path}/run"], 80)
    assert code == 0, written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor is back
    text = ANSI.sub("", written)
    assert "Traceback" not in text
    for job in ("reading the data", "loading libraries", "planning", "loading the model"):
        assert f" {job}" in text, job
    assert "step 1/3 |" not in text  # the view has it
    assert "step       ━" in text
    final = text[text.rindex("run   ") :].replace("\r\n", "\n")
    view, _, _ = final.partition("\nfinished")
    assert max(map(len, view.splitlines())) <= 80
    assert re.search(r"━+  3/3  epoch 0\.08 of 0\.08", final)
    assert re.search(r"validation 5\.\d{3} → 5\.\d{3}  best", final)
    assert "asked      hello there" in final
    assert re.search(r"^finished          3 steps in", final, re.MULTILINE)
    assert f"effchal serve {tmp_path}/run" in final


def test_a_command_shows_what_it_loads_before_it_has_a_result(tmp_path):
    words = ["plan", "model=tiny", "data_mix=quickstart", f"hydra.run.dir={tmp_path}/plan"]
    code, written = on_a_terminal(words, 80)
    assert code == 0, written
    text = ANSI.sub("", written)
    assert text.index(" loading libraries") < text.index(" planning") < text.index("memory")


def test_a_sweep_in_a_pipe_has_lines_of_one_format_and_ends_with_its_table(tmp_path):
    words = [*TRAIN, "-m", "lora.r=4,0", f"hydra.sweep.dir={tmp_path}/sweep"]
    command = [sys.executable, "-m", "effchal", *words]  # a process of its own: libraries may write
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    refused = "lora.r must be at least 1; for no adapter use lora=none, got 0"
    assert lines[-3:] == [
        f"error: {refused}",
        "error: 1 job of the sweep failed; the same command with hydra.sweep.dir=<its folder> does "
        "what is not done",
        f"  {tmp_path}/sweep/1 (lora.r=0): {refused}",
    ]
    assert len(lines) > 12
    for line in lines[:-3]:
        assert re.fullmatch(r"\d\d:\d\d:\d\d \S.*", line), line
    assert any("step 3/3 | loss 5." in line for line in lines)
    assert any("hello there -> " in line for line in lines)
    assert "\x1b" not in done.stderr + done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    best = ["*", "0", "lora.r=4", "finished", "3/3"]
    assert any(row[:5] == best for row in rows)
    assert any(row[:3] == ["1", "lora.r=0", "refused:"] for row in rows)
    assert f"* lowest validation loss, in {tmp_path}/sweep/0; next" in done.stdout
