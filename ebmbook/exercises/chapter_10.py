"""Judges of the exercises of chapter 10, scores from a map."""

from __future__ import annotations

import math

import numpy as np
import torch

from ebmbook.exercises import Exercise, Hint


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
    return "One parameter leads from the mean to the maximum."


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


def _paired(paired_gains) -> str:
    """Replicates of a difference of two AUROCs, on 12 anomalous and 8 normal images."""
    labels = np.arange(20) < 12
    rng = np.random.default_rng(10)
    energy = rng.standard_normal(20) + 0.8 * labels
    score = energy + 0.5 * rng.standard_normal(20) + 0.4 * labels
    n = 1500

    def drawn(one, two, which, count=n, seed=1):
        generator = np.random.default_rng(seed)
        arrays = tuple(np.array(a) for a in (one, two, which))
        found = np.asarray(paired_gains(*arrays, count, generator), dtype=float)
        if not all(map(np.array_equal, arrays, (one, two, which))):
            raise Hint("your function changed its input; work on a copy.")
        return found

    value = drawn(score, energy, labels)
    if value.shape in ((), (2,)):
        raise Hint("return all n replicates, not their mean or an interval.")
    if value.shape != (n,):
        raise Hint(f"the result should have shape ({n},), got {value.shape}.")
    if not np.isfinite(value).all():
        raise Hint(
            "some replicates are not finite: each class must keep its number of images."
        )
    order = _wins(score, labels) - _wins(energy, labels)  # (12, 8)
    right = order.mean()
    if np.ptp(value) < 1e-9:
        raise Hint(
            "all replicates are equal: draw the images *with* replacement, anew for "
            "each replicate."
        )
    if np.abs(drawn(2 * energy + 1, energy, labels, 20)).max() > 1e-9:
        raise Hint(
            "2 E + 1 orders all images as E does, so its gain is 0 in every replicate; "
            "here it is not. Use the *same* images for both scores."
        )
    rows, columns = (_counts(k, 20_000) for k in order.shape)
    spread = _weighted(order, rows, columns).std()
    tolerance = 5 * spread / math.sqrt(n)
    if abs(value.mean() - right) > tolerance:
        if abs(value.mean() + right) < tolerance:
            raise Hint("the sign is reversed: AUROC of the map minus AUROC of E.")
        raise Hint(
            f"the replicates should lie around the gain {right:+.3f}, their mean is "
            f"{value.mean():+.3f}; draw every image with the same probability."
        )
    every, some = np.ones((1, 12)), np.ones((1, 8))
    for wrong, hint in (
        (_weighted(order, rows, some), "only the anomalous images are drawn anew"),
        (_weighted(order, every, columns), "only the normal images are drawn anew"),
    ):
        if abs(value.std() / wrong.std() - 1) < 0.08 < abs(spread / wrong.std() - 1):
            raise Hint(f"{hint}; the others change from test set to test set, too.")
    if abs(value.std() / spread - 1) > 0.12:
        raise Hint(
            f"the spread of the replicates should be {spread:.3f}, got "
            f"{value.std():.3f}; draw 12 anomalous and 8 normal images, as many as "
            "there are."
        )
    again = drawn(score, energy, labels, 20), drawn(score, energy, labels, 20)
    if not np.array_equal(*again):
        raise Hint("the same rng should give the same replicates; draw from `rng`.")
    if np.array_equal(again[0], drawn(score, energy, labels, 20, seed=2)):
        raise Hint("another rng gives the same replicates; draw from the one given.")
    few = np.arange(20) < 18  # two normal images: a plain draw misses them at times
    try:
        kept = drawn(score, energy, few, 200)
    except ValueError as error:
        raise Hint(
            "with two normal images some replicates have none. Draw from each class by "
            "itself, so that each keeps its number."
        ) from error
    if not np.isfinite(kept).all():
        raise Hint("each class must keep its number of images in every replicate.")
    return "Only the pairs on which the two scores disagree carry noise."


def _wins(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(anomalous, normal): 1 where the anomalous image scores higher, 1/2 for a tie."""
    return 0.5 * (1 + np.sign(scores[labels][:, None] - scores[~labels]))


def _counts(k: int, n: int) -> np.ndarray:
    """How often each of `k` images is drawn, in `n` resamples: (n, k)."""
    return np.random.default_rng(k).multinomial(k, np.full(k, 1 / k), n)


def _weighted(order: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The mean of `order` in resamples of its rows and columns."""
    return ((rows @ order) * columns).sum(1) / order.size


EXERCISES = {
    "ex-10-soft": Exercise(
        _soft, "Begin with torch.logsumexp over the flattened pixels."
    ),
    "ex-10-paired": Exercise(
        _paired, "Begin with the indices of one replicate: rng.choice in each class."
    ),
}
