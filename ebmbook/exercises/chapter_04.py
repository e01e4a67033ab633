"""Judges of the exercises of chapter 4, contrastive divergence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import brentq

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import ask, number, reject_near_miss

# --- the gradient of the quartic family ---------------------------------------------


def _moments(likelihood_gradient) -> str:
    g = torch.Generator().manual_seed(3)
    data = 1.0 + 0.5 * torch.randn(400, generator=g, dtype=torch.float64)
    samples = 1.5 * torch.randn(300, generator=g, dtype=torch.float64)
    answer = torch.as_tensor(ask(likelihood_gradient, data, samples))
    answer = answer.detach().double()
    if answer.shape != (2,):
        raise Hint(
            "return one number for each parameter, shape (2,), averaged over the "
            f"points; got shape {tuple(answer.shape)}."
        )

    def statistics(x):
        return torch.stack(((x**2 / 2).mean(), (x**4 / 4).mean()))

    def slopes(x):
        return torch.stack((x.mean(), (x**3).mean()))

    down, up = statistics(data), statistics(samples)
    right = down - up

    def equals(other):
        return torch.allclose(answer, other, rtol=1e-4)

    if equals(right):
        return "Data down, samples up: two moments are all that this family learns."
    if equals(-right):
        raise Hint("the sign: data minus samples. This climbs the loss.")
    if equals(down):
        raise Hint("the second term is missing: the gradient of log Z.")
    if equals(down + up):
        raise Hint("grad log Z is *minus* the mean over the samples.")
    if equals(slopes(data) - slopes(samples)):
        raise Hint("this is dE/dx; the parameters' gradient is (x^2 / 2, x^4 / 4).")
    if equals(right * torch.tensor([1.0, 4.0])):
        raise Hint("the second statistic is x^4 / 4; its 1 / 4 is missing.")
    if equals(right * torch.tensor([2.0, 1.0])):
        raise Hint("the first statistic is x^2 / 2; its 1 / 2 is missing.")
    if equals(right * torch.tensor([1.0, 2.0])):
        raise Hint("the second statistic is x^4 / 4, not x^4 / 2.")
    if equals(right * torch.tensor([2.0, 4.0])):
        raise Hint("the statistics are x^2 / 2 and x^4 / 4; the factors are missing.")
    if equals(400 * down - 300 * up):
        raise Hint("means, not sums: each over its own number of points.")
    reject_near_miss(answer, right, 1e-4)
    wanted = ", ".join(f"{v:.3f}" for v in right.tolist())
    got = ", ".join(f"{v:.3f}" for v in answer.tolist())
    raise Hint(f"on the test points it should be ({wanted}), got ({got}).")


# --- where contrastive divergence stops ---------------------------------------------

# Each term of the sum over axes: the reach of k steps, and the variance they lead to.
Reach = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # of c, a and k


def _squared(c, a, k):
    return 1 - (1 - c) ** (2 * k)


def _slips() -> dict[str, tuple[Reach, float]]:
    """What goes wrong -> (the reach, the factor of the chain's variance)."""
    return {
        "each axis has its own reach, 1 - rho^(2k); this is where k is infinite.": (
            lambda c, a, k: np.ones_like(c),
            1.0,
        ),
        "variances shrink by rho squared at each step: rho^(2k), not rho^k.": (
            lambda c, a, k: 1 - (1 - c) ** k,
            1.0,
        ),
        "dE/dlambda is the sum of a_i x_i^2 / 2; the factor a_i is missing.": (
            lambda c, a, k: _squared(c, a, k) / a,
            1.0,
        ),
        "the noise of a step has the variance 2 step_size, not step_size.": (
            _squared,
            0.5,
        ),
    }


def _root(reach, factor, k, step_size, a, variances, finite=True) -> float:
    a, s2 = np.asarray(a, float), np.asarray(variances, float)

    def gradient(precision):
        c = step_size * precision * a
        v = factor / (precision * a * (1 - finite * c / 2))
        return float((a * reach(c, a, k) * (s2 - v)).sum())

    return brentq(gradient, 1e-9, 1 / (step_size * a.max()))


def _asked(cd_precision, case) -> float:
    try:
        return number(cd_precision(*case))
    except ValueError as error:
        if "different signs" not in str(error):
            raise
        raise Hint(
            "brentq found no change of sign. Search between nearly 0 and "
            "1 / (step max a), where the chain is stable. If you do, look at v_i: "
            "about 1 / (lambda a_i), a little more for a finite step."
        ) from error


def _stop(cd_precision) -> str:
    cases = (
        (1, 0.1, [1.0, 9.0], [1.0, 1.0]),
        (5, 0.05, [1.0, 4.0, 2.0], [2.0, 1.0, 0.5]),
    )
    for case in cases:
        k, step_size, a, variances = case
        value = _asked(cd_precision, case)
        right = _root(_squared, 1.0, *case)

        def near(other, value=value):
            return abs(value / other - 1) < 1e-4

        if near(right):
            continue
        for hint, (reach, factor) in _slips().items():
            if near(_root(reach, factor, *case)):
                raise Hint(hint)
        if near(_root(_squared, 1.0, 1, *case[1:])):
            raise Hint("k is ignored: the reach of k steps is 1 - rho^(2k).")
        if near(_root(_squared, 1.0, *case, finite=False)):
            raise Hint("v is the variance of the *chain*: divide by 1 - step a l / 2.")
        if near(_root(_squared, 1.0, k, step_size, a, [1.0] * len(a))):
            raise Hint("the variances of the data are ignored; where do they enter?")
        products = np.multiply(a, variances)
        if near(len(a) / products.sum()):
            raise Hint("this is maximum likelihood; where do the k steps come in?")
        if near(sum(a) / np.multiply(a, products).sum()):
            raise Hint("this is score matching, the limit of tiny steps.")
        reject_near_miss(value, right, 1e-4)
        raise Hint(
            f"for k = {k}, step_size = {step_size:g}, a = {a} and variances = "
            f"{variances} it is {right:.4f}, got {value:.4f}."
        )
    return "From score matching to maximum likelihood, as the chains grow longer."


EXERCISES = {
    "ex-04-moments": Exercise(
        _moments, "The gradient of the energy is (x^2 / 2, x^4 / 4); average it twice."
    ),
    "ex-04-stop": Exercise(
        _stop, "Write the sum as a function of the precision; brentq finds its zero."
    ),
}
