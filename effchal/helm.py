"""Have HELM itself score a bundle or a base model.

scripts/helm.sh makes HELM's environment first, and then does this.
"""

import signal
import sys
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config, ConfigError
from effchal.evaluation.helm.processes import HelmError, reach_loopback_directly
from effchal.evaluation.helm.results import runs_table
from effchal.evaluation.helm.run import resumed, run, show_page
from effchal.model_source import inference_config
from effchal.runs import read_record, run_lock


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    run_dir = output_dir
    if cfg.resume_from is not None:
        run_dir = Path(cfg.resume_from)
        cfg = resumed(cfg, overrides, run_dir)
    elif (run_dir / "scores.json").is_file():
        raise ConfigError(f"{run_dir} holds a run already; go on with it by resume_from={run_dir}")
    else:
        cfg = inference_config(cfg, overrides, {"scenario", "serve", "helm", "name"})
    reach_loopback_directly()
    # As an exception, so that the child processes are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    again = f"go on with: effchal helm resume_from={run_dir}"
    try:
        with run_lock(run_dir):
            runs = run(cfg, run_dir)
        print(runs_table(runs))
        for entry, reason in read_record(run_dir / "scores.json").get("missing", {}).items():
            print(f"left out: {entry}: {reason}")
        if cfg.helm.page:
            show_page(cfg, run_dir)
    except HelmError as error:
        sys.exit(f"error: {error}\n{again}")
    except KeyboardInterrupt:
        print(f"interrupted; {again}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    failed = [f"{each.name}: {each.error}" for each in runs if each.score is None]
    if failed:
        lines = "\n  ".join(failed)
        sys.exit(
            f"error: {len(failed)} of {len(runs)} runs failed; resume_from={run_dir} "
            f"tries them again\n  {lines}"
        )


if __name__ == "__main__":
    main()
