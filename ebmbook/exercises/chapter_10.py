"""Judges of the exercises of chapter 10, scores from a map."""

from __future__ import annotations

import math
from functools import partial

import torch
from scipy.stats import norm

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import real_number


def _soft(soft_maximum) -> str:
    g = torch.Generator().manual_seed(10)
    maps = torch.randn(5, 6, 7, generator=g)
    flat, beta, n = maps.flatten(1), 2.0, 42
    highest = flat.amax(1)
    right = _soft_mean(flat, beta)
    value = torch.as_tensor(soft_maximum(maps.clone(), beta))
    if value.shape != right.shape:
        raise Hint(
            f"the result should have shape (5,), one score per image, got "
            f"{tuple(value.shape)}; {_shape_slip(tuple(value.shape))}."
        )
    if not value.dtype.is_floating_point:
        raise Hint(f"the scores are {value.dtype}; they should be floating-point.")

    def close(other: torch.Tensor) -> bool:
        return torch.allclose(value.to(other), other, atol=1e-4)

    if not close(right):
        for other, hint in (
            (beta * right, "the factor 1/beta in front of the logarithm is missing."),
            (beta**2 * right, "divide the logarithm by beta; this multiplies by it."),
            (-right, "the sign of the score is reversed."),
            (
                _soft_mean(flat, -beta),
                "this is a soft minimum; check the sign in the exponent.",
            ),
            (
                -_soft_mean(flat, -beta),
                "the exponent is beta m_i, not -beta m_i; check its sign.",
            ),
            ((beta * right).exp(), "take the logarithm, and divide by beta."),
            ((beta * right).exp() / beta, "the logarithm is missing."),
            (n * (beta * right).exp(), "take the mean and its logarithm, over beta."),
            (
                _soft_mean(flat, 1.0),
                "this is the score for beta = 1; beta stands in the exponent, and "
                "1/beta before the logarithm.",
            ),
            (_soft_mean(flat, 1.0) / beta, "beta is missing in the exponent."),
            (
                _soft_mean(flat, 1 / beta),
                "this is the score for 1/beta; multiply by beta in the exponent and "
                "divide by it outside.",
            ),
            (
                (flat * beta).logsumexp(1) / n / beta,
                "1/n belongs inside the logarithm: subtract log n instead.",
            ),
            (
                right - highest,
                "the largest value, pulled out of the logarithm, must be added again.",
            ),
            (
                right - highest + highest / beta,
                "the largest value is divided by beta at the end; pull beta times it "
                "out of the logarithm.",
            ),
            (
                flat.mean(1),
                "this is the plain mean, the limit of small beta; exponentials come "
                "first, then their mean, then the logarithm.",
            ),
            (highest, "this is the maximum, the limit of large beta."),
            (
                ((beta * flat).softmax(1) * flat).sum(1),
                "this is a mean with softmax weights; the score is the logarithm of a "
                "mean of exponentials.",
            ),
            (
                flat.abs().pow(beta).mean(1).pow(1 / beta),
                "this is a mean of powers m^beta; the score has e^(beta m).",
            ),
            *(
                (
                    _soft_mean(each, beta).mean(1),
                    "this takes the logarithm along one pixel axis and a plain mean "
                    "along the other; flatten both axes first.",
                )
                for each in (maps, maps.mT)
            ),
        ):
            if close(other):
                raise Hint(hint)
        apart = value.double() - right.double()
        if apart.isfinite().all() and apart.max() - apart.min() < 1e-4:
            divisor = n * float(torch.exp(-beta * apart[0]))  # n, were it right
            raise Hint(_divisor_slip(divisor, n, beta))
        raise Hint(f"the first score should be {right[0]:.4f}, got {value[0]:.4f}.")
    large = torch.as_tensor(soft_maximum(maps.clone(), 1000.0))
    if torch.isneginf(large).any():
        raise Hint(
            "right for small beta, but for a large one every exponential of some image "
            "becomes 0; subtract the largest value of each image, not one from all."
        )
    if not torch.isfinite(large).all():
        raise Hint(
            "right for small beta, but it overflows for large ones; subtract the "
            "largest exponent first, beta times the largest value, as torch.logsumexp "
            "does."
        )
    if not torch.allclose(large.to(maps), highest, atol=0.05):
        raise Hint(
            "for beta = 1000 it should be almost the maximum, "
            f"{highest[0]:.2f} for the first image, got {large[0]:.2f}; "
            "subtract the largest exponent of each image, and nothing must be bounded "
            "or replaced."
        )
    return "One knob from the mean to the maximum."


def _soft_mean(values: torch.Tensor, beta: float) -> torch.Tensor:
    """The soft maximum over the last axis."""
    total = (beta * values).logsumexp(-1)
    return (total - math.log(values.shape[-1])) / beta


def _shape_slip(shape: tuple[int, ...]) -> str:
    """What is wrong with a result of this shape, for maps (5, 6, 7)."""
    if shape in ((5, 1), (5, 1, 1)):
        return "drop the axes of length 1"
    if shape in ((5, 6), (5, 7)):
        return "this leaves one pixel axis; sum over both"
    if shape in ((6, 7), (42,)):
        return "this is one value per pixel; sum over the pixels, not the images"
    return "sum over both pixel axes and keep the first"


