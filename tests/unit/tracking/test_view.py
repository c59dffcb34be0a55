"""What stands in the live view, at several widths, and what becomes of its faults."""

import inspect
import io
import logging
import re
import sys
import time

import pytest
from rich import console
from rich.console import Console

from effchal.tracking import screen, terminal, view
from effchal.tracking.progress_tasks import ProgressTask
from effchal.tracking.shown import Shown
from effchal.tracking.terminal import RunDisplay, is_drawing, progress, run_display
from effchal.tracking.view import View, draw


def shown(steps=20, limit_s=600.0, done=10):
    run = Shown("outputs/train/one", limit_s=limit_s, spent_s=5.0)
    run.steps, run.epochs, run.memory_limit_gib = steps, 2.0, 22.5
    run.take({"step": 0, "validation_loss": 3.0, "spent_s": 8.0})
    for step in range(1, done + 1):
        run.take(
            {
                "step": step,
                "loss": 3.0 - step / 10,
                "lr": 1e-3,
                "tokens_per_s": 1500.0,
                "epoch": step / 10,
                "memory_gib": 1.25,
                "spent_s": 8.0 + 6 * step,
            }
        )
    run.take({"step": done, "validation_loss": 2.5, "spent_s": 70.0})
    samples = [{"prompt": "What is a budget?", "completion": "A plan\nof " + "money " * 60}]
    run.take({"step": done, "samples": samples, "spent_s": 71.0})
    return run


def drawn(run, jobs=(), width=80, **options):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, **options)
    console.print(View(list(jobs), run))
    text = console.file.getvalue()
    return re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_all_that_is_known_stands_in_it(width):
    run = shown()
    lines = drawn(run, [ProgressTask("training", 20, "steps", 10, run.ends)], width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "run        outputs/train/one" in text
    assert re.search(r"step       ━+─+  10/20  epoch 1.00 of 2.00", text)
    assert re.search(r"loss       2\.000  .*[▁▂]", text)
    assert "validation 3.000 → 2.500  best 2.500 at step 10" in text
    assert "speed      1.5k tokens/s  6 s a step" in text
    assert "memory     peak 1.2 of 22.5 GiB" in text
    assert re.search(r"time       1\.2 min of 10\.0 min  ends about (\w+ )?\d\d:\d\d w", text)
    assert "asked      What is a budget?" in text
    assert "answer     A plan of money" in text
    assert sum("money" in line for line in lines) == 2  # cut to two lines
    assert re.search(r"now        \S training$", lines[-1])
    assert ("lr 1.0e-03" in text) == (width == 120)


def test_a_narrow_terminal_gets_less():
    lines = drawn(shown(), width=50)
    assert max(map(len, lines)) <= 50
    text = "\n".join(lines)
    assert "loss       2.000\n" in text + "\n"
    assert "speed      1.5k tokens/s\n" in text
    assert not re.search("[▁▂▃▄▅▆▇█]|best|answer|epoch|run ", text)
    assert drawn(shown(), width=20)


def test_a_terminal_of_ascii_gets_ascii():
    text = draw(shown(), [ProgressTask("validating")], 80, ascii_only=True).plain
    assert text.isascii()
    assert "3.000 -> 2.500" in text
    assert "#####" in text


def test_before_the_first_step_it_says_what_is_done():
    run = Shown("outputs/train/one", limit_s=60.0, spent_s=1.0)
    task = ProgressTask("encoding source mine", 2000, "rows")
    task.done, task.began_s = 500, task.began_s - 5.0
    lines = drawn(run, [ProgressTask("encoding the data"), task])
    assert lines[:2] == ["run        outputs/train/one", "time       1 s of 1.0 min"]
    assert "encoding source mine  500 of 2,000 rows  100 rows/s  15 s left" in lines[2]


@pytest.mark.parametrize(
    ("limit_s", "why"), [(600.0, "with its last step"), (100.0, "by its budget")]
)
def test_the_end_is_that_of_the_steps_or_of_the_budget(limit_s, why):
    run = shown(limit_s=limit_s)
    run.reserve_s = 10.0
    assert run.step_s == 6.0
    assert run.ends().endswith(why)
    left_s = 10 * 6 if why == "with its last step" else 100 - 10 - 71
    near = {time.strftime("%H:%M", time.localtime(time.time() + left_s - late)) for late in (0, 5)}
    assert set(run.ends().split()) & near
    assert shown(done=20).ends() == ""  # nothing is left


def test_a_job_alone_has_a_bar_and_is_not_drawn_at_once():
    task = ProgressTask("answering instances", 100, "instances")
    assert drawn(None, [task]) == [""]
    task.done, task.began_s = 25, task.began_s - 5.0
    bar, now = drawn(None, [task])
    assert re.search(r"━+─+  25 of 100 instances$", bar)
    assert re.search(r"25 of 100 instances  5 instances/s  15 s left$", now)


class Terminal(io.StringIO):
    """Says that it is one."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def fileno(self):
        raise io.UnsupportedOperation


@pytest.fixture
def new_screen(monkeypatch):
    """Call it in a test: between fixture and test, pytest gives sys.stderr back its own."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")

    def make():
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return make


