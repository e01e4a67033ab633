"""Thresholds with a guaranteed false-alarm rate, from held-out normals (chapter 8)."""

from __future__ import annotations

import math
import warnings

from torch import Tensor


def conformal_threshold(scores: Tensor, rate: float) -> float:
    """Smallest threshold that keeps the false-alarm rate on exchangeable normals.

    With n held-out scores the ceil((n + 1)(1 - rate))-th smallest
    is exceeded by a new normal image with probability at most the rate (split
    conformal prediction, derived in chapter 8). Warns where n < 1/rate - 1 scores are
    too few for the promise; the largest of them is then the threshold.

    Args:
        scores: `(n,)`, of normal images that training never saw.
        rate: the false-alarm rate, strictly between 0 and 1.

    Raises:
        ValueError: no scores, NaN among them, or a rate out of range.
    """
    if scores.ndim != 1 or len(scores) == 0 or scores.isnan().any():
        raise ValueError(
            "the threshold needs scores of shape (n,), n >= 1, without NaN; got shape "
            f"{tuple(scores.shape)} with {int(scores.isnan().sum())} NaN"
        )
    if not 0 < rate < 1:
        raise ValueError(f"rate must lie strictly between 0 and 1, got {rate}")
    rank = math.ceil((len(scores) + 1) * (1 - rate))
    if rank > len(scores):
        warnings.warn(
            f"{len(scores)} held-out normal images cannot guarantee a false-alarm rate "
            f"of {rate}; that takes {math.ceil(1 / rate) - 1}. The largest held-out "
            "score is the threshold. Give more images, a larger holdout or rate.",
            stacklevel=3,
        )
        rank = len(scores)
    return float(scores.sort().values[rank - 1])
