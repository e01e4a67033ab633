"""Judges of the exercises of chapter 7, training an image energy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import number
from ebmlib.guard import TrainingDiverged
from ebmlib.langevin import ChainDiverged
from ebmlib.replay import ReplayBuffer, uniform_noise


def _step(step_for) -> str:
    g = torch.Generator().manual_seed(0)
    gradient, snr, noise = 1 + 3 * torch.randn(4, 3, 8, 8, generator=g), 0.3, 0.005
    square = gradient.square().mean()
    value = number(step_for(gradient, snr, noise))
    right = float(snr * noise / square.sqrt())
    mistakes = {
        float(snr * noise / square): "the root is missing: rms = sqrt(mean square).",
        float(snr * noise / gradient.square().sum().sqrt()): (
            "take the mean of the squares over all values, not their sum."
        ),
        float(snr * square.sqrt() / noise): "solve for the step: it stands over noise.",
        float(snr / square.sqrt()): "the scale of the noise is missing.",
        float(snr * noise / gradient.abs().mean()): "rms is not the mean magnitude.",
        float(2 * (snr / square.sqrt()) ** 2): (
            "that is the step of an exact chain, whose noise is sqrt(2 step); here the "
            "noise keeps its scale."
        ),
        float(noise / square.sqrt()): "the wanted ratio, snr, is missing.",
        float(snr * noise / gradient.std()): (
            "the standard deviation subtracts the mean first; rms does not."
        ),
        float(square.sqrt() / (snr * noise)): "upside down: that is one over the step.",
    }
    for wrong, hint in mistakes.items():
        if math.isclose(value, wrong, rel_tol=1e-4):
            raise Hint(hint)
    if not math.isclose(value, right, rel_tol=1e-4):
        raise Hint(
            f"for a gradient with rms {square.sqrt():.2f} it is {right:.3e}; yours is "
            f"{value:.3e}."
        )
    return "The library's chain takes the same step."


def _sign(their_loss) -> str:
    g = torch.Generator().manual_seed(1)
    x, negatives = torch.randn(6, 2, generator=g), torch.randn(5, 2, generator=g) + 1
    weight = torch.tensor([0.7, -0.4], requires_grad=True)

    def slope(loss):
        return torch.autograd.grad(loss, weight, retain_graph=True)[0]

    def energy(z):
        return (z * weight).square().sum(1)

    loss = their_loss(lambda z: -energy(z), x, negatives)
    if not isinstance(loss, torch.Tensor):
        raise Hint(
            "return the loss as a tensor, without .item() or float: the gradient must "
            "flow from it to the network."
        )
    if loss.ndim != 0:
        raise Hint("the loss is one number: the mean over a batch is missing.")
    if not loss.requires_grad:
        raise Hint("the gradient must flow: no no_grad and no .detach() of f's values.")
    contrast = energy(x).mean() - energy(negatives).mean()
    right, got = slope(contrast), slope(loss)
    if torch.allclose(got, -right, rtol=1e-4):
        raise Hint("the other way round: f must go up on data.")
    if torch.allclose(got, slope(energy(x).sum() - energy(negatives).sum()), rtol=1e-4):
        raise Hint("means, not sums: the two batches need not have one size.")
    if torch.allclose(got, right / 2, rtol=1e-4):
        raise Hint("no factor 1/2: the difference of the two means, as it is.")
    both = slope(energy(x).mean() + energy(negatives).mean())
    if torch.allclose(got, both, rtol=1e-4) or torch.allclose(got, -both, rtol=1e-4):
        raise Hint("the signs must differ: one mean rises, the other falls.")
    if not torch.allclose(got, right, rtol=1e-4):
        if math.isclose(loss.item(), contrast.item(), rel_tol=1e-4):
            raise Hint(
                "the right value with a wrong gradient: detach the samples, if you "
                "like, but not f's values."
            )
        raise Hint("one mean for the data, one for the negatives; nothing else.")
    return "A loss for f = -E has its two means exchanged."


class Quadratic(nn.Module):
    """E(x) = |F (z - m)|^2 / 2 with z = 10 (x - 1/2), for points x in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.5, 0.5]))
        self.factor = nn.Parameter(0.7 * torch.eye(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2) -> (B,)."""
        z = 10 * (x - 0.5)
        return 0.5 * ((z - self.mean) @ self.factor.T).square().sum(1)


def _loop(learn) -> str:
    g = torch.Generator().manual_seed(5)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
    z = torch.randn(512, 2, generator=g) @ torch.linalg.cholesky(covariance).T
    z = z - z.mean(0)
    start = uniform_noise((2,))
    chains = ReplayBuffer(512, start, fresh=0.0, exact=True, generator=g)
    energy, before, first = Quadratic(), Quadratic(), chains.pixels.clone()
    try:
        answer = learn(energy, 0.5 + 0.1 * z, chains, g)
    except (ChainDiverged, TrainingDiverged) as error:
        raise Hint(
            "the chains left every bound. Lower the energy of the points and raise "
            "that of the chains, not the other way round; take the step 0.0004."
        ) from error
    if answer is None:
        return ""  # `check` says "open"
    if not isinstance(answer, Quadratic):
        raise Hint(f"return the trained energy; got {type(answer).__name__}.")
    trained: Quadratic = answer
    factor = trained.factor.detach()
    if torch.equal(factor, before.factor):
        raise Hint(
            "the weights are the initial ones. Each update needs zero_grad(), "
            "backward() and the optimizer's step()."
        )
    if not torch.isfinite(factor).all():
        raise Hint("the weights are not finite. Which mean has the minus sign?")
    precision = factor.T @ factor
    ratio = float((precision @ torch.cov(z.T)).trace() / 2)
    told = f"the learned precision is {ratio:.2f} times that of the points: "
    if 0.42 < ratio < 0.6:
        raise Hint(told + "noise of sqrt(step) has half the variance of sqrt(2 step).")
    if ratio < 0.8:
        raise Hint(told + "the chains are too narrow. Is their noise sqrt(2 step)?")
    if ratio > 1.3 and torch.equal(chains.pixels, first):
        raise Hint(
            told + "the chains of the buffer never moved. Move them by Langevin steps "
            "and write them back, so that they go on at the next update."
        )
    if ratio > 1.3:
        raise Hint(
            told + "the energy of the points must fall and that of the chains must "
            "rise. Is the loss the wrong way round?"
        )
    wanted = torch.linalg.inv(torch.cov(z.T))
    off = float((precision - wanted).norm() / wanted.norm())
    shift = float(trained.mean.detach().abs().max())
    if off > 0.2 or shift > 0.3:
        raise Hint(
            f"the relative error of the precision is {off:.2f}, wanted 0.20, and the "
            f"mean is off by {shift:.2f}, wanted 0.30: train all parameters, with a "
            "rate that falls."
        )
    return (
        f"The learned precision is {ratio:.2f} times that of the points, with a "
        f"relative error of {off:.2f}."
    )


EXERCISES = {
    "ex-07-loop": Exercise(
        _loop, "Begin with one update: sample, langevin, write, loss, step."
    ),
    "ex-07-step": Exercise(_step, "Solve the ratio for the step."),
    "ex-07-sign": Exercise(_sign, "Which mean must rise now?"),
}
