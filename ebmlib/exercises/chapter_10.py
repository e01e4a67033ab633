"""Judges of the exercises of chapter 10, scores from a map."""

from __future__ import annotations

import math

import torch
from scipy.stats import norm

from ebmlib.exercises import Exercise, Hint


def _soft(soft_maximum) -> str:
    g = torch.Generator().manual_seed(10)
    maps = torch.randn(5, 6, 7, generator=g)
    beta = 2.0
    total = (beta * maps.flatten(1)).logsumexp(1)
    right = (total - math.log(42)) / beta
    value = torch.as_tensor(soft_maximum(maps, beta))
    if value.shape != right.shape:
        raise Hint(
            f"the result should have shape (5,), one score per image, got "
            f"{tuple(value.shape)}; sum over both pixel axes and keep the first."
        )

    def close(other: torch.Tensor) -> bool:
        return torch.allclose(value.to(other), other, atol=1e-4)

    if close(total / beta):
        raise Hint("this is the sum of the exponentials; the score has their mean.")
    if close(beta * right):
        raise Hint("the factor 1/beta in front of the logarithm is missing.")
    if close(right.mul(beta).exp()):
        raise Hint("take the logarithm, and divide by beta.")
    if close((math.log(42) - (-beta * maps.flatten(1)).logsumexp(1)) / beta):
        raise Hint("this is a soft minimum; check the sign in the exponent.")
    if not close(right):
        raise Hint(f"the first score should be {right[0]:.4f}, got {value[0]:.4f}.")
    large = torch.as_tensor(soft_maximum(maps, 1000.0))
    if not torch.isfinite(large).all():
        raise Hint(
            "right for small beta, but it overflows for large ones; subtract the "
            "largest value first, as torch.logsumexp does."
        )
    if not torch.allclose(large.to(maps), maps.amax((1, 2)), atol=0.05):
        raise Hint("for beta = 1000 it should be almost the maximum.")
    return "One knob from the mean to the maximum."


def _shift(needed_shift) -> str:
    for n, k, target in ((4096, 50, 0.9), (1024, 7, 0.75)):
        value = float(needed_shift(n, k, target))
        q = norm.ppf(target)

        def close(other: float, value: float = value) -> bool:
            return math.isclose(value, other, rel_tol=1e-4)

        u = 2 * q**2 + 2 * q * math.sqrt(q**2 + n)
        if close(u / k):
            raise Hint("this is delta squared; take the root.")
        if close(math.sqrt(u)):
            raise Hint("this is the root of u = k delta^2; divide u by k first.")
        if close(math.sqrt(2 * q * math.sqrt(n) / k)):
            raise Hint("the variance of the defect itself, 4 k delta^2, is missing.")
        if close(q * math.sqrt(2 * n) / k):
            raise Hint("this is the answer for the mean, not for the l2 norm.")
        wrong = 2 * target**2 + 2 * target * math.sqrt(target**2 + n)
        if close(math.sqrt(wrong / k)):
            raise Hint("q is norm.ppf(target), not the target itself.")
        if not close(math.sqrt(u / k)):
            raise Hint(
                f"for n = {n}, k = {k}, target {target} it should be "
                f"{math.sqrt(u / k):.3f}, got {value:.3f}."
            )
    return "A defect of four times the pixels may be half as strong."


EXERCISES = {
    "ex-10-soft": Exercise(
        _soft, "Begin with torch.logsumexp over the flattened pixels."
    ),
    "ex-10-shift": Exercise(
        _shift, "Put u = k delta^2; squaring gives a quadratic equation for u."
    ),
}
