"""Typical answers to the exercises of chapter 11, and the hint that each must get."""

import math

import numpy as np
import pytest

from ebmbook.exercises import check


def recall(strict=False, inside=True, own=False, tail=False, missed=False):
    def answer(image, mask, normal, rate):
        pixels = image[mask] if inside else image.ravel()
        others = image[~mask] if own else normal
        above = others > pixels[:, None] if strict else others >= pixels[:, None]
        found = above.mean(1) <= (1 - rate if tail else rate)
        return 1 - found.mean() if missed else found.mean()

    return answer


def below(allow):
    """Pixels above the score that `allow` tells of the descending normal ones."""

    def answer(image, mask, normal, rate):
        limit = np.sort(normal)[::-1][int(rate * len(normal)) + allow]
        return (image[mask] > limit).mean()

    return answer


def less_than_rate(image, mask, normal, rate):
    return ((normal >= image[mask][:, None]).mean(1) < rate).mean()


def by_quantile(image, mask, normal, rate):
    return (image[mask] >= np.quantile(normal, 1 - rate)).mean()


def precision(image, mask, normal, rate):
    found = (normal >= image[..., None]).mean(-1) <= rate
    return (found & mask).sum() / found.sum()


def error(axis=1, ddof=1, root=True, power=0.5, pixels=False):
    def answer(values):
        units = values.ravel() if pixels else values.mean(axis)
        return (units.var(ddof=ddof) / (len(units) if root else 1)) ** power

    return answer


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-11-recall", recall()),
        ("ex-11-recall", below(0)),
        ("ex-11-recall", lambda *case: recall()(*case).astype(np.float32).reshape(1)),
        ("ex-11-error", error()),
        ("ex-11-error", lambda v: v.mean(1).std(ddof=1) / math.sqrt(len(v))),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-11-recall", recall(strict=True), "count >="),
        ("ex-11-recall", recall(inside=False), "defective pixels alone"),
        ("ex-11-recall", recall(own=True), "not beside the defect"),
        ("ex-11-recall", recall(tail=True), "other tail"),
        ("ex-11-recall", recall(missed=True), "missed"),
        ("ex-11-recall", precision, "this is precision"),
        ("ex-11-recall", less_than_rate, "<=, not <"),
        ("ex-11-recall", below(-1), "<=, not <"),
        ("ex-11-recall", below(1), "exceeds the rate"),
        ("ex-11-recall", below(2), "it should be"),
        ("ex-11-recall", by_quantile, "quantile's own false positive rate"),
        ("ex-11-recall", lambda *case: round(recall()(*case), 3), "close: the rel"),
        ("ex-11-recall", lambda image, mask, normal, rate: 1.0, "it should be"),
        ("ex-11-recall", lambda image, mask, normal, rate: 2.0, "it should be"),
        ("ex-11-error", error(pixels=True), "pixels for independent"),
        ("ex-11-error", error(pixels=True, ddof=0), "pixels for independent"),
        ("ex-11-error", error(root=False), "root of n"),
        ("ex-11-error", error(ddof=0), "ddof=1"),
        ("ex-11-error", error(power=1), "square root"),
        ("ex-11-error", error(axis=0), "wrong axis"),
        ("ex-11-error", lambda values: np.float64(7), "it should be"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message


@pytest.mark.parametrize("label", ["ex-11-recall", "ex-11-error"])
def test_an_odd_answer_does_not_crash(label):
    for odd in ("text", lambda *args: "text", lambda *args: float("nan")):
        assert not check(label, odd).correct
