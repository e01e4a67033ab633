"""Typical answers to the exercises of chapter 10, and the hint that each must get."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from ebmbook.exercises import check


def soft(mean=True, scale=True, sign=1):
    def answer(maps, beta):
        flat = sign * beta * maps.flatten(1)
        total = flat.logsumexp(1) - mean * math.log(flat.shape[1])
        return sign * total / (beta if scale else 1)

    return answer


def divided(by, scaled=True):
    """The soft maximum with another number in place of the pixels."""

    def answer(maps, beta):
        total, log = (beta * maps).flatten(1).logsumexp(1), math.log(by(maps))
        return (total - log) / beta if scaled else total / beta - log

    return answer


def lowered(by, back):
    """The soft maximum after a largest value is pulled out of the logarithm."""

    def answer(maps, beta):
        top = by(maps)
        return (beta * (maps - top)).exp().mean((1, 2)).log() / beta + back(top, beta)

    return answer


def highest(maps):
    return maps.amax((1, 2), keepdim=True)


def sums(maps, beta, dim, **options):
    return torch.logsumexp(beta * maps, dim, **options) / beta


def naive(maps, beta):
    return (beta * maps).exp().mean((1, 2)).log() / beta


def bounded(maps, beta):
    return (beta * maps).clamp(max=80).exp().mean((1, 2)).log() / beta


def weighted(maps, beta):
    flat = maps.flatten(1)
    return ((beta * flat).softmax(1) * flat).sum(1)


def powers(maps, beta):
    return maps.abs().pow(beta).mean((1, 2)).pow(1 / beta)


def in_place(maps, beta):
    return soft()(maps.mul_(beta), 1.0) / beta


def along(axis):
    def answer(maps, beta):
        total = torch.logsumexp(beta * maps, axis) - math.log(maps.shape[axis])
        return total.mean(1) / beta

    return answer


def shift(root=True, pixels=True, own=True, quantile=norm.ppf):
    def answer(n, k, target):
        q = quantile(target)
        u = 2 * q**2 * own + 2 * q * math.sqrt(q**2 * own + n)
        u = u / k if pixels else u
        return math.sqrt(u) if root else u

    return answer


def from_root(formula):
    """An answer made of k and the right u = k delta^2."""
    return lambda n, k, target: formula(
        shift(pixels=False, root=False)(n, k, target), k
    )


def from_quantile(formula):
    """An answer whose k delta^2 is a formula of q and n."""
    return lambda n, k, target: math.sqrt(formula(norm.ppf(target), n) / k)


def searched(xtol):
    def answer(n, k, target):
        def missing(delta):
            signal = k * delta**2
            return norm.cdf(signal / math.sqrt(4 * n + 4 * signal)) - target

        return brentq(missing, 0.05, 20, xtol=xtol)

    return answer


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-10-soft", soft()),
        ("ex-10-soft", lowered(highest, lambda top, beta: top[:, 0, 0])),
        ("ex-10-soft", lambda m, b: soft()(m, b).tolist()),
        ("ex-10-soft", in_place),
        ("ex-10-shift", shift()),
        ("ex-10-shift", searched(1e-8)),
        ("ex-10-shift", lambda n, k, t: np.array([shift()(n, k, t)])),
    ],
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
        ("ex-10-soft", lambda m, b: sums(m, b, (0, 1, 2)), "keep the first"),
        ("ex-10-soft", lambda m, b: sums(m, b, 2), "leaves one pixel axis"),
        ("ex-10-soft", lambda m, b: sums(m, b, 0), "one value per pixel"),
        ("ex-10-soft", lambda m, b: sums(m.flatten(1), b, 0), "one value per pixel"),
        ("ex-10-soft", lambda m, b: sums(m, b, (1, 2), keepdim=True), "length 1"),
        ("ex-10-soft", lambda m, b: soft()(m, b).long(), "floating-point"),
        ("ex-10-soft", lambda m, b: b * soft(scale=False)(m, b), "multiplies by it"),
        ("ex-10-soft", lambda m, b: -soft()(m, b), "sign of the score"),
        ("ex-10-soft", lambda m, b: -soft(sign=-1)(m, b), "not -beta m_i"),
        ("ex-10-soft", lambda m, b: (b * m).exp().mean((1, 2)) / b, "logarithm is"),
        ("ex-10-soft", lambda m, b: (b * m).exp().sum((1, 2)), "mean and its"),
        ("ex-10-soft", lambda m, b: soft()(m, 1.0), "beta = 1"),
        ("ex-10-soft", lambda m, b: soft()(m, 1.0) / b, "missing in the exponent"),
        ("ex-10-soft", lambda m, b: soft()(m, 1 / b), "for 1/beta"),
        ("ex-10-soft", lambda m, b: soft(mean=False)(m, b) / 42, "subtract log n"),
        ("ex-10-soft", divided(lambda m: m.shape[1]), "divided by 6; n"),
        ("ex-10-soft", divided(lambda m: m.shape[2]), "divided by 7; n"),
        ("ex-10-soft", divided(len), "divided by 5; n"),
        ("ex-10-soft", divided(torch.numel), "divided by 210; n"),
        ("ex-10-soft", divided(lambda m: 1 / 42), "log n is added"),
        ("ex-10-soft", divided(lambda m: 42, scaled=False), "divided by beta too"),
        ("ex-10-soft", divided(lambda m: math.exp(math.log10(42))), "log10"),
        ("ex-10-soft", divided(lambda m: 0.3), "up to a constant"),
        ("ex-10-soft", lambda m, b: soft()(m, b) + 50, "up to a constant"),
        ("ex-10-soft", lambda m, b: soft()(m, b) - 50, "up to a constant"),
        ("ex-10-soft", lambda m, b: soft()(m, b) * math.inf, "first score"),
        ("ex-10-soft", lambda m, b: 1e4 * m.amax((1, 2)), "first score"),
        ("ex-10-soft", lowered(highest, lambda top, beta: 0), "added again"),
        (
            "ex-10-soft",
            lowered(highest, lambda top, beta: top[:, 0, 0] / beta),
            "divided by beta at the end",
        ),
        ("ex-10-soft", lowered(torch.max, lambda top, beta: top), "of each image"),
        ("ex-10-soft", bounded, "must be bounded"),
        ("ex-10-soft", lambda m, b: m.mean((1, 2)), "plain mean, the limit"),
        ("ex-10-soft", lambda m, b: m.amax((1, 2)), "this is the maximum"),
        ("ex-10-soft", weighted, "softmax weights"),
        ("ex-10-soft", powers, "mean of powers"),
        ("ex-10-soft", along(1), "flatten both"),
        ("ex-10-soft", along(2), "flatten both"),
        ("ex-10-soft", lambda m, b: m.flatten(1).median(1).values, "first score"),
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
        ("ex-10-shift", lambda n, k, t: -shift()(n, k, t), "is positive"),
        ("ex-10-shift", from_root(lambda u, k: u), "divide it by k"),
        ("ex-10-shift", from_root(lambda u, k: math.sqrt(u) / k), "under the root"),
        ("ex-10-shift", from_root(lambda u, k: math.sqrt(u * k)), "do not multiply"),
        ("ex-10-shift", from_root(lambda u, k: math.sqrt(k / u)), "upside down"),
        ("ex-10-shift", from_root(lambda u, k: math.sqrt(2 * u / k)), "twice too"),
        ("ex-10-shift", lambda n, k, t: shift()(k, n, t), "exchanged"),
        ("ex-10-shift", lambda n, k, t: shift()(n, k, 0.9), "compute q from"),
        ("ex-10-shift", lambda n, k, t: shift()(4096, k, t), "use n, not"),
        ("ex-10-shift", lambda n, k, t: shift()(4096, k, 0.9), "use target and n"),
        ("ex-10-shift", shift(quantile=norm.cdf), "inverse of norm.cdf"),
        ("ex-10-shift", shift(quantile=norm.pdf), "the density"),
        ("ex-10-shift", shift(quantile=lambda t: norm.ppf((1 + t) / 2)), "1 + target"),
        ("ex-10-shift", shift(quantile=norm.isf), "not a real number"),
        (
            "ex-10-shift",
            from_quantile(lambda q, n: 2 * q**2 - 2 * q * math.sqrt(q**2 + n)),
            "not a real number",
        ),
        ("ex-10-shift", lambda n, k, t: (-1.0) ** 0.5, "not a real number"),
        ("ex-10-shift", lambda n, k, t: np.float64("nan"), "not a real number"),
        (
            "ex-10-shift",
            from_quantile(lambda q, n: 2 * q * math.sqrt(q**2 + n) - 2 * q**2),
            "without its sign",
        ),
        (
            "ex-10-shift",
            from_quantile(lambda q, n: 2 * q**2 + 2 * q * math.sqrt(n)),
            "the inner root",
        ),
        (
            "ex-10-shift",
            from_quantile(lambda q, n: q * math.sqrt(2 * n)),
            "a normal image only",
        ),
        (
            "ex-10-shift",
            from_quantile(lambda q, n: 2 * q**2 + q * math.sqrt(4 * q**2 + 2 * n)),
            "the defective image only",
        ),
        (
            "ex-10-shift",
            from_quantile(lambda q, n: (q**2 + q * math.sqrt(q**2 + 4 * n)) / 2),
            "factor 4",
        ),
        ("ex-10-shift", lambda n, k, t: np.roots([1, -4, -4 * n]), "one number"),
        ("ex-10-shift", searched(0.02), "lower the tolerance"),
        ("ex-10-shift", lambda n, k, t: brentq(math.exp, 0, 1), "raised ValueError"),
        ("ex-10-shift", lambda n, k, t: 1.0, "should be"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
