"""Tell whether a run fits its budget, and what would make it fit.

Takes the same keys as `effchal train`. Exit code 1 where the run does not fit or breaks rules
that are enforced, 2 where the config is wrong.
"""

import os
import sys
from pathlib import Path

from effchal.cli.compose import entry_point, job_age_s
from effchal.config import Config, ConfigError
from effchal.tracking.terminal import progress


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    if cfg.lora is None:
        raise ConfigError("lora=none leaves nothing to train, so nothing to plan")
    with progress("loading libraries"):
        from effchal.model.tokenizer import pin_revision
        from effchal.planning.meta_model import needs_download

        pin_revision(cfg.model)
        if not needs_download(cfg.model):
            # The hub's client reads it when it is imported, which is later.
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from effchal.model.device import gpu_names
        from effchal.planning.candidates import alternatives, plan_with_options
        from effchal.planning.fit import choose_micro_batch, choose_parallel
        from effchal.planning.machine import planned_machine
        from effchal.planning.probe import known_data, probe
        from effchal.planning.report import screen
        from effchal.rules import check_rules, summary
        from effchal.training.sharding import check_sharding

    machine = planned_machine(cfg)
    with progress("encoding the data"):
        data = known_data(cfg, output_dir)
    with progress("planning"):
        choose_parallel(cfg, machine, data)
        check_sharding(cfg)
        choose_micro_batch(cfg, machine, data)
        if cfg.plan.probe:
            probe(cfg, machine, data, output_dir, job_age_s())
        plan = plan_with_options(cfg, machine, data)
        if cfg.plan.compare:
            plan.alternatives = alternatives(cfg, machine, data)
    plan.save(output_dir)
    rules_line, refused = None, False
    if cfg.rules is not None:
        planned = [machine.name] if machine.device.type == "cuda" else []
        cards = planned if machine.memory_free is None else gpu_names()
        findings = check_rules(cfg.rules, cfg.model, cfg.data_mix, cfg.budget, cards)
        rules_line = summary(cfg.rules, findings)
        refused = cfg.rules.enforce and not all(finding.ok for finding in findings)
    print(screen(plan, cfg, rules_line))
    if refused or not plan.fits:
        sys.exit(1)


if __name__ == "__main__":
    main()
