"""Does today still resemble the day of the calibration? (chapter 15)

All of it works on what a table of predictions holds: the flags and the conformal
p-values of photographs in the order in which they were taken. A p-value is a rank among
n calibration scores, p = (1 + #{calibration >= s}) / (n + 1), so the scores themselves
are not needed.

- `bucket` notices more flags than promised. `run_length` says how often it does so
  without a cause, `bucket_limit` finds the limit for a wanted number.
- `rank_z` notices scores that have risen *or fallen*: a lens out of focus lowers them,
  and defects are missed.
- `few_false_flags` flags so that the expected share of false flags stays small.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve


def bucket(flags: ArrayLike, up: int) -> NDArray[np.int64]:
    """Level after each part, `(N,)`: max(0, level + up) if flagged, else level - 1.

    The CUSUM of Page (1954) for yes-no data (Reynolds and Stoumbos, 1999), with a
    floor at 0. It fills where more than 1 / (up + 1) of the parts are flagged.

    Args:
        flags: bool `(N,)` in the order of time.
        up: what a flag adds; a part without one takes 1 away.
    """
    level, levels = 0, []
    for flag in np.asarray(flags, dtype=bool):
        level = max(0, level + (up if flag else -1))
        levels.append(level)
    return np.array(levels, dtype=np.int64)


def bucket_step(rate: float) -> int:
    """What a flag should add so that the bucket fills from twice the rate on."""
    return max(1, round(1 / (2 * rate) - 1))


def run_length(rate: float, up: int, limit: int) -> float:
    """Mean number of parts until the level of an empty bucket reaches the limit.

    From level b, with a share p of flags, L_b = 1 + p L_(b + up) + (1 - p) L_(b - 1),
    where L is 0 from the limit on and L_(-1) is L_0 (Brook and Evans, 1972).

    Args:
        rate: p, the true share of flags, in (0, 1].
        up: as in `bucket`.
        limit: at least 1.
    """
    levels = np.arange(limit)
    to = np.concatenate([np.maximum(levels - 1, 0), levels + up])
    chance = np.repeat([1 - rate, rate], limit)
    kept = to < limit
    step = sparse.csc_array(
        (chance[kept], (np.tile(levels, 2)[kept], to[kept])), shape=(limit, limit)
    )
    left = sparse.eye_array(limit, format="csc") - step
    return float(np.atleast_1d(spsolve(left, np.ones(limit)))[0])


def bucket_limit(rate: float, parts: int, up: int | None = None) -> int:
    """The smallest limit that a share `rate` of flags reaches after `parts` or later.

    Args:
        rate: the promised share of flags, in (0, 1).
        parts: wanted mean number of parts until a false alarm.
        up: as in `bucket`; None: `bucket_step(rate)`.
    """
    up = bucket_step(rate) if up is None else up
    low, high = 0, 1
    while run_length(rate, up, high) < parts:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if run_length(rate, up, middle) < parts:
            low = middle
        else:
            high = middle
    return high


def rank_z(p_values: ArrayLike, calibration: int) -> float:
    """How far the scores lie above those of the calibration, in standard errors.

        z = (A - 1/2) / sqrt((n + m + 1) / (12 n m))

    A is the share of the pairs (today, calibration) in which today's score is larger,
    for m parts of today and n of the calibration. For exchangeable scores z has mean 0
    and variance 1; it is negative where scores have fallen. Source: Mann and Whitney
    (1947).

    Args:
        p_values: `(m,)`, conformal p-values of today, m >= 1.
        calibration: n, the number of calibration images.
    """
    p = np.asarray(p_values, dtype=float)
    n, m = calibration, len(p)
    area = 1 - (p.mean() * (n + 1) - 1) / n
    return float((area - 0.5) / math.sqrt((n + m + 1) / (12 * n * m)))


def few_false_flags(p_values: ArrayLike, share: float = 0.1) -> NDArray[np.bool_]:
    """Flags of which at most `share` are false in expectation, bool `(N,)`.

    With sorted p-values the k smallest are flagged, k = max{j : p_(j) <= share j / N}.
    Sources: Benjamini and Hochberg (1995); Bates et al. (2023) for conformal p-values.
    """
    p = np.asarray(p_values, dtype=float)
    passed = np.flatnonzero(np.sort(p) <= share * np.arange(1, len(p) + 1) / len(p))
    limit = share * (passed[-1] + 1) / len(p) if len(passed) else 0.0
    return p <= limit
