"""A step that lacks memory is done again, with the same examples in smaller micro-batches."""

import logging
from collections.abc import Callable

from effchal.config import Config
from effchal.mixing.packing import MicroBatch, capacity_of
from effchal.model.faults import release_memory
from effchal.training.build import RunState, TrainingSetup
from effchal.training.checkpoint import random_states, set_random_states
from effchal.training.step import MicroBatchTooLarge, StepStats

log = logging.getLogger("effchal.train")


class ExampleTooLarge(MemoryError):
    """The device lacks the memory for a single example; the weights are those before the step."""


def step_that_fits(
    cfg: Config,
    setup: TrainingSetup,
    state: RunState,
    run: Callable[[list[MicroBatch]], StepStats],
    before_retry: Callable[[], None],
) -> tuple[StepStats, list[MicroBatch]]:
    """Run a step in micro-batches that fit; the state keeps their size for all later steps.

    Loss and gradients are the same but for rounding. Random numbers begin anew, so a resumed run
    that knows the size repeats the step.

    Raises:
        ExampleTooLarge: with the remedy.
    """
    random = random_states(setup.device)
    while True:
        divisor = state.micro_batch_divisor
        micro_batches = setup.micro_batches_of(cfg, state.step, divisor)
        try:
            return run(micro_batches), micro_batches
        except MicroBatchTooLarge as error:
            failed = error.micro_batch
        setup.optimizer.zero_grad(set_to_none=True)
        release_memory()
        set_random_states(random, setup.device)
        before_retry()
        if len(failed.lengths) == 1:
            raise ExampleTooLarge(remedy_of(cfg, failed))
        state.micro_batch_divisor = smaller_divisor(cfg, divisor, failed)
        _tell(cfg, state, failed)


def smaller_divisor(cfg: Config, divisor: int, failed: MicroBatch) -> int:
    """What to divide the micro-batches' size by, so that they are at most half of a failed one."""
    size = failed.tokens if cfg.train.packing else len(failed.lengths)
    while 2 * capacity_of(cfg, divisor) > size:
        divisor *= 2
    return divisor


def _tell(cfg: Config, state: RunState, failed: MicroBatch) -> None:
    unit = "tokens" if cfg.train.packing else "examples"
    log.warning(
        "out of memory in step %d, in a micro-batch of %d examples with %d tokens; from now on "
        "one has at most %d %s, and each step the same examples",
        state.step + 1,
        len(failed.lengths),
        failed.tokens,
        capacity_of(cfg, state.micro_batch_divisor),
        unit,
    )


def remedy_of(cfg: Config, failed: MicroBatch) -> str:
    """What to do about an example that does not fit, for people."""
    name = " ".join(failed.example_ids)
    return (
        f"out of memory: example {name} with {failed.tokens} tokens does not fit "
        "alone; go on with this run on a larger card, or start anew with less "
        f"model.max_seq_len (now {cfg.model.max_seq_len}), "
        "train.activation_checkpointing=full or model.quantization=nf4"
    )
