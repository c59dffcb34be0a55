"""Verdicts on the screen: a table on a terminal, plain lines elsewhere."""

from collections.abc import Sequence

from effchal.conformance_checks.client import Exchange, short
from effchal.conformance_checks.verdict import Check, Status, Verdict

COLOURS = {Status.kept: "green", Status.broken: "bold red", Status.untold: "yellow"}
SHOWN_CHARACTERS = 300  # of what was sent and received


def line_of(verdict: Verdict) -> str:
    """A verdict in plain text, with the last exchange where a rule is broken."""
    line = f"{verdict.status.value:14}  {verdict.name}"
    if verdict.reason:
        line += f": {verdict.reason}"
    if verdict.status is Status.broken:
        line += f"\n{' ' * 16}rule: {verdict.rule}"
        for exchange in verdict.exchanges[-1:]:  # a check ends with what broke its rule
            line += "".join(f"\n{' ' * 16}{each}" for each in lines_of(exchange))
    return line


def lines_of(exchange: Exchange) -> tuple[str, str]:
    sent = short(exchange.sent, SHOWN_CHARACTERS)
    received = short(exchange.received, SHOWN_CHARACTERS).rstrip() or exchange.error
    answer = f"{exchange.status} {received}" if exchange.status else received
    return f"sent: {exchange.method} {exchange.path} {sent}".rstrip(), f"received: {answer}"


def print_table(verdicts: Sequence[Verdict]) -> None:
    """A coloured table. What a server answered is text in it, whatever it holds."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", "what was found")
    for each in verdicts:
        found = each.reason
        if each.status is Status.broken and each.exchanges:
            found = "\n".join([found, *lines_of(each.exchanges[-1])])
        status = Text(each.status.value, COLOURS[each.status])
        table.add_row(status, each.name, Text(printable(found)))
    Console().print(table)


def printable(text: str) -> str:
    """Without control characters, which would drive the terminal."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)


def list_of(checks: Sequence[Check]) -> str:
    """Names and rules."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{check.name:{width}}  {check.rule}" for check in checks)


def summary(verdicts: Sequence[Verdict]) -> str:
    kept, broken, untold = map([each.status for each in verdicts].count, Status)
    return f"rules: {kept} kept, {broken} broken, {untold} cannot be told"
