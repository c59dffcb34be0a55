"""Make a folder to hand in: a run with its code, server, scores, data report, checksums.

effchal submit outputs/train/<run> serves the bundle, checks every rule of the protocol and scores
it. With experiment=<name> it trains first. The folder holds the code and both Dockerfiles;
effchal reproduce does it again from there.
"""

from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config
from effchal.model_source import bundle_folder
from effchal.tracking.ending import as_typed, read_run


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    if cfg.bundle is not None:
        bundle_folder(cfg.bundle)
    from effchal.submission.hand_in import submit  # imports torch, as the next one does
    from effchal.submission.stages import one_line_ends

    with one_line_ends(lambda: what_stays(output_dir)):
        folder = submit(cfg, overrides, output_dir)
    print(f"{as_typed(folder)}\nnext: effchal reproduce {as_typed(folder)}")


def what_stays(output_dir: Path) -> str:
    """Of a training that came first, the command that goes on with it."""
    run_dir = output_dir / "train"
    record = read_run(run_dir)
    if record is None:
        return ""
    command = "submit" if record["status"] in ("finished", "stopped_by_budget") else "train"
    return f"\nthe training is kept; go on with: effchal {command} {as_typed(run_dir)}"


if __name__ == "__main__":
    main()
