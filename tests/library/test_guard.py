"""Facts about the guard: a bad step is refused, undone and reported, never kept."""

import math
import warnings

import pytest
import torch
from tiny_training import IMAGES, Poisoned, TinyEnergy, fit, mean_energy, weights
from torch import nn

from ebmlib.guard import BadStep, Guard, TrainingDiverged
from ebmlib.langevin import ChainDiverged
from ebmlib.losses import LossResult
from ebmlib.objectives import (
    ContrastAndRestoration,
    DenoisingScoreMatching,
    NoiseContrastive,
    PersistentContrastiveDivergence,
)
from ebmlib.replay import ReplayBuffer
from ebmlib.runlog import TrainingLog


def nan_loss(energy, result):
    return LossResult(result.loss * math.nan, result.health)


def huge_energy(energy, result):
    return LossResult(result.loss, {"energy_data": 1e9})


def huge_loss(energy, result):
    return LossResult(result.loss * 1e5, result.health)


def infinite_gradient(energy, result):
    # sqrt has an infinite slope at zero, and the loss itself stays finite.
    return LossResult(result.loss + (energy.bias * 0).sqrt().sum(), result.health)


def diverged_chain(energy, result):
    raise ChainDiverged("a chain is not finite")


@pytest.mark.parametrize(
    "how", [nan_loss, huge_energy, huge_loss, infinite_gradient, diverged_chain]
)
def test_a_poisoned_step_is_rolled_back_and_training_goes_on(how, caplog):
    guard = Guard(snapshot_every=3)
    with pytest.warns(RuntimeWarning, match="step 5 refused") as warned:
        energy, log = fit(objective=Poisoned(5, how), guard=guard, schedule="constant")
    assert "tiny_training" in warned[0].filename  # it points at the call of `train`
    assert [record.getMessage() for record in caplog.records] == log.events
    assert log.steps == [1, 2, 3, 4, 5, 6]
    assert log.health["learning_rate"] == [1e-2] * 3 + [0.5e-2] * 3
    assert len(log.events) == 1 and "Back to step 3" in log.events[0]
    assert weights(energy).isfinite().all()
    # The steps before the snapshot are those of a run that met no poison.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, clean = fit(schedule="constant")
    assert log.health["loss"][:3] == clean.health["loss"][:3]
    assert log.health["loss"][3:] != clean.health["loss"][3:]


@pytest.mark.parametrize(
    ("rate", "reason"),
    [
        (1e37, "updated weights is inf"),
        (1e6, "norm of the weights from"),
        (50, "final"),
    ],
)
def test_the_last_update_is_judged_too(rate, reason):
    # One step only, so no later loss could see what it has done.
    def raise_energy(energy, batch, generator):
        return LossResult(-energy(batch).mean(), {})

    energy, guard = TinyEnergy(), Guard(max_energy=100.0, max_rollbacks=1)
    with pytest.warns(RuntimeWarning, match=reason), pytest.raises(TrainingDiverged):
        fit(energy, raise_energy, steps=1, learning_rate=rate, guard=guard)
    assert torch.equal(weights(energy), weights(TinyEnergy()))


def test_advice_after_a_divergence_fits_the_objective():
    def message(objective):
        options = {"learning_rate": 1e30, "guard": Guard(max_rollbacks=1)}
        with pytest.warns(RuntimeWarning), pytest.raises(TrainingDiverged) as caught:
            fit(TinyEnergy(), objective, **options)
        return str(caught.value)

    def blot(images, generator):
        masks = torch.zeros(len(images), 4, 4, dtype=torch.bool)
        masks[:, :2] = True
        return torch.where(masks[:, None], 0.0, images), masks

    def noise(count, generator):
        return torch.rand(count, 3, 4, 4, generator=generator)

    buffer = ReplayBuffer(16, noise, generator=torch.Generator().manual_seed(0))
    chains = PersistentContrastiveDivergence(buffer, steps=1, step_size=0.01)
    soft, fitted = (
        ContrastAndRestoration(blot, restoration=0.5, stiffness=k) for k in (10.0, None)
    )
    assert "clip_norm; for contrastive divergence also a larger pen" in message(chains)
    assert "force may be too soft" in message(soft)
    assert "clip_norm; also a smaller restoration. If" in message(fitted)
    for plain in (NoiseContrastive(blot), DenoisingScoreMatching([0.1]), mean_energy):
        assert "or a smaller clip_norm. If the loss is NaN" in message(plain)


