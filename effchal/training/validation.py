"""What is measured of the present weights: the validation loss, and answers to fixed prompts."""

import logging
from collections.abc import Callable
from typing import Any

from effchal.tracking.lines import DRAWN
from effchal.tracking.terminal import progress
from effchal.tracking.words import one_line
from effchal.training.budget import LAST_FACTOR
from effchal.training.fitting import ExampleTooLarge, remedy_of
from effchal.training.run import Run
from effchal.training.samples import Sampler
from effchal.training.step import MicroBatchTooLarge, validation_loss

log = logging.getLogger("effchal.train")


class Validator:
    """Measures the weights, and tells the clock how long that takes."""

    def __init__(self, run: Run, keep: Callable[[dict[str, Any]], None]) -> None:
        """keep: takes a record of metrics.jsonl."""
        cfg, setup = run.cfg, run.setup
        self.micro_batches = setup.validation
        self.must_stop: Callable[[], bool] = lambda: False  # whether a signal ends the run
        self._cfg = cfg
        self._every, self._share = cfg.train.validate_every, cfg.budget.periodic_work_share
        self._model, self._steps = setup.model, setup.steps
        self._state, self._clock, self._keep = run.state, run.clock, keep
        self._ranks = setup.ranks
        samples = cfg.train.samples and setup.ranks.is_first
        self._sampler = Sampler(cfg, setup) if samples else None
        own = sum(micro_batch.tokens for micro_batch in self.micro_batches)
        self.tokens = sum(setup.ranks.gather(own))  # of one validation

    def is_due(self, step: int) -> bool:
        """Whether a validation is due after `step`, and its time can be afforded."""
        return step % self._every == 0 and self._clock.affords("validation", self._share)

    def validate(self, periodic: bool = False) -> float | None:
        """Validation loss of the present weights; None without validation examples.

        Answers to train.samples are kept as well, where there is time for them.
        """
        loss = self._measure(periodic) if self.micro_batches else None
        clock = self._clock
        fits = clock.affords("samples", self._share) if periodic else clock.fits_at_end("samples")
        if self._sampler is not None and fits and not self.must_stop():
            self._sample(self._sampler, periodic)
        return loss

    def _measure(self, periodic: bool) -> float:
        state, clock = self._state, self._clock
        started_s = clock.spent_s()
        with progress("validating"):
            try:
                loss = validation_loss(self._model, self.micro_batches, self._ranks)
            except MicroBatchTooLarge as error:
                raise ExampleTooLarge(remedy_of(self._cfg, error.micro_batch)) from error
        state.validation_loss, state.validation_step = loss, state.step
        clock.add_cost("validation", clock.spent_s() - started_s, periodic)
        log.info("step %d/%d | validation loss %.3f", state.step, self._steps, loss)
        self._keep({"step": state.step, "validation_loss": loss, "spent_s": clock.spent_s()})
        return loss

    def _sample(self, sampler: Sampler, periodic: bool) -> None:
        """Answer train.samples in the time that they took before, or in a share of what is left."""
        clock, known = self._clock, "samples" in self._clock.costs
        started_s, left_s = clock.spent_s(), clock.limit_s - clock.spent_s()
        most_s = LAST_FACTOR * clock.costs["samples"] if known else self._share * left_s

        def must_stop() -> bool:
            return clock.spent_s() - started_s > most_s or self.must_stop()

        with progress("answering train.samples"):
            samples = sampler.answer(must_stop)
        clock.add_cost("samples", clock.spent_s() - started_s, periodic)
        if samples:
            first = samples[0]
            asked, answer = one_line(first["prompt"], 60), one_line(first["completion"], 100)
            log.info("%s -> %s", asked, answer, extra=DRAWN)
            self._keep({"step": self._state.step, "samples": samples, "spent_s": clock.spent_s()})
