"""Judges of the exercises of chapter 7, training an image energy."""

from __future__ import annotations

import math

import torch

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import number


def _step(step_for) -> str:
    g = torch.Generator().manual_seed(0)
    gradient, snr, noise = 3 * torch.randn(4, 3, 8, 8, generator=g), 0.3, 0.005
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
    }
    for wrong, hint in mistakes.items():
        if math.isclose(value, wrong, rel_tol=1e-4):
            raise Hint(hint)
    if not math.isclose(value, right, rel_tol=1e-4):
        raise Hint(f"for a gradient with rms {square.sqrt():.2f} it is {right:.2e}.")
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


EXERCISES = {
    "ex-07-step": Exercise(_step, "Solve the ratio for the step."),
    "ex-07-sign": Exercise(_sign, "Which mean must rise now?"),
}
