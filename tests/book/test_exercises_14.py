"""Typical answers to the exercises of chapter 14, and the hint that each must get."""

import math

import numpy as np
import pytest
import torch

from ebmbook.exercises import check


def ratio(subtract=1.0, power=0.5, after=0.0, noise_power=2, axis=0, scale=True):
    def answer(path, noise):
        square = path.diff(dim=axis).square().mean()
        if not scale:
            return (square - noise**2).sqrt()
        return (square / noise**noise_power - subtract).abs() ** power - after

    return answer


def last_minus_first(path, noise):
    return ((path[-1] - path[0]).square().mean() / noise**2 - 1).sqrt()


def with_math(path, noise):
    return math.sqrt(float(path.diff(dim=0).square().mean()) / noise - 1)


def in_torch(path, noise):
    return (path.diff(dim=0).square().mean() / noise - 1).sqrt()


def by_norm(path, noise):
    return (path.diff(dim=0).square().sum(-1).mean() / noise**2 - 1).sqrt()


def per_chain(path, noise):
    return (path.diff(dim=0).square().mean((0, 2)) / noise**2 - 1).sqrt()


def rows_of_pixels(chains, data):
    def typical(x):
        distance = torch.cdist(x, x)
        return distance.where(distance > 0, math.inf).amin(-1).median()

    return typical(chains) / typical(data)


def neighbors(itself=False, middle=torch.median, power=1, other=None, inverse=False):
    def nearest(x, y=None):
        y = x if y is None else y
        distance = torch.cdist(x.flatten(1), y.flatten(1)) ** power
        if x is y and not itself:
            distance.fill_diagonal_(math.inf)
        return middle(distance.min(1).values)

    def answer(chains, data):
        top = nearest(chains, data) if other else nearest(chains)
        value = top / nearest(data)
        return 1 / value if inverse else value

    return answer


def all_pairs(chains, data):
    def middle(x):
        return torch.pdist(x.flatten(1)).median()

    return middle(chains) / middle(data)


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-14-ratio", ratio()),
        ("ex-14-ratio", lambda path, noise: float(ratio()(path.double(), noise))),
        ("ex-14-ratio", lambda path, noise: ratio()(path, noise).view(1, 1).numpy()),
        ("ex-14-neighbors", neighbors()),
        ("ex-14-neighbors", neighbors(middle=np.median)),
        ("ex-14-neighbors", neighbors(middle=lambda x: x.quantile(0.5))),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-14-ratio", ratio(power=1), "take its root"),
        ("ex-14-ratio", ratio(subtract=0), "drift and noise"),
        ("ex-14-ratio", ratio(subtract=0, power=1), "then take the root"),
        ("ex-14-ratio", ratio(subtract=0, after=1), "subtract before the root"),
        ("ex-14-ratio", ratio(noise_power=1), "squared, too"),
        ("ex-14-ratio", ratio(scale=False), "divide it by the noise"),
        ("ex-14-ratio", ratio(axis=1), "time is axis 0"),
        ("ex-14-ratio", last_minus_first, "is not a step"),
        ("ex-14-ratio", lambda path, noise: 0.3, "for our path"),
        ("ex-14-ratio", lambda path, noise: path, "one number for all"),
        ("ex-14-ratio", per_chain, "one number for all; got 200"),
        ("ex-14-ratio", with_math, "noise has to be squared"),
        ("ex-14-ratio", in_torch, "noise has to be squared"),
        ("ex-14-ratio", ratio(axis=-1), "differences between coordinates"),
        ("ex-14-ratio", by_norm, "sums over the D coordinates"),
        ("ex-14-ratio", lambda path, noise: math.log("x"), "raised TypeError"),
        ("ex-14-ratio", lambda path, noise: float("x"), "raised ValueError"),
        ("ex-14-neighbors", neighbors(itself=True), "leave the diagonal out"),
        ("ex-14-neighbors", neighbors(inverse=True), "data over chains"),
        ("ex-14-neighbors", neighbors(power=2), "take the root"),
        ("ex-14-neighbors", rows_of_pixels, "flatten each image"),
        ("ex-14-neighbors", lambda *x: neighbors()(*x) * 1.003, "close: the relative"),
        ("ex-14-neighbors", all_pairs, "all pairs"),
        ("ex-14-neighbors", neighbors(other=True), "chains with chains"),
        ("ex-14-neighbors", neighbors(middle=torch.mean), "take the median"),
        ("ex-14-neighbors", lambda chains, data: 1.0, "for our chains"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
