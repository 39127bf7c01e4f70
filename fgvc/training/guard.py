"""The guard: a loss that leaps sends a run back to its last checkpoint; a run that unlearns what it knew is stopped.

What it takes for that is meant to leave healthy runs alone; docs/vit.md says what was tried.
"""

import json
import math
from pathlib import Path
from statistics import NormalDist, fmean, median
from typing import Any

from fgvc.runtime.distributed import broadcast_object, rank
from fgvc.training.config import LoopConfig, OptimConfig
from fgvc.training.learner import SupervisedLearner
from fgvc.training.rewind import Diverged
from fgvc.training.schedule import Schedule
from shards.errors import UserError

POINTS, P_VALUE = 0.05, 0.001  # how far, and how surely, an accuracy has to have fallen, twice running
# A run whose training accuracy fell recovers if it keeps so much of its best and has won so much of the fall back.
KEPT, WON_BACK = 0.8, 1 / 3
WINDOW, SHORT = 50, 5  # steps: what the loss was; what it is
LEAP, ABOVE_START = 3.0, 1.5  # a leap: so many times its median, and so many times what the run began with

OVER_PROBE, OVER_PROBE_P = "val_over_probe", "val_over_probe_p"  # figures of a held-out evaluation
ADVICE = "lower optim.lr (fgvc find-lr finds one); train.guard=false ignores this"


class Guard:
    """Watches a run with one network. What it remembers of steps is in the learner's `memory`, which checkpoints hold,
    and of evaluations in the run's record: a run that was killed is watched as one that was not. All ranks see the same
    figures, and decide the same.
    """

    def __init__(
        self, learner: SupervisedLearner, config: LoopConfig, optim: OptimConfig, schedule: Schedule, metrics: Path
    ) -> None:
        """metrics: the run's record, cut back to the step that it begins with."""
        self.learner, self.batch, self.per_epoch = learner, config.batch, schedule.per_epoch
        self.warm = optim.warmup_epochs * schedule.per_epoch  # steps
        lines = metrics.read_text().splitlines() if rank() == 0 and metrics.is_file() else []
        rows = broadcast_object([row for row in map(json.loads, lines) if OVER_PROBE in row][-2:])
        self._last = [{}, {}, *rows][-2:]  # the two last evaluations

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Look at a step's figures. Raises Diverged for a leap of the loss, UserError for a run that has unlearnt."""
        self.check_probe()
        memory = self.learner.memory
        if memory.get("watched", step - 1) != step - 1:  # it was switched off for a while: this is of another time
            for key in ("losses", "epoch_top1", "fell_to"):
                memory.pop(key, None)
        memory["watched"] = step
        self._look_for_leap(step, figures["loss"])
        if "top1" in figures:
            self._look_for_fall(step, figures["top1"])

    def check_probe(self) -> None:
        """Raise UserError where the two last evaluations were below the probe."""
        if all(self._is_below(row) for row in self._last):
            now = self._last[-1]
            raise UserError(
                f"held-out top-1 is {-100 * now[OVER_PROBE]:.1f} points below the probe that the run began with (p = "
                f"{now[OVER_PROBE_P]:.0e}), at two evaluations running: fine-tuning destroys what it started from; "
                f"{ADVICE}"
            )

    def evaluated(self, step: int, figures: dict[str, float]) -> None:
        """Take in a held-out evaluation. What follows from it is said at the next step, or by `check_probe` after the
        last one: when the record holds it."""
        if OVER_PROBE in figures:
            self._last = [self._last[-1], {"step": step} | figures]

    def _is_below(self, row: dict[str, Any]) -> bool:
        return bool(row) and row["step"] > self.warm and row[OVER_PROBE] <= -POINTS and row[OVER_PROBE_P] < P_VALUE

    def _look_for_leap(self, step: int, loss: float) -> None:
        losses: list[float] = self.learner.memory.setdefault("losses", [])
        losses.append(loss)
        del losses[: -WINDOW - SHORT]
        if len(losses) == SHORT:
            self.learner.memory.setdefault("first_loss", fmean(losses))
        if len(losses) < WINDOW + SHORT:
            return
        now, usual = fmean(losses[-SHORT:]), median(losses[:WINDOW])
        if now > LEAP * usual and now > ABOVE_START * self.learner.memory["first_loss"]:
            raise Diverged(f"the loss leapt from {usual:.3g} to {now:.3g} by step {step}")

    def _look_for_fall(self, step: int, top1: float) -> None:
        """Compare an epoch's mean training accuracy with the best one's, by a one-sided test of two proportions.

        A probe's head knows its few images by heart, and full rates disturb it for an epoch or two before they help: a
        shallow fall ends no run that wins a third of it back, or whose last held-out evaluation is not far below its
        probe. One that then is without a fifth of its best is ended in any case.
        """
        memory = self.learner.memory
        epoch: list[float] = memory.setdefault("epoch_top1", [])
        epoch.append(top1)
        if step % self.per_epoch:
            return
        mean, images, best = fmean(epoch), self.batch * len(epoch), memory.get("best_top1", 0.0)
        epoch.clear()
        memory["best_top1"] = max(best, mean)
        pooled = (mean + best) / 2
        deviation = math.sqrt(2 * pooled * (1 - pooled) / images) or 1.0
        surely = NormalDist().cdf((mean - best) / deviation) < P_VALUE
        lowest = memory.pop("fell_to", None)
        if not (step > self.warm and mean <= best - POINTS and surely):
            return
        if lowest is not None:
            won_back = mean >= lowest + WON_BACK * (best - lowest)
            if mean < KEPT * best or not (won_back or self._last[-1].get(OVER_PROBE, -1.0) > -POINTS):
                raise UserError(
                    f"training accuracy is {mean:.1%} (step {step}), after {best:.1%} at best and "
                    f"{min(mean, lowest):.1%} at worst in this fall: the run has unlearnt what it knew; {ADVICE}"
                )
        memory["fell_to"] = mean if lowest is None else min(mean, lowest)
