"""The plan on one screen."""

from effchal.config import Config
from effchal.planning.fit import Plan, gib
from effchal.planning.hours import Hours


def screen(plan: Plan, cfg: Config, rules: str | None) -> str:
    lines = [
        about(plan, cfg),
        "",
        *memory_lines(plan),
        "",
        *work_lines(plan, cfg),
        "",
        verdict(plan),
    ]
    for option in plan.options:
        lines.append(
            f"  would fit: {' '.join(option.overrides)}   ({gib(option.memory)} GiB{hours_of(option.hours)})"
        )
    if not plan.fits and not plan.options:
        lines.append(
            "  no change of one key, and no row of them, makes it fit: take a smaller model or a larger budget"
        )
    if rules:
        lines.append(rules)
    return "\n".join(lines)


def about(plan: Plan, cfg: Config) -> str:
    train, model = cfg.train, cfg.model
    kind = (
        "LoRA"
        if model.quantization is None
        else f"{model.quantization.value}{' dq' if model.double_quant else ''}"
    )
    lora = "" if cfg.lora is None else f" r {cfg.lora.r} on {len(cfg.lora.target_modules)} modules"
    rows = f"{train.micro_batch_size} x {model.max_seq_len} tokens"
    return (
        f"{model.name}: {plan.model}\n{kind}{lora}, {rows}, {train.optimizer.value}, activation checkpointing "
        f"{train.activation_checkpointing.value}; on {plan.device}"
    )


def memory_lines(plan: Plan) -> list[str]:
    if plan.memory is None:
        return ["memory  not known: this architecture cannot be planned"]
    left = [(name, gib(size)) for name, size in plan.memory.phases.items()]
    right = [(name, gib(size)) for name, size in plan.memory.parts.items()]
    if plan.memory.paged:
        right.append(("optimizer, paged to the host", gib(plan.memory.paged)))
    lines = [f"{'memory by phase':<26}{'GiB':>6}    {'training step by part':<30}{'GiB':>6}"]
    for i in range(max(len(left), len(right))):
        first, second = (part[i] if i < len(part) else ("", "") for part in (left, right))
        lines.append(f"{first[0]:<26}{first[1]:>6}    {second[0]:<30}{second[1]:>6}".rstrip())
    beside = f"{gib(plan.memory_beside)} GiB beside the tensors"
    if plan.memory_factor != 1.0:
        beside += f"; earlier runs of this kind took {plan.memory_factor:.2f} times the plan"
    return [*lines, f"needed: {gib(plan.memory_needed)} GiB, {beside}"]


def work_lines(plan: Plan, cfg: Config) -> list[str]:
    work = plan.workload
    if work.steps is None:
        return [
            "steps, tokens, hours: not known; the data is not at hand and data_mix does not state its size",
            "  (give train.max_steps, or run where the data set is cached)",
        ]
    lines = [
        f"{work.steps:,} steps of {cfg.train.examples_per_step} examples, {work.tokens:,} tokens, by {work.source}"
        f" ({cfg.train.epochs} epochs{', cut by train.max_steps' if cfg.train.max_steps else ''})"
    ]
    if plan.hours is None:
        return [*lines, "hours: not known on this device; plan.probe=true measures it"]
    h = plan.hours
    return [*lines, f"hours: {h.expected:.3g} ({h.low:.3g} to {h.high:.3g}), by {h.source}"]


def verdict(plan: Plan) -> str:
    parts = []
    if plan.memory is not None:
        left = plan.memory_limit - plan.memory_needed
        parts.append(
            f"memory {gib(plan.memory_needed)} of {gib(plan.memory_limit)} GiB ({gib(left)} left)"
        )
    if plan.hours is not None:
        left = plan.hours_limit - plan.hours.expected
        parts.append(
            f"time {plan.hours.expected:.3g} of {plan.hours_limit:.3g} h ({left:.3g} left)"
        )
    return f"{'fits' if plan.fits else 'does not fit'}: {', '.join(parts) or 'as far as is known'}"


def hours_of(hours: Hours | None) -> str:
    return "" if hours is None else f", {hours.expected:.3g} h"
