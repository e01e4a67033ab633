"""Judges of the exercises of chapter 15, from the notebook to the line."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import ask, number


def _images(images_needed) -> str:
    wrong = {
        "this keeps the promise on average over calibration sets; this one set must "
        "keep it, with the stated confidence.": (
            lambda rate, confidence, spare: math.ceil((spare + 1) / rate) - 1
        ),
        "the promise may be broken with probability 1 - confidence, not confidence.": (
            lambda rate, confidence, spare: _smallest(rate, 1 - confidence, spare)
        ),
        "one image too few: the chance must be at most 1 - confidence.": (
            lambda *case: _smallest(*case) - 1
        ),
        "one image too many: the smallest n is asked for.": (
            lambda *case: _smallest(*case) + 1
        ),
        "at most `spare` scores, not exactly `spare`: binom.cdf, not binom.pmf.": (
            lambda rate, confidence, spare: _smallest(
                rate, confidence, spare, chance=binom.pmf
            )
        ),
        "one score too many may lie above the threshold; with spare = 0 it is the "
        "largest score itself.": (
            lambda rate, confidence, spare: _smallest(rate, confidence, spare + 1)
        ),
        "`spare` is ignored: some scores may lie above the threshold.": (
            lambda rate, confidence, spare: _smallest(rate, confidence, 0)
        ),
        "up to `spare` scores may lie above the threshold, `spare` included.": (
            lambda rate, confidence, spare: _smallest(rate, confidence, spare - 1)
        ),
        "rate is the share of normal images above the threshold, not below.": (
            lambda rate, confidence, spare: _smallest(1 - rate, confidence, spare)
        ),
    }
    for case in ((0.05, 0.95, 3), (0.05, 0.95, 0), (0.1, 0.9, 1), (0.01, 0.95, 0)):
        value, right = number(images_needed(*case)), _smallest(*case)
        if value == right:
            continue
        for hint, answer in wrong.items():
            if value == answer(*case):
                raise Hint(hint)
        rate, confidence, spare = case
        raise Hint(
            f"for rate {rate}, confidence {confidence} and {spare} spare it should be "
            f"{right}, got {value:g}."
        )
    return "For 5 % and 95 % it takes 59 images, 93 with one to spare, 124 with two."


def _smallest(rate, confidence, spare: int, chance=binom.cdf) -> int:
    """The smallest n whose chance of at most `spare` in the upper tail is small."""
    n = max(spare, 0) + 1
    while chance(spare, n, rate) > 1 - confidence:
        n += 1
    return n


def _queue(waiting) -> str:
    rng = np.random.default_rng(14)
    for times, period in (
        (rng.lognormal(3.3, 0.6, 60), 30.0),
        (np.array([50.0, 10.0, 10.0, 10.0, 70.0, 10.0]), 25.0),
    ):
        value = np.asarray(ask(waiting, times, period), dtype=float)
        if value.shape != times.shape:
            raise Hint(f"one wait for each of {len(times)} parts, got {value.shape}.")
        right = _waits(times, period)
        if np.allclose(value, right):
            continue
        before = np.append(0.0, times[:-1] - period)
        wrong = {
            "a wait cannot be negative: an idle machine saves no time for later.": (
                np.cumsum(before)
            ),
            "recorded one part too late: part i waits for what is left *before* its "
            "own work pours in.": _waits(np.append(times, 0.0), period)[1:],
            "an idle machine saves no time for later: cut at 0 in each step, not once "
            "at the end.": np.cumsum(before).clip(min=0),
            "a fast part helps the queue: cut the sum at 0, not each of its terms.": (
                np.cumsum(before.clip(min=0))
            ),
            "a part waits for the one before it, not for its own processing.": (
                _waits(np.append(times[1:], 0.0), period)
            ),
            "this is the time until a part is done; its wait ends when it starts.": (
                right + times
            ),
            "the part before has waited too, and its wait is passed on.": (
                before.clip(min=0)
            ),
            "the next part arrives one period later; that much is forgiven.": (
                np.append(0.0, np.cumsum(times[:-1]))
            ),
        }
        for hint, answer in wrong.items():
            if np.allclose(value, answer):
                raise Hint(hint)
        i = int(np.flatnonzero(~np.isclose(value, right))[0])
        raise Hint(f"part {i} should wait {right[i]:.1f} ms, got {value[i]:.1f}.")
    return "The bucket again: work pours in, time drains."


def _waits(times: np.ndarray, period: float) -> np.ndarray:
    waits = np.zeros(len(times))
    for i in range(1, len(times)):
        waits[i] = max(0.0, waits[i - 1] + times[i - 1] - period)
    return waits


EXERCISES = {
    "ex-15-images": Exercise(
        _images, "Try n = spare + 1, spare + 2, ... and ask scipy.stats.binom.cdf."
    ),
    "ex-15-queue": Exercise(
        _queue, "When part i arrives, how much work of the parts before is left?"
    ),
}
