"""When a training step is refused, and what happens then (chapter 7)."""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from dataclasses import dataclass

from torch import Tensor, nn

from ebmlib.arguments import real_number, whole_number
from ebmlib.energy import energies
from ebmlib.losses import LossResult
from ebmlib.runlog import TrainingLog
from ebmlib.state import RunState

logger = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):  # noqa: N818 - reads better
    """The guard has used up its rollbacks; the message says what to change.

    `log` holds the run up to its last good step, and the energy its last good weights.
    """

    def __init__(self, message: str, log: TrainingLog):
        super().__init__(message)
        self.log = log


class BadStep(ArithmeticError):  # noqa: N818 - never leaves `train`
    """A step that the guard refuses; `train` answers it with a rollback."""


@dataclass(frozen=True)
class Guard:
    """When a step is refused, and what happens then.

    Attributes:
        snapshot_every: Good steps between two copies of the state in memory; a
            rollback, Ctrl-C and an error go back to the last copy. Copied are the
            weights, Adam's moments, the averaged weights and the objective's state;
            the memory for two copies is held.
        max_rollbacks: Rollbacks before `TrainingDiverged`.
        rate_factor: What a rollback multiplies the learning rate by, in (0, 1).
        max_energy: Bound on the absolute value of every health figure whose name has
            "energy" in it. Energies are sums over pixels or patches, so it is wide.
        max_growth: Bound on |loss| as a multiple of max(1, the median |loss| of the
            last 50 steps), and on the norm of all weights after an update as a
            multiple of max(1, the norm before).

    Raises:
        ValueError: An attribute is out of its range.
    """

    snapshot_every: int = 10
    max_rollbacks: int = 5
    rate_factor: float = 0.5
    max_energy: float = 1e6
    max_growth: float = 1000.0

    def __post_init__(self) -> None:
        whole_number("snapshot_every", self.snapshot_every, 1)
        whole_number("max_rollbacks", self.max_rollbacks, 0)
        real_number("rate_factor", self.rate_factor, "(0, 1)")
        real_number("max_energy", self.max_energy, "(0, inf]")
        real_number("max_growth", self.max_growth, "(0, inf]")

    def check_loss(self, result: LossResult, log: TrainingLog) -> float:
        """The loss as a float, if it and the energies are finite and within bounds.

        Raises:
            BadStep: They are not.
        """
        loss = result.loss.item()
        recent = log.health.get("loss", [])[-50:]
        usual = max(1.0, statistics.median(map(abs, recent)) if recent else 1.0)
        limit = self.max_growth * usual if recent else math.inf
        if not math.isfinite(loss):
            raise BadStep(f"the loss is {loss}")
        if abs(loss) > limit:
            raise BadStep(
                f"the loss is {loss:.3g}, more than max_growth={self.max_growth:g} "
                f"times its usual size {usual:.3g}"
            )
        for name, value in result.health.items():
            if "energy" in name and not abs(value) <= self.max_energy:
                raise BadStep(f"{name} is {value:.3g}, beyond {self.max_energy:g}")
        return loss

    def check_gradient(self, norm: float) -> None:
        """Refuse a gradient that is not finite."""
        if not math.isfinite(norm):
            raise BadStep(f"the gradient norm is {norm}")

    def check_weights(self, before: float, after: float) -> None:
        """Refuse an update to weights that are not finite, or of another order."""
        if not math.isfinite(after):
            raise BadStep(f"the norm of the updated weights is {after}")
        if after > self.max_growth * max(1.0, before):
            raise BadStep(
                f"the update takes the norm of the weights from {before:.3g} to "
                f"{after:.3g}, more than max_growth={self.max_growth:g} times"
            )

    def check_energies(self, energy: nn.Module, batch: Tensor) -> None:
        """Refuse the last update, which no later loss would judge, if E runs away."""
        largest = energies(energy, batch).abs().max().item()
        if not largest <= self.max_energy:
            raise BadStep(f"the final |energy| is {largest:.3g}")

    def roll_back(self, state: RunState, problem: Exception) -> None:
        """Go back to the last good state, with a smaller rate and other draws.

        Warns, logs and notes what was refused.

        Raises:
            TrainingDiverged: All rollbacks are used up. The state is the last good one.
        """
        failed, rate = state.step + 1, state.learning_rate
        state.go_back()
        if state.rollbacks == self.max_rollbacks:
            tried = rate * state.rate_scale
            advice = getattr(state.objective, "advice", "")
            raise TrainingDiverged(
                f"training diverged at step {failed} ({problem}) and stays so after "
                f"{self.max_rollbacks} rollbacks, with the learning rate lowered from "
                f"{rate:.3g} to {tried:.3g}. Try learning_rate={tried / 10:.1g} or "
                f"less, or a smaller clip_norm{advice and '; '}{advice}. If the loss "
                "is NaN at every rate, look for NaN in the images or the energy.",
                state.log,
            ) from problem
        state.rollbacks += 1
        state.rate_scale *= self.rate_factor
        state.reseed()
        message = (
            f"step {failed} refused: {problem}. Back to step {state.step}, learning "
            f"rate x {state.rate_scale:g}, new seed (rollback {state.rollbacks} of "
            f"{self.max_rollbacks})"
        )
        state.log.events.append(message)
        state.keep()
        logger.warning("%s", message)
        # The frames: this method, `train`, its two decorators, the caller of `train`.
        warnings.warn(message, RuntimeWarning, stacklevel=5)