@pytest.mark.parametrize("rate", [1.0, 1e3, 1e6, 1e12, 1e30])
@pytest.mark.parametrize("objective", [mean_energy, DenoisingScoreMatching([0.1])])
def test_no_learning_rate_leaves_broken_weights_behind(rate, objective):
    energy, limit = TinyEnergy(), 1e4
    kept = []

    def look(step, info):
        kept.append(bool(weights(info["energy"]).isfinite().all()))
        assert math.isfinite(info["health"]["loss"])

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(
                energy,
                objective,
                steps=15,
                learning_rate=rate,
                schedule="constant",
                guard=Guard(snapshot_every=2, max_energy=limit),
                callback=look,
            )
    except TrainingDiverged as error:
        assert f"{rate:.3g}" in str(error) and "learning_rate=" in str(error)
        assert len(error.log.events) == 5
    else:
        assert rate < 1e6
    assert all(kept) and weights(energy).isfinite().all()
    assert energy(IMAGES).abs().max() < limit


def test_a_quiet_stretch_does_not_make_a_usual_loss_an_explosion():
    """A loss is compared with the median of the last fifty, not of the last few."""
    log = TrainingLog()
    for step in range(1, 51):
        log.add(step, {"loss": 100.0 if step <= 40 else 0.01})
    guard = Guard(max_growth=10)
    guard.check_loss(LossResult(torch.tensor(900.0), {}), log)
    with pytest.raises(BadStep, match="usual size 100"):
        guard.check_loss(LossResult(torch.tensor(1100.0), {}), log)


def test_rollback_brings_back_the_state_of_the_objective():
    class Counting:
        count, fail = 0, True

        def __call__(self, energy, batch, generator):
            self.count += 1
            result = mean_energy(energy, batch, generator)
            if self.count == 4 and self.fail:
                self.fail = False
                return nan_loss(energy, result)
            return result

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    objective = Counting()
    with pytest.warns(RuntimeWarning):
        fit(objective=objective, guard=Guard(snapshot_every=2))
    assert objective.count == 6


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"snapshot_every": 0}, "snapshot_every"),
        ({"snapshot_every": True}, "snapshot_every"),
        ({"max_rollbacks": -1}, "max_rollbacks"),
        ({"max_rollbacks": 2.5}, "max_rollbacks"),
        ({"rate_factor": 1.0}, "rate_factor"),
        ({"rate_factor": 0.0}, "rate_factor"),
        ({"max_energy": math.nan}, "max_energy"),
        ({"max_growth": -1.0}, "max_growth"),
    ],
)
def test_a_guard_says_itself_what_it_cannot_be(options, name):
    with pytest.raises(ValueError, match=name):
        Guard(**options)


def test_without_a_guard_the_usual_one_is_taken():
    one, two = fit(learning_rate=1e-3), fit(learning_rate=1e-3, guard=Guard())
    assert torch.equal(weights(one[0]), weights(two[0])) and one[1] == two[1]


def test_dropout_is_drawn_anew_after_a_rollback():
    """The same masks would lead to the same bad step again."""
    masks = []

    class Dropping(TinyEnergy):
        def forward(self, x):
            ones = nn.functional.dropout(torch.ones(64), 0.5, self.training)
            masks.append(ones.tolist())
            return super().forward(x) * ones.mean()

    with pytest.warns(RuntimeWarning):
        fit(Dropping(), Poisoned(2, nan_loss), guard=Guard(snapshot_every=1), steps=3)
    # The second step was made twice.
    assert masks[1] != masks[2] and len({*map(tuple, masks[:4])}) == 4