def test_a_fault_of_the_view_is_told_once_and_stops_no_run(new_screen, monkeypatch, caplog):
    new_screen()

    def broken(*_):
        raise ZeroDivisionError("of the view")

    monkeypatch.setattr(view, "draw", broken)
    with run_display(Shown()) as display:
        display.take({"step": 1, "loss": 1.0, "spent_s": 1.0})
        display.take({})  # no record at all
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "the live view stopped: ZeroDivisionError('of the view')" in record.getMessage()
    assert not is_drawing()


def test_a_fault_without_a_view_is_none(caplog):
    RunDisplay(Shown(), None).take({})
    assert not caplog.records


def test_a_terminal_that_goes_away_stops_no_run(new_screen, monkeypatch):
    seen = new_screen()

    def gone(_):
        raise OSError(5, "Input/output error")

    with run_display(Shown("one", spent_s=1.0, limit_s=5.0)) as display:
        monkeypatch.setattr(seen, "write", gone)
        display.take({"step": 0, "validation_loss": 1.0, "spent_s": 2.0})
        print("a line", file=sys.stderr)


def test_lines_scroll_above_it_and_the_cursor_comes_back(new_screen):
    seen = new_screen()
    with run_display(Shown("one", spent_s=1.0, limit_s=5.0)), progress("planning"):
        assert is_drawing()
        print("a line of some library", file=sys.stderr)
    text = seen.getvalue()
    assert text.index("a line of some library") < text.rindex("run ")
    assert text.endswith("\x1b[?25h")


OLD_RICH = pytest.mark.skipif(
    "TTY_INTERACTIVE" not in inspect.getsource(console),
    reason="this rich does not know TTY_INTERACTIVE",
)


@pytest.mark.parametrize(
    ("name", "value"), [("TERM", "dumb"), pytest.param("TTY_INTERACTIVE", "0", marks=OLD_RICH)]
)
def test_a_terminal_that_cannot_draw_gets_lines(new_screen, monkeypatch, name, value):
    seen = new_screen()
    monkeypatch.setenv(name, value)
    with run_display(Shown("one", spent_s=1.0, limit_s=5.0)):
        assert not is_drawing()
    assert seen.getvalue() == ""


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_without_standard_error_nothing_is_drawn(monkeypatch, stream):
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with run_display(Shown()), progress("planning"):
        assert not is_drawing()


def test_a_character_that_the_terminal_lacks_is_replaced():
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
    screen.Forgiving(latin).write("▁ é")
    assert latin.buffer.getvalue() == "? é".encode("latin-1")


def test_a_refresh_costs_little():
    """Less than 1 % of a core at REFRESHES_PER_S, on a machine that is not busy with others."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    shows = View([], shown())
    console.print(shows)
    before = time.process_time()
    for _ in range(50):
        console.print(shows)
    each_s = (time.process_time() - before) / 50
    assert each_s * view.REFRESHES_PER_S < 0.02
    assert terminal._drawn == []
