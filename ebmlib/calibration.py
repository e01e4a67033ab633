"""Thresholds with a guaranteed false-alarm rate, from held-out normals (chapter 8).

All guarantees are those of split conformal prediction: they hold if the held-out normal
images and the new normal images are exchangeable, for every detector, on average over
the draw of both.
"""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import torch
from scipy.stats import beta
from torch import Tensor

GUARANTEES = ("image", "pixel")


def conformal_threshold(scores: Tensor, rate: float) -> float:
    """Smallest threshold that keeps the false-alarm rate on exchangeable normals.

    With n held-out scores the ceil((n + 1)(1 - rate))-th smallest is exceeded by a new
    normal image with probability at most the rate (derived in chapter 8). Where
    n < 1/rate - 1 no threshold among the scores can promise that; the largest of them
    is then the threshold, and a warning says so.

    Args:
        scores: `(n,)`, of normal images that training never saw.
        rate: the false-alarm rate, strictly between 0 and 1.

    Raises:
        ValueError: no scores, NaN among them, or a rate out of range.

    Source: Vovk, Gammerman and Shafer (2005), *Algorithmic learning in a random world*;
    Papadopoulos et al. (2002), *Inductive confidence machines for regression*.
    """
    scores = torch.as_tensor(scores)
    if scores.ndim != 1 or len(scores) == 0 or scores.isnan().any():
        raise ValueError(
            "the threshold needs scores of shape (n,), n >= 1, without NaN; got shape "
            f"{tuple(scores.shape)} with {int(scores.isnan().sum())} NaN"
        )
    rank = math.ceil((len(scores) + 1) * (1 - exact_rate(rate)))
    if rank > len(scores):
        _warn_too_few(len(scores), rate, "score")
        rank = len(scores)
    return float(scores.sort().values[rank - 1])


def pixel_threshold(maps: Tensor, rate: float, guarantee: str = "image") -> float:
    """Smallest threshold for the pixels of anomaly maps, from maps of held-out normals.

    A pixel is flagged if its value is above the threshold t. Two guarantees:

    `"image"`: a new normal image has *any* flagged pixel with probability at most the
    rate. t is the `conformal_threshold` of the n maxima.

    `"pixel"`: the expected *share of flagged pixels* of a new normal image is at most
    the rate. With L_i(t) the share of map i above t, conformal risk control chooses the
    smallest t with

        (sum_i L_i(t) + 1) / (n + 1) <= rate,

    as L is at most 1 and does not increase with t. For n maps of P pixels the sum may
    have at most k = floor(P (rate (n + 1) - 1)) pixels above t, so t is the
    (k + 1)-th largest of all n P values. It takes n >= 1/rate - 1.

    Args:
        maps: `(n, H, W)`, of normal images that training never saw.
        rate: strictly between 0 and 1.
        guarantee: "image" or "pixel".

    Raises:
        ValueError: maps of another shape, NaN among them, a rate out of range.

    Source: Angelopoulos et al. (2022), *Conformal risk control*, for "pixel".
    """
    if guarantee not in GUARANTEES:
        raise ValueError(f"guarantee must be one of {GUARANTEES}, got {guarantee!r}")
    maps = torch.as_tensor(maps)
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps must be (n, H, W), n >= 1, got {tuple(maps.shape)}")
    if guarantee == "image":
        return conformal_threshold(maps.flatten(1).amax(1), rate)
    if maps.isnan().any():
        raise ValueError(f"the maps hold {int(maps.isnan().sum())} NaN")
    allowed = exact_rate(rate) * (len(maps) + 1) - 1
    if allowed < 0:
        _warn_too_few(len(maps), rate, "pixel")
        return float(maps.max())
    above = math.floor(allowed * maps[0].numel())
    return float(maps.flatten().topk(above + 1).values[-1])


def conformal_p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """P-values of new scores: (1 + #{calibration >= s}) / (n + 1), `(N,)` in (0, 1].

    For a normal image exchangeable with the n calibration images,
    P(p <= a) <= a for every a. `score > conformal_threshold(calibration, a)` holds
    exactly where p <= a, if n >= 1/a - 1.

    Args:
        scores: `(N,)`.
        calibration: `(n,)`, scores of normal images that training never saw.
    """
    calibration = torch.as_tensor(calibration).flatten().sort().values
    below = torch.searchsorted(calibration, torch.as_tensor(scores).to(calibration))
    count = len(calibration)
    return (1.0 + count - below) / (count + 1)


def rate_interval(
    count: int, rate: float, confidence: float = 0.9
) -> tuple[float, float]:
    """Between which false-alarm rates the threshold of `count` normal images lies.

    The threshold is the k-th smallest of n scores, see `conformal_threshold`. The rate
    of one such threshold then follows Beta(n + 1 - k, k), whatever the scores (chapter
    14); these are its central quantiles. Beyond the k = n of too few images it is that
    of the largest score.

    Args:
        count: n, at least 1.
        rate: as in `conformal_threshold`.
        confidence: probability of the interval, in (0, 1).

    Source: Wilks (1941); Vovk (2012), *Conditional validity of inductive conformal
    predictors*.
    """
    rank = min(math.ceil((count + 1) * (1 - exact_rate(rate))), count)
    tail = (1 - confidence) / 2
    low, high = beta.ppf([tail, 1 - tail], count + 1 - rank, rank)
    return float(low), float(high)


def exact_rate(rate: float) -> Fraction:
    """The rate as the decimal number that was written, so that ranks are exact.

    Raises:
        ValueError: not strictly between 0 and 1.
    """
    if isinstance(rate, bool) or not 0 < rate < 1:
        raise ValueError(f"rate must lie strictly between 0 and 1, got {rate}")
    return Fraction(repr(float(rate)))


def _warn_too_few(count: int, rate: float, what: str) -> None:
    needed = math.ceil(1 / exact_rate(rate)) - 1
    warnings.warn(
        f"{count} held-out normal images cannot guarantee a false-alarm rate "
        f"of {rate}; that takes {needed}. The largest held-out {what} is the "
        "threshold. Give more images, a larger holdout or rate.",
        stacklevel=3,
    )
