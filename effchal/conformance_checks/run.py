"""All checks in their order, and the record of what they found."""

import difflib
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from effchal import __version__
from effchal.config import ConfigError, ConformanceConfig
from effchal.conformance_checks import (
    around,
    completions,
    load,
    process_answers,
    process_decoding,
    tokenizer,
)
from effchal.conformance_checks.client import Server
from effchal.conformance_checks.helm_requests import PROMPT
from effchal.conformance_checks.verdict import Broken, CannotTell, Check, Status, Verdict
from effchal.tracking.terminal import progress

CHECKS = [
    *process_answers.CHECKS,
    *process_decoding.CHECKS,
    *tokenizer.CHECKS,
    *completions.CHECKS,
    *around.CHECKS,
    *load.CHECKS,
    *around.OUTSIDE,
]


def chosen(only: Sequence[str]) -> list[Check]:
    """The checks that some patterns name; all of them without a pattern.

    Raises:
        ConfigError: a pattern that names none.
    """
    names = [check.name for check in CHECKS]
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1)
            meant = f"did you mean {near[0]}?" if near else "effchal conformance list shows all"
            raise ConfigError(f"conformance.only has {pattern}, which names no check; {meant}")
    wanted = only or ["*"]
    return [each for each in CHECKS if any(fnmatchcase(each.name, name) for name in wanted)]


def connect(cfg: ConformanceConfig, token: str) -> Server:
    """The server of an address, which answers.

    Raises:
        ConfigError: there is none, it wants a token, or its model is still loading.
    """
    if cfg.url is None:
        raise ConfigError("no server; type its address: effchal conformance http://127.0.0.1:8080")
    server = Server(cfg.url, cfg.timeout_s, token)
    exchange = server.post("/process", {"prompt": PROMPT, "max_new_tokens": 1})
    if exchange.status in (401, 403):
        given = "another one than EFFCHAL_TOKEN" if token else "one: set EFFCHAL_TOKEN"
        raise ConfigError(f"{cfg.url} asks for a token, and wants {given}")
    if exchange.status is None:
        raise ConfigError(f"{cfg.url}: {exchange.error}; is it the server's address?")
    if exchange.status == 503:
        raise ConfigError(f"{cfg.url} is not ready (503); wait until GET /ready answers 200")
    server.take()
    return server


def run_checks(
    server: Server, checks: Sequence[Check], tell: Callable[[Verdict], None] = lambda _: None
) -> list[Verdict]:
    """What each check found, in their order; `tell` gets each as soon as it is there."""
    verdicts: list[Verdict] = []
    lost: dict[Any, str] = {}
    with progress("rules", len(checks), "checks") as advance:
        for done, check in enumerate(checks, start=1):
            verdicts.append(_verdict(server, check, lost))
            advance(done)
            tell(verdicts[-1])
    return verdicts


def _verdict(server: Server, check: Check, lost: dict[Any, str]) -> Verdict:
    """What one check found.

    Args:
        lost: checks that are broken or depend on a broken one, each with the broken one's name.
    """
    start = time.perf_counter()
    status, reason = Status.kept, ""
    missing = next((lost[each] for each in check.needs if each in lost), None)
    try:
        if missing is not None:
            lost[check.ask] = missing
            raise CannotTell(f"{missing} is broken")
        check.ask(server)
    except Broken as error:
        status, reason = Status.broken, str(error)
        lost[check.ask] = check.name
    except CannotTell as error:
        status, reason = Status.untold, str(error)
    seconds = time.perf_counter() - start
    return Verdict(check.name, check.rule, status, reason, seconds, server.take())


def report(url: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What conformance.json holds."""
    statuses = [verdict.status for verdict in verdicts]
    return {
        "url": url,
        "effchal": __version__,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "counts": {status.name: statuses.count(status) for status in Status},
        "checks": [verdict.to_dict() for verdict in verdicts],
    }
