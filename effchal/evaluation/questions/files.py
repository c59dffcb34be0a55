"""The scenarios that scenario.data names: files of a user's own questions."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effchal.config import Config
from effchal.config.choices import Match
from effchal.evaluation.questions.fields import Question, read_question
from effchal.evaluation.questions.grader import MAIN, Grader, load_grader
from effchal.evaluation.questions.instances import Grading, instance_of, lacks_space
from effchal.evaluation.questions.row_fields import KNOWN, from_table
from effchal.evaluation.scenarios.helm_adapter import draw_instances
from effchal.evaluation.scenarios.types import Scenario, ScenarioError, Settings
from effchal.mixing.readers import KINDS, is_readable, read_rows, suffix_of

KINDS_OF_QUESTIONS = ("answered", "choices", "letters", "messages")
MOST_GROUPS = 50  # of which each gets a line in the table
log = logging.getLogger("effchal.evaluate")


@dataclass(frozen=True)
class OwnFiles:
    """All files of scenario.data."""

    scenarios: list[Scenario]
    record: dict[str, Any]  # what results.json says of them


def own_files(cfg: Config) -> OwnFiles:
    """Read every file of scenario.data and the function of evaluate.grader.

    Raises:
        ScenarioError, DataError: a file or row that is none; the message names row and remedy.
        ConfigError: a grader that cannot be called.
    """
    paths = cfg.scenario.data
    if not paths:
        if cfg.evaluate.grader is not None:
            raise ScenarioError("evaluate.grader grades questions of your own: give data=<file>")
        return OwnFiles([], {})
    grader = None if cfg.evaluate.grader is None else load_grader(cfg.evaluate.grader)
    grading = Grading(cfg.scenario.match, grader)
    scenarios, record = [], {}
    for entry, path in zip(entry_names(paths), map(Path, paths), strict=True):
        questions = questions_of(path, cfg.decoding.max_new_tokens, grader is not None)
        kinds = count_kinds(questions)
        tell(entry, kinds, questions, grading)
        scenario = scenario_of(entry, questions, grading, cfg.scenario.max_rows)
        scenarios.append(scenario)
        record[entry] = {
            "file": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "rows": len(questions),
            "asked": len(scenario.instances),
            "kinds": kinds,
        }
    made_by = {} if grader is None else {"function": grader.label, "sha256": grader.sha256}
    return OwnFiles(scenarios, {"data": record} | ({"grader": made_by} if made_by else {}))


def entry_names(paths: Sequence[str]) -> list[str]:
    """What each file is called in results: its name, with folders where two are alike.

    Raises:
        ScenarioError: a file twice.
    """
    parts = [Path(path).absolute().parts for path in paths]
    names = []
    for path, own in zip(paths, parts, strict=True):
        if parts.count(own) > 1:
            raise ScenarioError(f"scenario.data has {path} more than once")
        depth = 1
        while sum(each[-depth:] == own[-depth:] for each in parts) > 1:
            depth += 1
        names.append("/".join(own[-depth:]))
    return names


def questions_of(path: Path, max_new_tokens: int, may_lack_answer: bool) -> list[Question]:
    """Raises ScenarioError or DataError: no such file, an empty one, or a row that is wrong."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else f"is no file (from {Path.cwd()})"
        raise ScenarioError(f"data: {path} {what}; give data=<file> or data=[<file>,<file>]")
    if not is_readable(path):
        raise ScenarioError(f"data: {path} is no {KINDS} file; its name tells what it is")
    rows = read_rows(path)
    if suffix_of(path) in (".csv", ".tsv"):
        rows = (replace(row, fields=from_table(row.fields)) for row in rows)
    questions = [read_question(row, max_new_tokens, may_lack_answer) for row in rows]
    if not questions:
        raise ScenarioError(f"data: {path} has no rows")
    return questions


def scenario_of(
    entry: str, questions: list[Question], grading: Grading, max_rows: int | None
) -> Scenario:
    """The questions as instances, all or `max_rows` of them.

    Raises:
        ScenarioError: an id twice, or a right answer that its `match` cannot use.
    """
    groups = {question.group for question in questions if question.group is not None}
    if len(groups) > MOST_GROUPS:
        log.warning("%s: %d groups; above %d none is scored", entry, len(groups), MOST_GROUPS)
    has_groups = len(groups) <= MOST_GROUPS
    instances = []
    places: dict[str, str] = {}  # by id
    for number, question in enumerate(questions, start=1):
        id_ = question.id or f"row{number}"
        if id_ in places:
            raise ScenarioError(
                f"{question.row.place}: the id {id_!r} is that of {places[id_]}, too"
            )
        places[id_] = question.row.place
        instances.append(instance_of(question, id_, grading, has_groups))
    drawn = tuple(draw_instances(instances, max_rows or len(instances)))
    return Scenario(entry, drawn, Settings(0, MAIN))


def count_kinds(questions: Sequence[Question]) -> dict[str, int]:
    counts = Counter(question.kind for question in questions)
    return {kind: counts[kind] for kind in KINDS_OF_QUESTIONS if counts[kind]}


def tell(
    entry: str, kinds: dict[str, int], questions: Sequence[Question], grading: Grading
) -> None:
    """Log what was found in a file, how its answers are graded, and what was left out."""
    ways = Counter(told_way(q, grading) for q in questions if not q.choices)
    lines = [", ".join(f"{count} {kind}" for kind, count in kinds.items())]
    if ways:
        lines += ["graded by " + ", ".join(f"{way} ({count})" for way, count in ways.items())]
    spaces = sum(map(lacks_space, questions))
    if spaces:
        lines += [f"a space put between prompt and choice ({spaces})"]
    unused = dict.fromkeys(name for q in questions for name in q.row.fields if name not in KNOWN)
    if unused and grading.grader is None:
        lines += [f"fields not used: {', '.join(unused)}"]
    log.info("%s: %s", entry, "; ".join(lines))


def told_way(question: Question, grading: Grading) -> str:
    way = grading.of(question)
    if isinstance(way, Grader):
        return way.label
    assert isinstance(way, Match)
    is_default = question.match is None and grading.match is None
    return f"{way.value}, the default" if is_default else way.value
