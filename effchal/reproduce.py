"""Do a handed-in folder again from scratch, and compare hours, digests and scores.

The folder's own code trains, serves, checks the rules and scores. retrain=false checks the adapter
of the folder alone. Exit code 1: something is not as the folder states.
"""

import sys
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config, ConfigError


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    from effchal.submission.reproduction import RECORD, findings_table, reproduce  # imports torch
    from effchal.submission.stages import one_line_ends

    if (output_dir / RECORD).is_file():
        raise ConfigError(f"{output_dir} holds another reproduction; give another hydra.run.dir")
    with one_line_ends():
        findings = reproduce(cfg, overrides, output_dir)
    print(findings_table(findings))
    failed = [each.what for each in findings if each.ok is False]
    if failed:
        sys.exit(f"error: not reproduced: {', '.join(failed)}")
    print(f"reproduced; the record: {output_dir / RECORD}")


if __name__ == "__main__":
    main()
