"""The live view of a run or of a task, as rows of text: what stands in it, at any width."""

import textwrap
from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from effchal.tracking.progress_tasks import ProgressTask
from effchal.tracking.shown import Shown
from effchal.tracking.words import one_line, per_second, rate, sparkline

SPINNER, ASCII_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
NARROW, WIDE = 60, 90  # columns below which something is left out, and from which more is shown
LABEL = len("validation")
REFRESHES_PER_S = 2
UNSEEN_S = 0.3  # a task outside of a run is not drawn before, so that a short one does not flash


class View:
    """What rich draws. A fault in it is kept in `fault`, and from then on it draws nothing."""

    def __init__(self, tasks: list[ProgressTask], shown: Shown | None = None) -> None:
        self.tasks, self.shown = tasks, shown
        self.fault: Exception | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.fault is not None:
            return
        try:
            text = draw(self.shown, list(self.tasks), options.max_width, options.ascii_only)
            segments = list(console.render(text, options))
        except Exception as error:  # told at the end: here it would be drawn over
            self.fault = error
            return
        yield from segments


def draw(
    shown: Shown | None, tasks: list[ProgressTask], width: int, ascii_only: bool = False
) -> Text:
    """The view at a width in columns. One text costs a fifth of a table, twice a second.

    Args:
        tasks: those that run, each inside the one before.
        ascii_only: the terminal knows no other characters.
    """
    tasks = [task for task in tasks if shown is not None or task.seconds >= UNSEEN_S]
    lines = []
    for label, cell in _rows(shown, tasks, width, ascii_only):
        line = Text().append(f"{label:{LABEL}} ", "dim").append_text(cell)
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
        lines.append(line)
    return Text("\n", no_wrap=True).join(lines)


def _rows(
    shown: Shown | None, tasks: list[ProgressTask], width: int, ascii_only: bool
) -> Iterator[tuple[str, Text]]:
    if shown is not None:
        if shown.title and width >= NARROW:
            yield "run", Text(shown.title)
        if shown.steps is not None:
            yield "step", _bar(shown.step, shown.steps, _steps(shown, width), width, ascii_only)
        yield from _measured(shown, width, ascii_only)
        if shown.spent_s is not None:
            yield "time", _joined([shown.time(), shown.ends(brief=width < NARROW)])
    if tasks:
        task = tasks[-1]
        if task.total and shown is None:
            yield "", _bar(task.done, task.total, task.amount(), width, ascii_only)
        brief = shown is not None and task.ends is not None  # the rows above tell the rest
        yield "now", _task(task, width, ascii_only, brief)


def _measured(shown: Shown, width: int, ascii_only: bool) -> Iterator[tuple[str, Text]]:
    last, narrow = shown.last, width < NARROW
    if shown.losses:
        spark = "" if narrow or ascii_only else sparkline(shown.losses)[-max(0, width - 40) :]
        more = f"lr {last['lr']:.1e}" if width >= WIDE else ""
        yield "loss", _joined([f"{last['loss']:.3f}", spark, more])
    if shown.validation:
        (_, first), (_, now) = shown.validation[0], shown.validation[-1]
        moved = f"{first:.3f}" if len(shown.validation) == 1 else f"{first:.3f} → {now:.3f}"
        step, best = min(shown.validation, key=lambda pair: pair[1])
        told = "" if narrow else f"best {best:.3f} at step {step}"
        yield "validation", _joined([moved, told], ascii_only)
    if last:
        step_s = shown.step_s
        pace = "" if narrow or step_s is None else f"{step_s:.3g} s a step"
        yield "speed", _joined([f"{per_second(last['tokens_per_s'])} tokens/s", pace])
        limit = "" if shown.memory_limit_gib is None else f" of {shown.memory_limit_gib:.1f}"
        yield "memory", Text(f"peak {last['memory_gib']:.1f}{limit} GiB")
    if shown.sample is not None and not narrow:
        prompt, answer = (shown.sample[key] for key in ("prompt", "completion"))
        yield "asked", Text(one_line(prompt, width))
        lines = textwrap.wrap(" ".join(answer.split()), width - LABEL - 2)
        for number, line in enumerate(lines[:2] or ["(empty)"]):
            yield "" if number else "answer", Text(line)


def _steps(shown: Shown, width: int) -> str:
    epochs = "" if shown.epochs is None else f" of {shown.epochs:.2f}"
    epoch = f"  epoch {shown.last['epoch']:.2f}{epochs}" if shown.last and width >= NARROW else ""
    return f"{shown.step}/{shown.steps}{epoch}"


def _bar(done: float, total: float, text: str, width: int, ascii_only: bool) -> Text:
    full, empty = ("#", ".") if ascii_only else ("━", "─")
    columns = max(0, width - LABEL - 3 - len(text))
    filled = round(columns * min(1.0, done / total)) if total else 0
    bar = Text().append(full * filled, "cyan").append(empty * (columns - filled), "dim")
    return bar.append(f"  {text}")


def _task(task: ProgressTask, width: int, ascii_only: bool, brief: bool) -> Text:
    frames = ASCII_SPINNER if ascii_only else SPINNER
    frame = frames[int(task.seconds * REFRESHES_PER_S) % len(frames)]
    if brief:
        return Text(f"{frame} {task.what}")
    parts = [f"{frame} {task.what}", task.amount()]
    if width >= NARROW and task.unit and task.per_s is not None:
        parts.append(rate(task.per_s, task.unit))
    if task.unit or task.ends is not None:
        parts.append(task.estimate())
    elif task.seconds >= 1:
        parts.append(f"{task.seconds:.0f} s")
    return _joined(parts)


def _joined(parts: Iterable[str], ascii_only: bool = False) -> Text:
    text = "  ".join(filter(None, parts))
    return Text(text.replace("→", "->") if ascii_only else text)
