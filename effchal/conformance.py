"""Check any server for the rules of the contest and of its clients.

effchal conformance http://127.0.0.1:8080 asks what HELM, lm-eval and OpenAI clients ask, and says
of each rule whether the server keeps it. All that was sent and received is in conformance.json.
The environment variable EFFCHAL_TOKEN names the token of a server that wants one. Exit code 1: a
rule is broken.
"""

import json
import os
import sys
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config, ConfigError
from effchal.conformance_checks.run import chosen, connect, report, run_checks
from effchal.conformance_checks.table import line_of, list_of, print_table, printable, summary
from effchal.conformance_checks.verdict import Status, Verdict
from effchal.runs import write_atomic

RECORD = "conformance.json"
TOKEN = "EFFCHAL_TOKEN"


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    checks = chosen(cfg.conformance.only)
    if cfg.conformance.show_checks:
        print(list_of(checks))
        return
    if (output_dir / RECORD).is_file():
        raise ConfigError(f"{output_dir} holds another record; give another hydra.run.dir")
    server = connect(cfg.conformance, token())
    shows_table = sys.stdout.isatty()

    def tell(verdict: Verdict) -> None:
        if not shows_table:
            print(printable(line_of(verdict)), flush=True)

    verdicts = run_checks(server, checks, tell)
    server.close()
    if shows_table:
        print_table(verdicts)
    record = report(server.url, verdicts)
    write_atomic(output_dir / RECORD, json.dumps(record, indent=1) + "\n")
    print(f"{summary(verdicts)}; what was sent and received: {output_dir / RECORD}")
    broken = [each.name for each in verdicts if each.status is Status.broken]
    if broken:
        sys.exit(f"error: {server.url} breaks {', '.join(broken)}")


def token() -> str:
    """Raises ConfigError for one that no header can hold."""
    found = os.environ.get(TOKEN, "")
    if found != found.strip() or not found.isprintable():
        raise ConfigError(f"{TOKEN} has white space around it or a control character")
    return found


if __name__ == "__main__":
    main()
