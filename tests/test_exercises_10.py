"""Typical answers to the exercises of chapter 10, and the hint that each must get."""

import math

import pytest
import torch
from scipy.stats import norm

from ebmlib.exercises import check


def soft(mean=True, scale=True, sign=1):
    def answer(maps, beta):
        flat = sign * beta * maps.flatten(1)
        total = flat.logsumexp(1) - mean * math.log(flat.shape[1])
        return sign * total / (beta if scale else 1)

    return answer


def naive(maps, beta):
    return (beta * maps).exp().mean((1, 2)).log() / beta


def shift(root=True, pixels=True, own=True, quantile=norm.ppf):
    def answer(n, k, target):
        q = quantile(target)
        u = 2 * q**2 * own + 2 * q * math.sqrt(q**2 * own + n)
        u = u / k if pixels else u
        return math.sqrt(u) if root else u

    return answer


@pytest.mark.parametrize(
    "label, answer", [("ex-10-soft", soft()), ("ex-10-shift", shift())]
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-10-soft", soft(mean=False), "their mean"),
        ("ex-10-soft", soft(scale=False), "1/beta"),
        ("ex-10-soft", soft(sign=-1), "soft minimum"),
        ("ex-10-soft", lambda m, b: (b * m).exp().mean((1, 2)), "take the logarithm"),
        ("ex-10-soft", naive, "overflows"),
        ("ex-10-soft", lambda m, b: torch.logsumexp(b * m, 1), "shape (5,)"),
        ("ex-10-soft", lambda m, b: m.amax((1, 2)), "first score"),
        ("ex-10-soft", lambda m, b: "mean", "raised"),
        ("ex-10-shift", shift(root=False), "take the root"),
        ("ex-10-shift", shift(pixels=False), "divide u by k"),
        ("ex-10-shift", shift(own=False), "4 k delta^2"),
        ("ex-10-shift", shift(quantile=float), "not the target"),
        (
            "ex-10-shift",
            lambda n, k, t: norm.ppf(t) * math.sqrt(2 * n) / k,
            "for the mean",
        ),
        ("ex-10-shift", lambda n, k, t: 1.0, "should be"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
