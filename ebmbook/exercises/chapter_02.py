"""Judges of the exercises of chapter 2, energies in one and two dimensions."""

from __future__ import annotations

import math

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import number, pair, reject_near_miss


def _experts(two_experts) -> str:
    for m1, s1, m2, s2 in ((0.0, 1.0, 3.0, 0.5), (-1.0, 2.0, 1.0, 3.0)):
        answer = two_experts(m1, s1, m2, s2)
        mean, std = map(number, pair(answer, "the mean and the standard deviation"))
        a, b = 1 / s1**2, 1 / s2**2
        right_mean, right_std = (a * m1 + b * m2) / (a + b), (a + b) ** -0.5
        _expert_mean(mean, right_mean, m1, s1, m2, s2)
        if _same(std, right_std**2):
            raise Hint("the mean is right; this is the variance, take its square root.")
        if _same(std, right_std**-2):
            raise Hint("the mean is right; this is the precision 1/s^2, not s.")
        if _same(std, math.hypot(s1, s2)):
            raise Hint(
                "variances add when random variables are added. Here energies are "
                "added, so precisions 1/s^2 add: the result is narrower."
            )
        if not _same(std, right_std):
            raise Hint(
                f"the mean is right; for s1 = {s1:g}, s2 = {s2:g} the standard "
                f"deviation should be {right_std:.4f}, got {std:.4f}."
            )
    return "Two experts together are surer than either, whatever they say."


def _expert_mean(mean, right, m1, s1, m2, s2) -> None:
    def weighted(a, b):
        return (a * m1 + b * m2) / (a + b)

    if _same(mean, weighted(1, 1)):
        raise Hint("the plain average: weigh the means, the sharper expert pulls more.")
    if _same(mean, weighted(s1**2, s2**2)) or _same(mean, weighted(s1, s2)):
        raise Hint("the wider expert pulls harder here; weigh by 1/s^2, not by s^2.")
    if _same(mean, weighted(1 / s1, 1 / s2)):
        raise Hint("the weights are 1/s^2, not 1/s: a square is missing.")
    if _same(mean, m1 / s1**2 + m2 / s2**2):
        raise Hint("divide the mean by the sum of the weights.")
    if not _same(mean, right):
        raise Hint(
            f"for N({m1:g}, {s1:g}^2) and N({m2:g}, {s2:g}^2) the mean should be "
            f"{right:.4f}, got {mean:.4f}; complete the square."
        )


def _samples(samples_needed) -> str:
    for d, tau, error in ((10, 1.5, 0.1), (100, 1.5, 0.1), (20, 0.9, 0.01)):
        value = number(samples_needed(d, tau, error))
        rho = tau**2 / math.sqrt(2 * tau**2 - 1)
        exact = (rho**d - 1) / error**2
        if math.isclose(value, math.ceil(exact), rel_tol=1e-9):
            continue
        # In many dimensions the 1 of rho^d - 1 is as small as a rounding error.
        reject_near_miss(value, math.ceil(exact), 1e-9, within=1e-4)
        _samples_slips(value, d, tau, error, rho, exact)
        raise Hint(
            f"for d = {d}, tau = {tau:g}, error = {error:g} it is "
            f"{exact:.1f} before rounding up, got {value:.1f}."
        )
    try:
        value = number(samples_needed(5, 0.6, 0.1))
    except (ArithmeticError, TypeError, ValueError):
        value = math.nan  # the root of a negative number
    if value != math.inf:
        raise Hint(
            "right for tau^2 > 1/2; for a narrower proposal the variance is infinite: "
            "return math.inf."
        )
    return "The price per dimension is raised to the power d."


def _samples_slips(value, d, tau, error, rho, exact) -> None:
    if _same(value, math.ceil(rho**d / error**2)):
        raise Hint("the variance is rho^d - 1: the square of the mean is missing.")
    if _same(value, math.ceil((rho**d - 1) / error)):
        raise Hint("the variance falls like 1/n, but its root like 1/sqrt(n).")
    if _same(value, math.ceil(d * (rho - 1) / error**2)) or _same(
        value, math.ceil((rho - 1) / error**2)
    ):
        raise Hint("dimensions multiply, they do not add: rho to the power d.")
    if tau > 0.5 and _same(
        value, math.ceil(((tau / math.sqrt(2 * tau - 1)) ** d - 1) / error**2)
    ):
        raise Hint("tau is a standard deviation; rho contains tau^2.")
    if value == math.floor(exact):
        raise Hint("one sample too few: round up.")


def _same(value: float, other: float) -> bool:
    return math.isclose(value, other, rel_tol=1e-6, abs_tol=1e-9)


EXERCISES = {
    "ex-02-experts": Exercise(
        _experts, "Begin with the precisions 1/s1^2 and 1/s2^2; they add."
    ),
    "ex-02-samples": Exercise(
        _samples, "Compute rho for one dimension; then solve the variance for n."
    ),
}
