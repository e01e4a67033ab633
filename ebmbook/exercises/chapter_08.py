"""Judges of the exercises of chapter 8, detection with the energy."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.stats import norm

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import ask, number, reject_near_miss, tensor
from ebmlib.metrics import image_auroc
from ebmlib.networks import ConvEnergy
from ebmlib.random import seeded


def _ranks(rank_auroc) -> str:
    g = torch.Generator().manual_seed(7)
    labels = torch.rand(200, generator=g) < 0.4
    distinct = torch.randn(200, generator=g) + labels
    right = image_auroc(distinct, labels)
    value = number(rank_auroc(distinct, labels))
    n_a, n_n = int(labels.sum()), int((~labels).sum())
    if math.isclose(value, right * n_a * n_n, rel_tol=1e-6):
        raise Hint("that is the number of pairs won; divide it by n_a n_n.")
    if value > 1.5 + n_a / n_n:
        raise Hint(
            f"an AUROC is at most 1, and this is {value:.4g}. From the rank sum of "
            "the anomalies subtract n_a (n_a + 1) / 2, then divide by n_a n_n."
        )
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
        if abs(value - shift**4 / (2 * norm.ppf(target) ** 2)) < 1:
            raise Hint("you solved Phi(d') = target; the AUROC is Phi(d' / sqrt(2)).")
        inverse = shift**4 / (4 * norm.cdf(target) ** 2) - shift**2
        if abs(value - inverse) < 1:
            raise Hint("Phi must be inverted: norm.ppf, not norm.cdf.")
        if value == math.ceil(exact):
            raise Hint("one pixel too many: round down.")
        if math.isclose(value, exact, rel_tol=1e-4):
            raise Hint("nearly: a number of pixels is whole, so round down.")
        if value != math.floor(exact):
            raise Hint(
                f"for delta = {shift:.0f} and target {target} you return {value:.4g}. "
                f"At that D the approximation gives {_at(value, shift)}."
            )
    return "The image may grow with the fourth power of the shift."


def _at(size: float, shift: float) -> str:
    """The approximate AUROC of the summed energy at this number of pixels."""
    variance = size + shift**2
    if not variance > 0:
        return "no AUROC"
    return f"an AUROC of {norm.cdf(shift**2 / 2 / math.sqrt(variance)):.3f}"


def _cells(cell_energies) -> str:
    with seeded(3):
        energy = ConvEnergy(3, width=4, depth=2)
    g = torch.Generator().manual_seed(9)
    images = torch.rand(5, 3, 16, 24, generator=g)
    with torch.no_grad():
        right, raw, linear = (_features(energy, images, how) for how in HOW)
        total = energy(images)
    answer = ask(cell_energies, energy, images)
    if not isinstance(answer, torch.Tensor):
        raise Hint(f"return a tensor; got {type(answer).__name__}.")
    answer = answer.detach()
    if answer.shape == (5,):
        raise Hint("this is one number an image: do not sum over positions.")
    if answer.shape in ((5, 16, 4, 6), (5, 8, 4, 6)):
        raise Hint(
            "these are the features, one a channel. The head's weights make one "
            "number of them at each position."
        )
    if answer.shape == (5, 1, 4, 6):
        answer = answer[:, 0]
    if answer.shape == (5, 4, 6, 1):
        answer = answer[..., 0]
    got = tensor(answer, right, "one energy for each position (B, h, w)")
    if torch.allclose(got, right, atol=1e-5):
        return "Their sum is the energy: the network is a sum over positions."
    if torch.allclose(got, raw, atol=1e-5):
        raise Hint("the network sees 2 x - 1, not x.")
    if torch.allclose(got, linear, atol=1e-5):
        raise Hint("each convolution is followed by SiLU, the last one too.")
    if torch.allclose(got * 24, right, atol=1e-4):
        raise Hint("the energy is the sum over positions, not the mean: divide by 1.")
    error = float((got.sum((1, 2)) - total).abs().max())
    raise Hint(
        f"the sum of your cells differs from energy(images) by up to {error:.3g}. "
        "Follow ConvEnergy.forward up to the sum, then apply the head."
    )


HOW = ("right", "raw", "linear")


def _features(energy: ConvEnergy, images: torch.Tensor, how: str) -> torch.Tensor:
    """The energies of the positions, done rightly or with one thing forgotten."""
    h = images if how == "raw" else 2 * images - 1
    for i, layer in enumerate(energy.layers):
        h = layer(h)
        if how != "linear" or i < energy.depth - 1:
            h = F.silu(h)
    return energy.head(h.movedim(1, -1)).squeeze(-1)


EXERCISES = {
    "ex-08-ranks": Exercise(
        _ranks, "Begin with scipy.stats.rankdata, which gives mean ranks for ties."
    ),
    "ex-08-cells": Exercise(
        _cells, "Begin with h = 2 * images - 1 and go through energy.layers."
    ),
    "ex-08-size": Exercise(_size, "Solve for D; scipy.stats.norm.ppf inverts Phi."),
}
