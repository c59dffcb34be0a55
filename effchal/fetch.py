"""Download the data of scenario.entries into one folder, for use without a network.

What is there already stays, so the same command goes on where it ended. Exit code 1 where a
source failed.
"""

import sys
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config, ConfigError


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    from effchal.evaluation.scenarios.hub import CACHE
    from effchal.evaluation.scenarios.prepare import needed_downloads, prepare

    if not cfg.scenario.entries:
        raise ConfigError(
            "scenario.entries is empty; give a list, e.g. scenario=challenge_open, or entries"
        )
    folder = CACHE if cfg.scenario.path is None else Path(cfg.scenario.path)
    found = needed_downloads(cfg.scenario.entries, folder)
    counts = {"there": 0, "fetched": 0, "failed": 0}
    total = 0
    for number, each in enumerate(prepare(found), start=1):
        counts[each.state] += 1
        total += each.size
        told = each.reason if each.state == "failed" else f"{each.size / 1e6:,.1f} MB"
        line = f"{number:3} of {len(found)}  {each.state:8}{each.place}: {told}"
        print(line, file=sys.stderr if each.state == "failed" else sys.stdout, flush=True)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"{folder}: {total / 1e6:,.1f} MB; sources: {states}")
    if counts["failed"]:
        sys.exit("error: not all data are there; the same command tries the others again")
    print(f"use it with scenario.path={folder}")


if __name__ == "__main__":
    main()
