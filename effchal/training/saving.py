"""What a run saves: a dry run first, checkpoints, the best weights, the bundle."""

import logging
import tempfile
from pathlib import Path

from effchal.bundle import CARD, replace_text, write_bundle
from effchal.config.choices import BundleOf
from effchal.runs import DRY_RUN_PREFIX
from effchal.training.checkpoint import load_weights, save_checkpoint
from effchal.training.run import Run
from effchal.training.run_card import card_of

log = logging.getLogger("effchal.train")


class Saver:
    """Writes a run's files, and tells the clock how long that takes."""

    def __init__(self, run: Run) -> None:
        self.run, self.cfg, self.setup = run, run.cfg, run.setup
        self.state, self.clock = run.state, run.clock
        self.bundle = run.folder / "bundle"
        self.checkpoints = run.folder / "checkpoint"

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`, and its time can be afforded."""
        wanted = self.state.is_best or step % self.cfg.train.checkpoint_every == 0
        return wanted and self.clock.affords("checkpoint", self.cfg.budget.periodic_work_share)

    def dry_run(self) -> None:
        """Save everything into a temporary folder: does it work, and how long does it take?"""
        with tempfile.TemporaryDirectory(
            dir=self.run.folder, prefix=DRY_RUN_PREFIX, ignore_cleanup_errors=True
        ) as folder:
            started_s = self.clock.spent_s()
            state = self.state.snapshot(self.clock)
            model, optimizer = self.setup.model, self.setup.optimizer
            save_checkpoint(Path(folder) / "checkpoint", model, optimizer, state)
            saved_s = self.clock.spent_s()
            card = self.card("a dry run")
            write_bundle(Path(folder) / "bundle", self.cfg, model, self.setup.tokenizer, card)
            self._took("checkpoint", saved_s - started_s)
            self._took("bundle", self.clock.spent_s() - saved_s)
        log.info(
            "saving takes %.1f s; %.1f s are kept for the end",
            self.clock.spent_s() - started_s,
            self.clock.reserve_s(),
        )

    def checkpoint(self, periodic: bool = False) -> None:
        """Write a checkpoint; it is also the best one if its validation loss is the lowest.

        Raises:
            OSError: the disk is full, for example; earlier checkpoints are untouched.
        """
        state, model, optimizer = self.state, self.setup.model, self.setup.optimizer
        snapshot = state.snapshot(self.clock)
        is_best = state.is_best
        if is_best:
            snapshot |= {"best_loss": state.validation_loss, "best_step": state.step}
        kept = self.cfg.train.keep_checkpoints
        save_checkpoint(self.checkpoints, model, optimizer, snapshot, kept)
        if is_best:  # not before the file is written
            state.keep_best()
        self._took("checkpoint", self.clock.spent_s() - snapshot["spent_s"], periodic)

    def try_checkpoint(self, periodic: bool = False) -> bool:
        """Write a checkpoint if the disk takes it. Returns whether it did.

        A full disk may have space again later, and a bundle takes less of it.
        """
        try:
            self.checkpoint(periodic)
        except OSError as error:
            log.error("no checkpoint at step %d: %s", self.state.step, error)
            return False
        return True

    def card(self, status: str, is_best: bool = False) -> str:
        return card_of(self.run, status, is_best)

    def write_bundle(self, status: str, is_best: bool = False) -> None:
        begun_s, card = self.clock.spent_s(), self.card(status, is_best)
        write_bundle(self.bundle, self.cfg, self.setup.model, self.setup.tokenizer, card)
        self._took("bundle", self.clock.spent_s() - begun_s)

    def _took(self, what: str, seconds: float, periodic: bool = False) -> None:
        self.clock.add_cost(what, seconds, periodic)
        if self.cfg.train.bundle is BundleOf.best:  # a checkpoint is read, a second bundle written
            costs = self.clock.costs
            most_s = costs.get("checkpoint", 0.0) + costs.get("bundle", 0.0)
            self.clock.add_cost("best weights", most_s)

    def complete_card(self, status: str) -> None:
        """Bring the model card of the last weights up to the last validation, if there is time."""
        if not self.clock.fits_at_end("bundle"):  # a card is synced as a bundle is
            log.warning("no time is left to put the last validation into the model card")
            return
        try:
            replace_text(self.bundle, CARD, self.card(status))
        except OSError as error:
            log.warning("the model card lacks the last validation: %s", error)

    def choose_weights(self, status: str) -> None:
        """Put the best weights into the bundle if train.bundle=best; else leave the last ones."""
        state = self.state
        if state.is_best:  # the last checkpoint was saved before its loss was known
            state.keep_best()
        if state.best_step in (None, state.step):
            return
        best = f"the lowest validation loss, {state.best_loss:.3f}, was at step {state.best_step}"
        if self.cfg.train.bundle is BundleOf.last:
            log.info(
                "%s; the bundle holds the last weights (train.bundle=best would take those)", best
            )
        elif not self.clock.fits_at_end("best weights"):
            log.warning("%s, but no time is left for them; the bundle holds the last weights", best)
        elif load_weights(self.checkpoints, state.best_step, self.setup.model):
            self.write_bundle(status, is_best=True)
            log.info("%s; the bundle holds these weights", best)
        else:
            log.warning(
                "%s, but its checkpoint cannot be read; the bundle holds the last weights", best
            )
