"""Typical answers to the exercises of chapter 10, and the hint that each must get."""

import math

import numpy as np
import pytest
import torch

from ebmbook.exercises import check
from ebmlib.metrics import image_auroc


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


def paired(one=True, two=True, again=False, sign=1, replace=True, own=False):
    """The paired bootstrap, with mistakes: which classes are drawn anew, and how."""

    def answer(score, energy, labels, n, rng):
        rng = np.random.default_rng(7) if own else rng
        gains = []
        for _ in range(n):
            index, other = (draw(labels, rng, (two, one), replace) for _ in range(2))
            other = other if again else index
            gain = image_auroc(score[index], labels[index])
            gains.append(sign * (gain - image_auroc(energy[other], labels[other])))
        return np.array(gains)

    return answer


def draw(labels, rng, anew, replace):
    groups = np.flatnonzero(~labels), np.flatnonzero(labels)
    return np.concatenate(
        [
            rng.choice(group, len(group), replace) if fresh else group
            for group, fresh in zip(groups, anew, strict=True)
        ]
    )


def fewer(score, energy, labels, n, rng):
    half = np.concatenate([np.arange(0, 12, 2), np.arange(12, 20, 2)])
    gains = []
    for _ in range(n):
        index = half[draw(labels[half], rng, (True, True), True)]
        gains.append(auroc_gain(score, energy, labels, index))
    return np.array(gains)


def auroc_gain(score, energy, labels, index):
    areas = (image_auroc(s[index], labels[index]) for s in (score, energy))
    return next(areas) - next(areas)


def of_half(score, energy, labels, n, rng):
    """Half as many images as there are."""
    groups = np.flatnonzero(~labels), np.flatnonzero(labels)
    gains = []
    for _ in range(n):
        index = np.concatenate([rng.choice(g, (len(g) + 1) // 2) for g in groups])
        gains.append(auroc_gain(score, energy, labels, index))
    return np.array(gains)


def of_all_classes(score, energy, labels, n, rng):
    """Without regard to the classes, as a plain bootstrap."""
    draws = (rng.choice(len(labels), len(labels)) for _ in range(n))
    return np.array([auroc_gain(score, energy, labels, index) for index in draws])


def global_random(score, energy, labels, n, rng):
    return paired()(score, energy, labels, n, np.random.default_rng())


def shifted(score, energy, labels, n, rng):
    energy -= energy.min()
    return paired()(score, energy, labels, n, rng)


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-10-soft", soft()),
        ("ex-10-soft", lowered(highest, lambda top, beta: top[:, 0, 0])),
        ("ex-10-soft", lambda m, b: soft()(m, b).tolist()),
        ("ex-10-soft", in_place),
        ("ex-10-paired", paired()),
        ("ex-10-paired", lambda *given: paired()(*given).tolist()),
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
        ("ex-10-paired", paired(again=True), "same* images"),
        ("ex-10-paired", paired(sign=-1), "sign is reversed"),
        ("ex-10-paired", paired(replace=False), "with* replacement"),
        ("ex-10-paired", paired(two=False), "only the anomalous images"),
        ("ex-10-paired", paired(one=False), "only the normal images"),
        ("ex-10-paired", paired(own=True), "the one given"),
        ("ex-10-paired", global_random, "draw from `rng`"),
        ("ex-10-paired", of_all_classes, "from each class"),
        ("ex-10-paired", of_half, "as many as"),
        ("ex-10-paired", fewer, "same probability"),
        ("ex-10-paired", shifted, "changed its input"),
        ("ex-10-paired", lambda *given: paired()(*given).mean(), "all n replicates"),
        (
            "ex-10-paired",
            lambda *given: np.quantile(paired()(*given), [0.025, 0.975]),
            "not their mean",
        ),
        ("ex-10-paired", lambda *given: paired()(*given)[:, None], "shape (1500,)"),
        ("ex-10-paired", lambda *given: "wide", "raised"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
