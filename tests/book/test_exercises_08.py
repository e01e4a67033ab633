"""Typical answers to the exercises of chapter 8, and the hint that each must get."""

import math

import pytest
from scipy.stats import norm, rankdata

from ebmbook.exercises import check


def rank_auroc(method="average", offset=0, alone=True, sign=1):
    def answer(scores, labels):
        ranks = rankdata(sign * scores, method=method) + offset
        a = int(labels.sum())
        wins = ranks[labels.numpy()].sum() - alone * a * (a + 1) / 2
        return wins / (a * (len(labels) - a))

    return answer


def never_below_half(scores, labels):
    value = rank_auroc()(scores, labels)
    return max(value, 1 - value)


def by_order(first):
    def answer(scores, labels):
        a, order = int(labels.sum()), scores.argsort() + first
        wins = float(order[labels].sum()) - a * (a + 1) / 2
        return wins / (a * (len(labels) - a))

    return answer


def size(extra=0.0, rounding=math.floor):
    def answer(shift, target):
        exact = shift**4 / (4 * norm.ppf(target) ** 2) - shift**2
        return rounding(exact + extra * shift**2)

    return answer


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-08-ranks", rank_auroc()),
        ("ex-08-ranks", lambda *case: rank_auroc()(*case).reshape(1)),
        ("ex-08-size", size()),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-08-ranks", rank_auroc(sign=-1), "1 - AUROC"),
        ("ex-08-ranks", rank_auroc(offset=-1), "start at 1"),
        ("ex-08-ranks", rank_auroc(alone=False), "anomalies give alone"),
        ("ex-08-ranks", rank_auroc("ordinal"), "share a rank"),
        ("ex-08-ranks", never_below_half, "do not flip it"),
        ("ex-08-ranks", by_order(1), "argsort gives the order"),
        ("ex-08-ranks", by_order(0), "argsort gives the order"),
        ("ex-08-ranks", lambda *case: round(rank_auroc()(*case), 3), "close: the"),
        ("ex-08-ranks", lambda scores, labels: 0.5, "without ties"),
        ("ex-08-size", size(extra=1.0), "delta^2, is missing"),
        ("ex-08-size", size(rounding=math.ceil), "round down"),
        ("ex-08-size", size(rounding=float), "so round down"),
        ("ex-08-size", lambda shift, target: 7, "before rounding"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
