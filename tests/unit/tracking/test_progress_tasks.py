"""Lines of a log: one format, and how far a long task is at growing intervals."""

import logging
import re
import sys
import time
import warnings

import pytest

from effchal.tracking import progress_tasks
from effchal.tracking.fetching import hub_bar
from effchal.tracking.lines import LineFormatter, StderrHandler, adopt_libraries, log_warnings
from effchal.tracking.progress_tasks import ProgressTask
from effchal.tracking.terminal import progress
from effchal.tracking.words import amount, clock_time, duration, one_line, rate, sparkline

LINE = re.compile(r"\d\d:\d\d:\d\d \S.*")


@pytest.fixture
def quick(monkeypatch):
    """The intervals of lines, a hundred times shorter."""
    monkeypatch.setattr(progress_tasks, "FIRST_S", 0.05)
    monkeypatch.setattr(progress_tasks, "MOST_S", 0.15)


def test_a_short_job_says_nothing(caplog):
    with progress("reading", 10, "rows") as advance:
        advance(10)
    assert caplog.messages == []


def test_a_long_job_tells_how_far_it_is_and_how_long_it_took(quick, caplog):
    with progress("encoding", 1000, "rows") as advance:
        advance(250)
        time.sleep(0.5)
    *lines, last = caplog.messages
    assert 2 <= len(lines) <= 5  # after 0.05, 0.15, 0.3, 0.45 s
    assert re.fullmatch(r"encoding: 250 of 1,000 rows, 25%, [\d,]+ rows/s, \d+ s left", lines[0])
    assert re.fullmatch(r"encoding: 250 of 1,000 rows in \d s", last)


def test_a_job_of_unknown_length_tells_what_it_knows(quick, caplog):
    with progress("loading"):
        time.sleep(0.08)
    assert caplog.messages == ["loading: 0 s so far", "loading: 0 s"]


def test_only_the_innermost_job_is_told(quick, caplog):
    with progress("outer"), progress("inner"):
        time.sleep(0.08)
    assert [line.partition(":")[0] for line in caplog.messages] == ["inner", "inner"]
    assert progress_tasks.running == []


def test_a_job_that_fails_is_over(quick):
    with pytest.raises(ZeroDivisionError), progress("failing"):
        raise ZeroDivisionError
    assert progress_tasks.running == []


def test_bytes_are_told_in_megabytes_and_a_total_may_come_late():
    task = ProgressTask("fetching", None, "B")
    task.done, task.began_s = 3_000_000, task.began_s - 2
    assert task.line() == "fetching: 3.0 MB, 1.5 MB/s, 2 s so far"
    task.total = 6_000_000
    assert task.line() == "fetching: 3.0 of 6.0 MB, 50%, 1.5 MB/s, 2 s left"


def test_what_a_resumed_job_did_before_is_no_pace_of_it():
    task = ProgressTask("training", 100, "steps", done=50)
    task.done, task.began_s = 60, task.began_s - 5
    assert task.line() == "training: 60 of 100 steps, 60%, 2 steps/s, 20 s left"


def test_the_hub_tells_its_bytes():
    seen = []
    bar = hub_bar(lambda done, total=None: seen.append((done, total)))(total=10, unit="B")
    bar.update(4)
    bar.update(6)
    assert seen == [(4, 10), (10, 10)]


def test_each_line_has_the_time_and_what_it_is():
    def line(level, message, *values):
        return LineFormatter().format(logging.LogRecord("x", level, "", 1, message, values, None))

    assert re.fullmatch(r"\d\d:\d\d:\d\d step 1", line(logging.INFO, "step %d", 1))
    assert line(logging.WARNING, "no time").endswith(" warning: no time")
    assert line(logging.ERROR, "bad").endswith(" error: bad")
    assert line(logging.INFO, "\t#0 : lora.r=4").endswith(" #0 : lora.r=4")
    two = line(logging.WARNING, "one\ntwo").splitlines()
    assert all(map(LINE.fullmatch, two))
    assert len(two) == 2


def test_warnings_of_python_and_of_libraries_come_out_as_lines(capsys, monkeypatch):
    log_of_library = logging.getLogger("transformers")
    monkeypatch.setattr(log_of_library, "handlers", [logging.StreamHandler(sys.stderr)])
    monkeypatch.setattr(log_of_library, "propagate", False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    handler = StderrHandler()
    handler.setFormatter(LineFormatter())
    logging.getLogger().addHandler(handler)
    try:
        log_warnings()
        adopt_libraries()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            log_warnings()
            warnings.warn("old\n  name", DeprecationWarning, stacklevel=1)
        log_of_library.warning("slow tokenizer")
    finally:
        logging.getLogger().removeHandler(handler)
    one, two = capsys.readouterr().err.splitlines()
    assert one.endswith(" warning: DeprecationWarning: old name")
    assert two.endswith(" warning: slow tokenizer")


def test_words():
    assert [duration(s) for s in (4.4, 61, 7200)] == ["4 s", "1.0 min", "2.0 h"]
    assert amount(3072, 12000, "rows") == "3,072 of 12,000 rows"
    assert (rate(0.123, "steps"), rate(1234, "rows")) == ("0.12 steps/s", "1,234 rows/s")
    assert re.fullmatch(r"(\w+ )?\d\d:\d\d", clock_time(60))
    assert re.fullmatch(r"\w+ \d\d:\d\d", clock_time(86400))
    assert one_line("a\nb  c", 10) == "a b c"
    assert one_line("long text", 5) == "long…"
    assert sparkline([3.0, 2.0, float("nan"), 1.0]) == "█▅ ▁"
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([float("inf")]) == ""