def _divisor_slip(divisor: float, n: int, beta: float) -> str:
    """Why the exponentials are divided by `divisor` and not by the pixels `n`."""

    def close(other: float) -> bool:
        return math.isclose(divisor, other, rel_tol=1e-3)

    if close(1):
        return "this is the sum of the exponentials; the score has their mean."
    if close(1 / n):
        return "log n is added; a mean divides by n, so subtract it."
    if close(n**beta):
        return "log n must be divided by beta too: 1/beta stands before it all."
    if close(math.exp(math.log10(n))):
        return "this subtracts log10 of n; take the natural logarithm, math.log."
    if 1.5 < divisor < 1e6 and close(round(divisor)):
        return (
            f"the sum of the exponentials is divided by {divisor:.0f}; n counts the "
            f"pixels of one image, height times width, here {n}."
        )
    return (
        "right up to a constant: subtract log n before you divide by beta, with the "
        f"number of pixels of one image, here n = {n}."
    )


def _shift(needed_shift) -> str:
    for n, k, target in ((4096, 50, 0.9), (1024, 7, 0.75)):
        value = real_number(
            partial(needed_shift, n, k, target),
            "this is not a real number, as after the root of a negative one; "
            "norm.ppf(target) is positive here, and so is the root u that you need.",
        )
        q = norm.ppf(target)
        u = _root(q, n)
        right = math.sqrt(u / k)
        if math.isclose(value, right, rel_tol=1e-4):
            continue
        for other, hint in (
            (-right, "the shift is positive; take the positive root of u / k."),
            (u / k, "this is delta squared; take the root."),
            (u, "this is u = k delta^2; divide it by k and take the root."),
            (math.sqrt(u), "this is the root of u = k delta^2; divide u by k first."),
            (math.sqrt(u) / k, "k belongs under the root: delta^2 is u / k."),
            (math.sqrt(u * k), "u is k delta^2, so divide by k, do not multiply."),
            (math.sqrt(k / u), "this is upside down: delta^2 is u / k, not k / u."),
            (math.sqrt(_root(q, k) / n), "n and k are exchanged."),
            (
                math.sqrt(2 * q * math.sqrt(n) / k),
                "the variance of the defect itself, 4 k delta^2, is missing.",
            ),
            (
                math.sqrt(q * math.sqrt(2 * n) / k),
                "this has the variance of a normal image only, 2n; that of the "
                "defective one, 2n + 4 k delta^2, is added.",
            ),
            (
                math.sqrt((2 * q**2 + q * math.sqrt(4 * q**2 + 2 * n)) / k),
                "this has the variance of the defective image only; that of a normal "
                "one, 2n, is added.",
            ),
            (
                math.sqrt((q**2 + q * math.sqrt(q**2 + 4 * n)) / 2 / k),
                "the factor 4 under the root of the equation is lost.",
            ),
            (
                math.sqrt(2 * u / k),
                "u is twice too large: solving a quadratic equation divides by 2.",
            ),
            (
                math.sqrt((2 * q * math.sqrt(q**2 + n) - 2 * q**2) / k),
                "this is the negative root of the quadratic without its sign; take "
                "the positive one.",
            ),
            (
                math.sqrt((2 * q**2 + 2 * q * math.sqrt(n)) / k),
                "u also stands on the right side, 4 q^2 (n + u): the inner root is "
                "that of q^2 + n.",
            ),
            (
                q * math.sqrt(2 * n) / k,
                "this is the answer for the mean, not for the l2 norm.",
            ),
            (
                math.sqrt(_root(target, n) / k),
                "q is norm.ppf(target), not the target itself.",
            ),
            (
                math.sqrt(_root(norm.cdf(target), n) / k),
                "q is norm.ppf(target), the inverse of norm.cdf.",
            ),
            (
                math.sqrt(_root(norm.pdf(target), n) / k),
                "q is norm.ppf(target); norm.pdf is the density.",
            ),
            (
                math.sqrt(_root(norm.ppf((1 + target) / 2), n) / k),
                "q is norm.ppf(target), not norm.ppf((1 + target) / 2).",
            ),
            (
                math.sqrt(_root(norm.ppf(0.9), n) / k),
                "this is the answer for AUROC 0.9; compute q from target.",
            ),
            (
                math.sqrt(_root(q, 4096) / k),
                "this is the answer for 4096 pixels; use n, not a fixed number.",
            ),
            (
                math.sqrt(_root(norm.ppf(0.9), 4096) / k),
                "this is the answer for AUROC 0.9 and 4096 pixels; use target and n.",
            ),
        ):
            if math.isclose(value, other, rel_tol=1e-5):
                raise Hint(hint)
        if abs(value - right) < 0.03:
            raise Hint(
                f"near: for n = {n}, k = {k}, target {target} it should be "
                f"{right:.5f}, got {value:.5f}. If you search for the root, lower the "
                "tolerance (xtol); if you use a formula, look at its small terms."
            )
        raise Hint(
            f"for n = {n}, k = {k}, target {target} it should be "
            f"{right:.3f}, got {value:.3f}."
        )
    return "A defect of four times the pixels may be half as strong."


def _root(q: float, n: int) -> float:
    """The positive root u of u^2 = 4 q^2 (n + u), for q > 0."""
    return 2 * q**2 + 2 * q * math.sqrt(q**2 + n)


EXERCISES = {
    "ex-10-soft": Exercise(
        _soft, "Begin with torch.logsumexp over the flattened pixels."
    ),
    "ex-10-shift": Exercise(
        _shift, "Put u = k delta^2; squaring gives a quadratic equation for u."
    ),
}
