"""Typical answers to the exercises of chapter 12, and the hint that each must get."""

import math

import numpy as np
import pytest
from scipy import ndimage

from ebmbook.exercises import check


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


def moments(formula, about=None):
    """An answer from c_xx, c_xy, c_yy about the part's center, or about a point."""

    def answer(mask):
        y, x = (i.astype(float) for i in np.nonzero(mask))
        center = (y.mean(), x.mean()) if about is None else about(mask)
        y, x = y - center[0], x - center[1]
        return formula((x * x).mean(), (x * y).mean(), (y * y).mean())

    return answer


def middle(mask):
    return (mask.shape[0] - 1) / 2, (mask.shape[1] - 1) / 2


def by_regression(mask):
    y, x = np.nonzero(mask)
    return math.atan(np.polyfit(x, y, 1)[0])


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


def one_by_one(reduce, lost):
    """An answer that asks every region of the mask, over the enlarged blocks."""

    def answer(mask, k):
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        covered = reduce(mask, k)
        return sum(lost(covered, regions == i, k) for i in range(1, count + 1))

    return answer


def enlarged(small, k):
    return small.repeat(k, 0).repeat(k, 1)


def share(mask, k):
    h, w = mask.shape
    return mask.reshape(h // k, k, w // k, k).mean((1, 3))


def majority(mask, k):
    return enlarged(share(mask, k) >= 0.5, k)


def torn(mask, k):
    h, w = mask.shape
    return enlarged(mask.reshape(h // k, w // k, k, k).mean((2, 3)) >= 0.5, k)


def untouched(covered, region, k):
    return not covered[region].any()


def with_background(mask, k):
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    return count - len(np.unique(regions[majority(mask, k)]))


def pieces(mask, k):
    return ndimage.label(mask & ~majority(mask, k), np.ones((3, 3)))[1]


picked = one_by_one(lambda m, k: enlarged(m[::k, ::k], k), untouched)
centers = one_by_one(lambda m, k: enlarged(m[k // 2 :: k, k // 2 :: k], k), untouched)
tiled = one_by_one(lambda m, k: np.tile(share(m, k) >= 0.5, (k, k)), untouched)
alone = one_by_one(majority, lambda _, region, k: (share(region, k) < 0.5).all())
by_area = one_by_one(majority, lambda _, region, k: region.sum() < k * k / 2)
not_whole = one_by_one(majority, lambda c, region, k: not c[region].all())


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-12-direction", direction()),
        ("ex-12-direction", direction(change=lambda a: a + math.pi)),
        ("ex-12-direction", by_eigenvectors),
        ("ex-12-vanished", vanished()),
        ("ex-12-vanished", one_by_one(majority, untouched)),
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
        (
            "ex-12-direction",
            moments(lambda a, b, c: math.atan2(2 * b, a - c) / 2, about=middle),
            "the image's middle",
        ),
        ("ex-12-direction", direction(quotient=True), "use atan2"),
        (
            "ex-12-direction",
            moments(lambda a, b, c: math.atan2(b, a - c) / 2),
            "counts twice",
        ),
        (
            "ex-12-direction",
            moments(lambda a, b, c: math.atan2(a - c, 2 * b) / 2),
            "the sine first",
        ),
        ("ex-12-direction", by_regression, "regression line"),
        ("ex-12-direction", lambda mask: 0.3, "was found at"),
        ("ex-12-vanished", vanished(strict=True), "exactly one half"),
        ("ex-12-vanished", vanished(least=0, strict=True), "no majority"),
        ("ex-12-vanished", vanished(corners=False), "at a corner"),
        ("ex-12-vanished", vanished(report="difference"), "merge"),
        ("ex-12-vanished", vanished(report="kept"), "that are not"),
        ("ex-12-vanished", vanished(report="left"), "small mask"),
        ("ex-12-vanished", vanished(least=1), "need not be full"),
        ("ex-12-vanished", with_background, "the background"),
        ("ex-12-vanished", picked, "one pixel does not speak"),
        ("ex-12-vanished", centers, "one pixel does not speak"),
        ("ex-12-vanished", one_by_one(torn, untouched), "reshape"),
        ("ex-12-vanished", tiled, "np.tile"),
        ("ex-12-vanished", alone, "together"),
        ("ex-12-vanished", by_area, "area alone"),
        ("ex-12-vanished", not_whole, "touches any pixel"),
        ("ex-12-vanished", pieces, "touches any pixel"),
        ("ex-12-vanished", lambda mask, k: vanished()(mask, 4), "the argument k"),
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
