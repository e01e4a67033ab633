"""Judges of the exercises of chapter 8, detection with the energy."""

from __future__ import annotations

import math

import torch
from scipy.stats import norm

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import number, reject_near_miss
from ebmlib.metrics import image_auroc


def _ranks(rank_auroc) -> str:
    g = torch.Generator().manual_seed(7)
    labels = torch.rand(200, generator=g) < 0.4
    distinct = torch.randn(200, generator=g) + labels
    right = image_auroc(distinct, labels)
    value = number(rank_auroc(distinct, labels))
    n_a, n_n = int(labels.sum()), int((~labels).sum())
    if math.isclose(value, 1 - right, abs_tol=1e-6):
        raise Hint("this is 1 - AUROC; rank from the smallest score up.")
    if math.isclose(value, right - 1 / n_n, abs_tol=1e-6):
        raise Hint("all ranks are one too small; they start at 1.")
    if math.isclose(value, right + (n_a + 1) / 2 / n_n, abs_tol=1e-6):
        raise Hint("subtract the ranks n_a (n_a + 1) / 2 that anomalies give alone.")
    # The mistake of taking the order of the scores for their ranks.
    order = distinct.argsort().double() + 1
    ordered = float(order[labels].sum()) - n_a * (n_a + 1) / 2
    for first in (0, n_a):  # ranks from 1, or from 0
        if math.isclose(value, (ordered - first) / (n_a * n_n), abs_tol=1e-6):
            raise Hint("argsort gives the order, not the ranks; apply it twice.")
    if not math.isclose(value, right, abs_tol=1e-6):
        reject_near_miss(value, right, 1e-6)
        raise Hint(f"without ties the value should be {right:.4f}, got {value:.4f}.")
    if not math.isclose(number(rank_auroc(-distinct, labels)), 1 - right, abs_tol=1e-6):
        raise Hint(
            "with the sign of all scores changed AUROC must fall below 0.5. A detector "
            "can be wrong: do not flip it."
        )
    coarse = (2 * distinct).round()
    if not math.isclose(
        number(rank_auroc(coarse, labels)), image_auroc(coarse, labels), abs_tol=1e-6
    ):
        raise Hint("right without ties, wrong with them: tied scores share a rank.")
    return "The rank sum counts all pairs at once."


def _size(largest_image) -> str:
    for shift, target in ((5.0, 0.9), (8.0, 0.8)):
        value = number(largest_image(shift, target))
        exact = shift**4 / (4 * norm.ppf(target) ** 2) - shift**2
        if value == math.floor(exact + shift**2):
            raise Hint("the variance of the defect itself, delta^2, is missing.")
        if value == math.ceil(exact):
            raise Hint("one pixel too many: round down.")
        if math.isclose(value, exact, rel_tol=1e-4):
            raise Hint("nearly: a number of pixels is whole, so round down.")
        if value != math.floor(exact):
            raise Hint(f"for delta = {shift:.0f} it is {exact:.1f} before rounding.")
    return "The image may grow with the fourth power of the shift."


EXERCISES = {
    "ex-08-ranks": Exercise(
        _ranks, "Begin with scipy.stats.rankdata, which gives mean ranks for ties."
    ),
    "ex-08-size": Exercise(_size, "Solve for D; scipy.stats.norm.ppf inverts Phi."),
}
