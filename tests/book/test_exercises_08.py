"""Typical answers to the exercises of chapter 8, and the hint that each must get."""

import math

import pytest
import torch.nn.functional as F
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


def pairs_won(scores, labels):
    a = int(labels.sum())
    return rankdata(scores)[labels.numpy()].sum() - a * (a + 1) / 2


def ranks_of_anything(scores, labels):
    return rankdata(scores).sum() / int(labels.sum())


def cells(scale=True, last=True, mean=False, total=False, head=True):
    def answer(energy, images):
        h = 2 * images - 1 if scale else images
        for i, layer in enumerate(energy.layers):
            h = layer(h)
            if last or i < energy.depth - 1:
                h = F.silu(h)
        if not head:
            return h
        e = energy.head(h.movedim(1, -1)).squeeze(-1)
        if total:
            return e.sum((1, 2))
        return e / e[0].numel() if mean else e

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
        ("ex-08-cells", cells()),
        ("ex-08-cells", lambda e, x: cells()(e, x)[:, None]),
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
        ("ex-08-size", lambda shift, target: 7, "gives an AUROC of 0.986"),
        ("ex-08-size", lambda shift, target: -99, "no AUROC"),
        (
            "ex-08-size",
            lambda s, target: math.floor(s**4 / (2 * norm.ppf(target) ** 2)),
            "you solved",
        ),
        (
            "ex-08-size",
            lambda s, target: math.floor(s**4 / (4 * norm.cdf(target) ** 2) - s**2),
            "not norm.cdf",
        ),
        ("ex-08-ranks", pairs_won, "divide it by"),
        ("ex-08-ranks", ranks_of_anything, "at most 1"),
        ("ex-08-cells", cells(scale=False), "2 x - 1"),
        ("ex-08-cells", cells(last=False), "the last one too"),
        ("ex-08-cells", cells(mean=True), "not the mean"),
        ("ex-08-cells", cells(total=True), "do not sum"),
        ("ex-08-cells", cells(head=False), "the features"),
        ("ex-08-cells", lambda e, x: 2 * cells()(e, x), "the sum of your cells"),
        ("ex-08-cells", lambda e, x: 1.0, "return a tensor"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
