"""Check a run against the rules of a contest.

Takes the same keys as `effchal train`. Exit code 1 where a rule is broken.
"""

import shlex
import sys
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config, ConfigError


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    from effchal.model.device import gpu_names
    from effchal.rules import check_rules, summary

    if cfg.rules is None:
        words = " ".join(map(shlex.quote, ["rules=neurips_2023", *overrides]))
        raise ConfigError(f"no rules to check; type: effchal check {words}")
    findings = check_rules(cfg.rules, cfg.model, cfg.data_mix, cfg.budget, gpu_names())
    for finding in findings:
        print(f"{'pass' if finding.ok else 'FAIL'}  {finding.rule}: {finding.found}")
        if not finding.ok:
            print(f"      {finding.remedy}")
    print(f"{summary(cfg.rules, findings)} ({cfg.rules.source})")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
