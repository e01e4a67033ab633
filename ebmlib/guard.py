"""When a training step is refused, and what happens then (chapter 7)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from torch import Tensor, nn

from ebmlib.energy import energies
from ebmlib.losses import LossResult
from ebmlib.runlog import TrainingLog


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
            rollback, and Ctrl-C, go back to the last copy.
        max_rollbacks: Rollbacks before `TrainingDiverged`.
        rate_factor: What a rollback multiplies the learning rate by, in (0, 1).
        max_energy: Bound on the absolute value of every health figure whose name has
            "energy" in it. Energies are sums over pixels or patches, so it is wide.
        max_growth: Bound on |loss| as a multiple of max(1, the median |loss| of the
            last 50 steps), and on the norm of all weights after an update as a
            multiple of max(1, the norm before).
    """

    snapshot_every: int = 10
    max_rollbacks: int = 5
    rate_factor: float = 0.5
    max_energy: float = 1e6
    max_growth: float = 1000.0

    def check_loss(self, result: LossResult, log: TrainingLog) -> None:
        """Refuse a loss or an energy that is not finite or out of bounds."""
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
