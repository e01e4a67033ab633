"""Typical answers to the exercises of chapter 12, and the hint that each must get."""

import math

import numpy as np
import pytest
from scipy import ndimage

from ebmlib.exercises import check


def direction(swap=False, centered=True, quotient=False, change=lambda a: a):
    def answer(mask):
        y, x = (i.astype(float) for i in np.nonzero(mask))
        if swap:
            x, y = y, x
        if centered:
            x, y = x - x.mean(), y - y.mean()
        twice, gap = 2 * (x * y).mean(), (x * x).mean() - (y * y).mean()
        double = math.atan(twice / gap) if quotient else math.atan2(twice, gap)
        return change(double / 2)

    return answer


def by_eigenvectors(mask):
    y, x = np.nonzero(mask)
    axis = np.linalg.eigh(np.cov(x, y))[1][:, 1]
    return math.atan2(axis[1], axis[0])


def vanished(least=0.5, strict=False, corners=True, report="lost"):
    def answer(mask, k):
        h, w = mask.shape
        share = mask.reshape(h // k, k, w // k, k).mean((1, 3))
        small = share > least if strict else share >= least
        touch = np.ones((3, 3)) if corners else None
        regions, count = ndimage.label(mask, touch)
        left = ndimage.label(small, touch)[1]
        covered = np.repeat(np.repeat(small, k, 0), k, 1)
        kept = len(set(regions[covered & mask]))
        return {
            "lost": count - kept,
            "kept": kept,
            "left": left,
            "difference": count - left,
        }[report]

    return answer


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-12-direction", direction()),
        ("ex-12-direction", direction(change=lambda a: a + math.pi)),
        ("ex-12-direction", by_eigenvectors),
        ("ex-12-vanished", vanished()),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-12-direction", direction(swap=True), "rows first"),
        ("ex-12-direction", direction(change=lambda a: a + math.pi / 2), "across"),
        ("ex-12-direction", direction(change=lambda a: -a), "points down"),
        ("ex-12-direction", direction(change=lambda a: 2 * a), "half of it"),
        ("ex-12-direction", direction(change=math.degrees), "not in degrees"),
        ("ex-12-direction", direction(centered=False), "about the part's center"),
        ("ex-12-direction", direction(quotient=True), "atan2"),
        ("ex-12-direction", lambda mask: 0.3, "was found at"),
        ("ex-12-vanished", vanished(strict=True), "exactly one half"),
        ("ex-12-vanished", vanished(least=0, strict=True), "no majority"),
        ("ex-12-vanished", vanished(corners=False), "at a corner"),
        ("ex-12-vanished", vanished(report="difference"), "merge"),
        ("ex-12-vanished", vanished(report="kept"), "that are not"),
        ("ex-12-vanished", vanished(report="left"), "small mask"),
        ("ex-12-vanished", lambda mask, k: 1, "regions"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message


@pytest.mark.parametrize("label", ["ex-12-direction", "ex-12-vanished"])
def test_an_odd_answer_does_not_crash(label):
    for odd in ("text", lambda *args: "text", lambda *args: float("nan")):
        assert not check(label, odd).correct
