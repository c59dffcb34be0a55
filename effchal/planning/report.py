"""The run plan as a screen of text."""

from effchal.config import Config
from effchal.config.training import ALL_LINEAR
from effchal.planning.fit import Option, Plan, gib
from effchal.training.sharding import is_sharded

TIGHT = 0.95  # share of the limit; what a plan assumes of CUDA and the allocator may be exceeded


def screen(plan: Plan, cfg: Config, rules: str | None) -> str:
    """The plan as text.

    Args:
        rules: a line on the rules of a contest, if there are any.
    """
    memory, work = memory_lines(plan), work_lines(plan, cfg)
    notes = [f"note: {note}" for note in plan.route["notes"]]
    lines = [about(plan, cfg), *notes, "", *memory, "", *work, "", verdict(plan)]
    lines += [option_line(option) for option in plan.options]
    if not plan.fits and not plan.options:
        lines.append(
            "  no override, and no combination of them, makes it fit: "
            "take a smaller model or a larger budget"
        )
    lines += alternative_lines(plan)
    return "\n".join([*lines, *([rules] if rules else [])])


def about(plan: Plan, cfg: Config) -> str:
    train, model, lora = cfg.train, cfg.model, ""
    kind = "LoRA"
    if model.quantization is not None:
        kind = f"{model.quantization.value}{' dq' if model.double_quant else ''}"
    if cfg.lora is not None:
        targets = cfg.lora.target_modules
        where = targets if targets == ALL_LINEAR else f"{len(targets)} modules"
        lora = f" r {cfg.lora.r} on {where}"
    rows = f"{train.micro_batch_size} x {model.max_seq_len} tokens"
    gpus = ""
    if train.gpus > 1:
        holds = "a share of the layers" if is_sharded(cfg) else "the whole base model"
        gpus = f"\n{train.gpus} processes, each with {holds}; memory is that of one"
    return (
        f"{model.name}: {plan.model}\n{kind}{lora}, {rows}, {train.optimizer.value}, "
        f"activation checkpointing {train.activation_checkpointing.value}; on {plan.device}{gpus}"
    )


def memory_lines(plan: Plan) -> list[str]:
    """Two columns of GiB: the phases of a run, and the parts of its training step."""
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
    more = f"{gib(plan.memory_beside)} GiB beside the tensors"
    if plan.memory_free_now is not None:
        more += f"; {gib(plan.memory_free_now)} GiB of this card are free now"
    if plan.memory_factor != 1.0:
        more += f"; earlier runs of this kind took {plan.memory_factor:.2f} times the plan"
    return [*lines, f"needed: {gib(plan.memory_needed)} GiB, {more}"]


def work_lines(plan: Plan, cfg: Config) -> list[str]:
    work, train = plan.workload, cfg.train
    if work.steps is None:
        return [
            "steps, tokens, hours: not known; "
            "the data is not at hand and data_mix does not state its size",
            "  (give train.max_steps, or run where the data set is cached)",
        ]
    rule = " by train.max_steps" if train.max_steps else ""
    epochs = "" if work.epochs is None else f" ({work.epochs:.3g} epochs{rule})"
    lines = [
        f"{work.steps:,} steps of {train.examples_per_step} examples, {work.tokens:,} tokens, "
        f"by {work.source}{epochs}"
    ]
    if plan.hours is None:
        return [*lines, "hours: not known on this device; plan.probe=true measures it"]
    h = plan.hours
    return [*lines, f"hours: {h.expected:.3g} ({h.low:.3g} to {h.high:.3g}), by {h.source}"]


def verdict(plan: Plan) -> str:
    parts = []
    if plan.memory is not None:
        needed, limit = plan.memory_needed, plan.memory_limit
        parts.append(f"memory {gib(needed)} of {gib(limit)} GiB ({gib(limit - needed)} left)")
    if plan.hours is not None:
        expected, most = plan.hours.expected, plan.hours_limit
        parts.append(f"time {expected:.3g} of {most:.3g} h ({most - expected:.3g} left)")
    return f"{'fits' if plan.fits else 'does not fit'}: {', '.join(parts) or 'as far as is known'}"


def option_line(option: Option) -> str:
    hours = "" if option.hours is None else f", {option.hours.expected:.3g} h"
    return f"  would fit: {' '.join(option.overrides)}   ({gib(option.memory)} GiB{hours})"


def alternative_lines(plan: Plan) -> list[str]:
    """A table of the ways that plan.compare asked for; the first row is the fastest that fits."""
    if not plan.alternatives:
        return []
    lines = ["", f"{'GiB':>6}{'hours':>8}  other ways to keep base model and activations"]
    for way in plan.alternatives:
        hours = "" if way.hours is None else f"{way.hours.expected:.3g}"
        tight = way.memory > TIGHT * plan.memory_limit
        notes = "" if way.fits and not tight else ", tight" if way.fits else ", does not fit"
        notes += ", this plan" if way.chosen else ""
        lines.append(f"{gib(way.memory):>6}{hours:>8}  {' '.join(way.overrides)}{notes}")
    first = plan.alternatives[0]
    fastest = first.fits and first.hours is not None
    return [*lines, *([f"fastest that fits: {' '.join(first.overrides)}"] if fastest else [])]
