"""Judges of the exercises of chapter 9, localization with gradients."""

from __future__ import annotations

import torch

from ebmlib.energy import GaussianEnergy, input_gradient
from ebmlib.exercises import Exercise, Hint


def _slope(slope_along) -> str:
    g = torch.Generator().manual_seed(0)
    x, d = torch.rand(2, 4, 6, generator=g, dtype=torch.float64)
    energy = GaussianEnergy(torch.zeros(6), 0.5 * torch.eye(6))
    h = 1e-2
    truth = (input_gradient(energy, x) * d).sum(1)  # (4,)
    value = torch.as_tensor(slope_along(energy, x, d, h)).double()
    if value.shape != (4,):
        raise Hint(
            f"one number per image: expected shape (4,), got {tuple(value.shape)}."
        )
    for wrong, hint in (
        (2 * truth, "twice too large: the two points are 2 h apart."),
        (-truth, "the sign is wrong: forward minus backward."),
        (2 * h * truth, "divide the difference of the energies by 2 h."),
        (truth / d.norm(dim=1), "d is not normalized here: keep its length."),
    ):
        if torch.allclose(value, wrong, rtol=1e-6):
            raise Hint(hint)
    bend = h * d.square().sum(1)  # h/2 times d^T (Hessian) d, and the Hessian is 2
    if torch.allclose((value - truth).abs(), bend, rtol=1e-6):
        raise Hint("a one-sided difference is wrong at order h; use both sides.")
    if not torch.allclose(value, truth, rtol=1e-6):
        raise Hint(
            f"the first image should give {truth[0]:.4f}, got {value[0]:.4f}; "
            "use E(x + h d) and E(x - h d)."
        )

    def quartic(images):
        return images.pow(4).sum(1)

    exact = (4 * x.pow(3) * d).sum(1)
    for step in (0.5, 0.1):  # so long that the step shows
        right = exact + 4 * step**2 * (x * d.pow(3)).sum(1)
        value = torch.as_tensor(slope_along(quartic, x, d, step)).double()
        if torch.allclose(value, exact, rtol=1e-3):
            raise Hint("this is the exact slope; without autograd, with the given h.")
        if not torch.allclose(value, right, rtol=1e-6):
            raise Hint(
                f"on sum x^4 the step is not h = {step}; use the h you are given."
            )
    return "Two energies give one slope; autograd gives all of them in one pass."


def _repair(repair) -> str:
    g = torch.Generator().manual_seed(1)
    kappa = 4.0
    x, m = 0.3 + 0.4 * torch.rand(2, 3, 1, 5, 5, generator=g)
    untouched = x.clone()

    def spring(image):
        return 0.5 * kappa * (image - m).square().sum((1, 2, 3))

    once = repair(spring, x, kappa, 1)
    if not isinstance(once, torch.Tensor) or once.shape != x.shape:
        raise Hint(f"return the images, shape {tuple(x.shape)}.")
    if not torch.equal(x, untouched):
        raise Hint("your function changed its input; work on a new tensor.")
    for wrong, hint in (
        (x, "the images came back unchanged: keep the result of the step."),
        (2 * x - m, "this goes up the energy: subtract the gradient."),
        (x - kappa * (x - m), "the step is 1 / kappa: divide the gradient by it."),
        (x - kappa**2 * (x - m), "the step is 1 / kappa: divide, do not multiply."),
    ):
        if torch.allclose(once, wrong.clamp(0, 1), atol=1e-4):
            raise Hint(hint)
    if not torch.allclose(once, m, atol=1e-4):
        raise Hint("one step down a spring must land on its rest position exactly.")
    thrice = repair(spring, x, 2 * kappa, 3)  # half a step each: an eighth is left
    if torch.allclose(thrice, m + (x - m) / 2, atol=1e-4):
        raise Hint("only one step was taken: use `steps`, and go on from the result.")
    if not torch.allclose(thrice, m + (x - m) / 8, atol=1e-4):
        raise Hint("one step is right, three are not: take the gradient anew.")
    m = m + 0.6  # the rest position is beyond white now
    if repair(spring, x, kappa, 1).max() > 1:
        raise Hint("pixels left [0, 1]: clamp after each step.")
    return "Downhill by gradient / kappa undoes what a spring did."


EXERCISES = {
    "ex-09-difference": Exercise(
        _slope, "Evaluate the energy a little ahead, x + h d, and a little behind."
    ),
    "ex-09-repair": Exercise(
        _repair, "ebmlib.energy.input_gradient gives the slope; step against it."
    ),
}
