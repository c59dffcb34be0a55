"""The scenarios that scenario.data names: a user's own questions, in files or on the hub."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effchal.config import Config, DataSourceConfig, ScenarioConfig
from effchal.config.choices import Match
from effchal.evaluation.questions.fields import Question, read_question
from effchal.evaluation.questions.grader import MAIN, Grader, load_grader, sha256_of
from effchal.evaluation.questions.instances import Grading, instance_of, lacks_space
from effchal.evaluation.questions.row_fields import KNOWN, from_table
from effchal.evaluation.scenarios.helm_adapter import draw_instances
from effchal.evaluation.scenarios.types import Scenario, ScenarioError, Settings
from effchal.mixing.hub import Keys
from effchal.mixing.locate import Located, is_local, locate
from effchal.mixing.readers import KINDS, is_readable, read_rows, suffix_of

KINDS_OF_QUESTIONS = ("answered", "choices", "letters", "messages")
TAKES = f"give a {KINDS} file, a folder of them, a pattern, or a data set of the hub"
MOST_GROUPS = 50  # of which each gets a line in the table
log = logging.getLogger("effchal.evaluate")


@dataclass(frozen=True)
class OwnFiles:
    """All questions of scenario.data."""

    scenarios: list[Scenario]
    record: dict[str, Any]  # what results.json says of them


def own_files(cfg: Config) -> OwnFiles:
    """Read all of scenario.data and the function of evaluate.grader.

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
    for entry, path in zip(entry_names(paths), paths, strict=True):
        located = files_of(path, cfg.scenario)
        questions = questions_of(located, cfg.decoding.max_new_tokens, grader is not None)
        kinds = count_kinds(questions)
        tell(entry, kinds, questions, grading)
        scenario = scenario_of(entry, questions, grading, cfg.scenario.max_rows)
        scenarios.append(scenario)
        record[entry] = about(path, located) | {
            "rows": len(questions),
            "asked": len(scenario.instances),
            "kinds": kinds,
        }
    made_by = {} if grader is None else grader.record()
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


def files_of(path: str, cfg: ScenarioConfig) -> Located:
    """The files of one element of scenario.data, as `effchal train data=` finds its own.

    Raises:
        ScenarioError, DataError: there is nothing, or nothing that can be read.
    """
    source = DataSourceConfig(path=path, split=cfg.split, subset=cfg.subset, revision=cfg.revision)
    file = Path(path)
    if is_local(source) and not file.exists() and is_readable(file) and "*" not in path:
        raise ScenarioError(f"data: no file {path} (from {Path.cwd()}); {TAKES}")
    if file.is_file() and not is_readable(file):
        raise ScenarioError(f"data: {path} is no {KINDS} file; its name tells what it is")
    return locate(path, source, Keys("data", "scenario"))


def about(path: str, located: Located) -> dict[str, Any]:
    """What results.json says of where questions are from."""
    digests = {str(file): sha256_of(file) for file in located.files}
    if list(digests) == [path]:
        return {"file": path, "sha256": digests[path]}
    revision = {"revision": located.revision} if located.revision else {}
    return {"source": path} | revision | {"files": digests}


def questions_of(located: Located, max_new_tokens: int, may_lack_answer: bool) -> list[Question]:
    """Raises ScenarioError or DataError: no row, or one that is wrong."""
    questions: list[Question] = []
    for path in located.files:
        rows = read_rows(path)
        if suffix_of(path) in (".csv", ".tsv"):
            rows = (replace(row, fields=from_table(row.fields)) for row in rows)
        questions += [read_question(row, max_new_tokens, may_lack_answer) for row in rows]
    if not questions:
        raise ScenarioError(f"data: {located.described} has no rows")
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
