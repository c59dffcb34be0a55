"""Run lm-eval's tasks on a bundle or a base model, under one decoding or several.

The first call makes lm-eval an environment of its own. lm-eval's own options go by their names:
tasks=[gsm8k] num_fewshot=5 limit=100. Several bundles are asked one after another
and compared with the first, as `effchal evaluate` does it.
"""

import signal
import sys
from dataclasses import replace
from pathlib import Path

from effchal.cli.compose import entry_point, overlay
from effchal.cli.several_models import resumed_bundle
from effchal.config import Config, ConfigError, load_config
from effchal.evaluation.lm_eval.environment import made_ready
from effchal.evaluation.lm_eval.process import LOG, MARK, LmEvalError
from effchal.evaluation.sweep import print_comparison
from effchal.model_source import inference_config
from effchal.tracking.manifest import how_to_go_on
from effchal.tracking.terminal import progress
from effchal.tracking.tracker import check_tracking
from effchal.tracking.wandb_mirror import mirror_evaluation

# Keys that a resumed run takes from its command. Model and tasks must be the same ones.
MAY_CHANGE = {"resume_from", "bundle", "base_model", "lm_eval.environment", "track"}


def lm_eval(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    run_dir = output_dir
    if cfg.resume_from is not None:
        run_dir = Path(cfg.resume_from)
        if not (run_dir / MARK).is_file():
            raise ConfigError(f"{run_dir} is no run of effchal lm_eval: it has no {MARK}")
        frozen = load_config(run_dir / "config.yaml")
        cfg = overlay(frozen, cfg, overrides, MAY_CHANGE, str(run_dir))
        cfg.resume_from, cfg.bundle = None, resumed_bundle(cfg.bundle)
    elif (run_dir / MARK).is_file():
        raise ConfigError(f"{run_dir} holds a run already; go on with it by resume_from={run_dir}")
    else:
        free = {"lm_eval", "sweep", "evaluate", "name", "track"}
        # The bundle's own track.* is of its training.
        cfg = replace(inference_config(cfg, overrides, free), track=cfg.track)
    check_tracking(cfg.track)
    variables = made_ready(cfg)
    with progress("loading libraries"):
        from effchal.evaluation.lm_eval.run import run  # imports torch

    # As an exception, so that lm-eval is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    again = f"go on with: {how_to_go_on('lm_eval', run_dir)}"
    try:
        print(run(cfg, run_dir, variables))
        mirror_evaluation(cfg, run_dir)
    except (LmEvalError, FloatingPointError) as error:
        sys.exit(f"error: {error}\nlm-eval's log: {run_dir / LOG}; {again}")
    except KeyboardInterrupt:
        print(f"interrupted; {again}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


main = entry_point(lm_eval, after_sweep=print_comparison)


if __name__ == "__main__":
    main()
