"""Judges of the exercises of chapter 9, localization with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import ask, reject_near_miss, tensor
from ebmlib.energy import input_gradient
from ebmlib.toy import GaussianEnergy


def _slope(slope_along) -> str:
    g = torch.Generator().manual_seed(0)
    x, d = torch.rand(2, 4, 6, generator=g, dtype=torch.float64)
    energy = GaussianEnergy(torch.zeros(6), 0.5 * torch.eye(6))
    h = 1e-2
    truth = (input_gradient(energy, x) * d).sum(1)  # (4,)
    value = torch.as_tensor(ask(slope_along, energy, x, d, h)).detach().double()
    if value.shape != (4,):
        raise Hint(
            f"one number per image: expected shape (4,), got {tuple(value.shape)}."
        )
    for wrong, hint in (
        (2 * truth, "twice too large: the two points are 2 h apart."),
        (-truth, "the sign is wrong: forward minus backward."),
        (h**2 * truth, "/ 2 * h multiplies by h; write / (2 * h)."),
        (2 * h * truth, "divide the difference of the energies by 2 h."),
        (truth / d.norm(dim=1), "d is not normalized here: keep its length."),
        (
            truth / d.norm(),
            "d is divided by the length of the whole batch: keep the length of each d.",
        ),
    ):
        if torch.allclose(value, wrong, rtol=1e-6):
            raise Hint(hint)
    bend = h * d.square().sum(1)  # h/2 times d^T (Hessian) d, and the Hessian is 2
    if torch.allclose((value - truth).abs(), bend, rtol=1e-6):
        raise Hint("a one-sided difference is wrong at order h; use both sides.")
    if not torch.allclose(value, truth, rtol=1e-6):
        reject_near_miss(value, truth, 1e-6)
        raise Hint(
            f"the first image should give {truth[0]:.4f}, got {value[0]:.4f}; "
            "use E(x + h d) and E(x - h d)."
        )

    def quartic(images):
        return images.pow(4).sum(1)

    exact = (4 * x.pow(3) * d).sum(1)
    for step in (0.5, 0.1):  # so long that the step shows
        right = exact + 4 * step**2 * (x * d.pow(3)).sum(1)
        along_pixels = exact + 4 * step**2 * (x * d).sum(1)
        value = torch.as_tensor(ask(slope_along, quartic, x, d, step)).double()
        if torch.allclose(value, exact, rtol=1e-3):
            raise Hint("this is the exact slope; without autograd, with the given h.")
        if torch.allclose(value, along_pixels, rtol=1e-6):
            raise Hint("these are steps along each pixel; step along d itself.")
        if not torch.allclose(value, right, rtol=1e-6):
            raise Hint(
                f"on sum x^4 the step is not h = {step}; use the h you are given."
            )
    return "Two energies give one slope; autograd gives all of them in one pass."


def _repair(repair) -> str:
    g = torch.Generator().manual_seed(1)
    kappa = 4.0
    x, m = 0.3 + 0.4 * torch.rand(2, 3, 1, 5, 5, generator=g)

    def repaired(center, divisor, steps):
        def spring(image):
            return 0.5 * kappa * (image - center).square().sum((1, 2, 3))

        return tensor(ask(repair, spring, x, divisor, steps), x, "the images")

    once = repaired(m, kappa, 1)
    if torch.allclose(once, x) and not torch.allclose(repaired(m, kappa, 2), x):
        raise Hint("one step too few: range(steps), not range(1, steps).")
    for wrong, hint in (
        (x, "the images came back unchanged: keep the result of the step."),
        (2 * x - m, "this goes up the energy: subtract the gradient."),
        (
            x - (x - m) / len(x),
            "sum the energies before backward(), not their mean: each image has a "
            "gradient of its own.",
        ),
        (x - kappa * (x - m), "the step is 1 / kappa: divide the gradient by it."),
        (x - kappa**2 * (x - m), "the step is 1 / kappa: divide, do not multiply."),
    ):
        if torch.allclose(once, wrong.clamp(0, 1), atol=1e-4):
            raise Hint(hint)
    if not torch.allclose(once, m, atol=1e-4):
        raise Hint("one step down a spring must land on its rest position exactly.")
    _three_steps(repaired(m, 2 * kappa, 3), x, m)
    if repaired(m + 0.6, kappa, 1).max() > 1 or repaired(m - 0.9, kappa, 1).min() < 0:
        raise Hint("pixels left [0, 1]: clamp after each step, at 0 and at 1.")
    white, right = torch.full_like(m, 0.95), x
    for _ in range(2):  # steps too long by 0.8, so that the first one leaves [0, 1]
        right = (white - 0.8 * (right - white)).clamp(0, 1)
    if not torch.allclose(repaired(white, kappa / 1.8, 2), right, atol=1e-4):
        raise Hint("clamp after *each* step, not only after the last one.")
    return "Downhill by gradient / kappa undoes what a spring did."


def _three_steps(thrice: Tensor, x: Tensor, m: Tensor) -> None:
    """Hints for three steps of half the way each: an eighth of the way is left."""

    def is_left(share: float) -> bool:
        return torch.allclose(thrice, m + share * (x - m), atol=1e-4)

    taken = next((n for n in range(1, 20) if is_left(0.5**n)), None)
    if taken == 3:
        return
    if taken == 1:
        raise Hint("only one step was taken: use `steps`, and go on from the result.")
    if taken:
        few = "few" if taken < 3 else "many"
        raise Hint(f"for steps = 3 these are too {few}: range(steps).")
    if is_left((5 / 6) ** 3):
        raise Hint("each step is 1 / kappa; do not divide it by `steps`, too.")
    if is_left(-1 / 2):
        raise Hint("one step is right, three are not: take the gradient anew.")
    if is_left(-7 / 8):  # the gradients of all steps add up
        raise Hint(
            "one step is right, three are not: the gradients of all steps add up. Each "
            "call of backward() adds to x.grad; begin each step with a fresh one."
        )
    raise Hint("one step is right, three are not: each begins where the last ended.")


EXERCISES = {
    "ex-09-difference": Exercise(
        _slope, "Evaluate the energy a little ahead, x + h d, and a little behind."
    ),
    "ex-09-repair": Exercise(
        _repair, "ebmlib.energy.input_gradient gives the slope; step against it."
    ),
}
