"""Judges of the exercises of chapter 11, measuring honestly."""

from __future__ import annotations

import math

import numpy as np

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import number, reject_near_miss


def _recall(recall_at) -> str:
    rng = np.random.default_rng(11)
    mask = np.zeros((12, 12), dtype=bool)
    mask[3:9, 4:9] = True
    normal = rng.normal(size=2000)
    image = rng.normal(size=mask.shape) + 1.5 * mask
    wrong = {
        "this counts the defective pixels that are missed.": lambda s, z: (
            1 - _found(s[mask], normal, z).mean()
        ),
        "average over the defective pixels alone, not over the whole image.": (
            lambda s, z: _found(s, normal, z).mean()
        ),
        "the false positive rate is taken on the normal images, not beside the "
        "defect.": lambda s, z: _found(s[mask], s[~mask], z).mean(),
        "this is precision: divide by the defective pixels, not by the flagged.": (
            lambda s, z: _found(s[mask], normal, z).sum() / _found(s, normal, z).sum()
        ),
        "the rate is a share of the normal pixels; you used the other tail.": (
            lambda s, z: _found(s[mask], normal, 1 - z).mean()
        ),
    }
    rates = (0.01, 0.1, 0.3, 0.6)
    right = [_found(image[mask], normal, rate).mean() for rate in rates]
    values = [number(recall_at(image, mask, normal, rate)) for rate in rates]
    if not np.allclose(values, right, rtol=0, atol=1e-6):
        for hint, answer in wrong.items():  # at all rates, as one may fit by chance
            slip = [answer(image, rate) for rate in rates]
            if np.allclose(values, slip, rtol=0, atol=1e-6):
                raise Hint(hint)
        reject_near_miss(values, right, 1e-6)
        raise Hint(
            f"at the rates {rates} it should be {np.round(right, 3)}, got "
            f"{np.round(values, 3)}."
        )
    coarse, ties = np.round(image), np.round(normal)
    for rate in rates:
        exact = float(_found(coarse[mask], ties, rate).mean())
        value = number(recall_at(coarse, mask, ties, rate))
        if not math.isclose(value, exact, abs_tol=1e-6):
            raise Hint(
                "right without ties, wrong with them. A pixel that is found at its own "
                "score flags every normal pixel of that score, so count >=; and a "
                "quantile's own false positive rate may exceed the rate."
            )
    _steps(recall_at)
    return "Its mean over log z is AUPIMO."


def _steps(recall_at) -> None:
    """One normal pixel more or less is an eighth here, and many pixels apart."""
    scores, normal = np.arange(16.0).reshape(4, 4) / 2, np.arange(8.0)
    mask = scores >= 2
    right = _found(scores[mask], normal, 0.25).sum()
    value = number(recall_at(scores, mask, normal, 0.25)) * mask.sum()
    if math.isclose(value, right, abs_tol=1e-6):
        return
    case = (
        "With the normal scores 0, 1, ..., 7 and the rate 0.25, two of them may be "
        "flagged, so every pixel above 5 is found"
    )
    if value < right:
        raise Hint(f"the rate may be reached: <=, not <. {case}.")
    raise Hint(f"the false positive rate exceeds the rate. {case}, and none below.")


def _found(scores: np.ndarray, normal: np.ndarray, rate: float) -> np.ndarray:
    """Whether each score may be flagged at this false positive rate."""
    normal = np.sort(normal)
    above = normal.size - np.searchsorted(normal, scores, "left")
    return above / normal.size <= rate


def _error(standard_error) -> str:
    rng = np.random.default_rng(12)
    for n, m in ((12, 40), (30, 5)):
        values = rng.normal(size=(n, 1)) + rng.normal(size=(n, m))
        means = values.mean(1)
        right = means.std(ddof=1) / math.sqrt(n)
        value = number(standard_error(values))
        if math.isclose(value, right, rel_tol=1e-6):
            continue
        pixels = [values.std(ddof=d) / math.sqrt(n * m) for d in (0, 1)]
        if any(math.isclose(value, p, rel_tol=1e-6) for p in pixels):
            raise Hint("this takes pixels for independent; average each image first.")
        if any(math.isclose(value, means.std(ddof=d), rel_tol=1e-6) for d in (0, 1)):
            raise Hint("this is the spread of the images; divide by the root of n.")
        if math.isclose(value, means.std() / math.sqrt(n), rel_tol=1e-6):
            raise Hint("n images give n - 1 degrees of freedom: use ddof=1.")
        if math.isclose(value, means.var(ddof=1) / n, rel_tol=1e-6):
            raise Hint("this is a variance; the square root is missing.")
        columns = values.mean(0)
        if math.isclose(value, columns.std(ddof=1) / math.sqrt(m), rel_tol=1e-6):
            raise Hint("wrong axis: each row is an image.")
        reject_near_miss(value, right, 1e-6)
        raise Hint(f"for {n} images it should be {right:.4f}, got {value:.4f}.")
    return "The number of pixels does not appear in it."


EXERCISES = {
    "ex-11-recall": Exercise(
        _recall,
        "For each defective pixel, which share of the normal pixels scores as high?",
    ),
    "ex-11-error": Exercise(_error, "Average the pixels of each image first."),
}
