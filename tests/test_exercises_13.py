"""Typical answers to the exercises of chapter 13, and the hint that each must get."""

import math

import pytest
import torch

from ebmlib.exercises import check


def ratio(subtract=1.0, power=0.5, after=0.0, noise_power=2, axis=0, scale=True):
    def answer(path, noise):
        square = path.diff(dim=axis).square().mean()
        if not scale:
            return (square - noise**2).sqrt()
        return (square / noise**noise_power - subtract).abs() ** power - after

    return answer


def last_minus_first(path, noise):
    return ((path[-1] - path[0]).square().mean() / noise**2 - 1).sqrt()


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
        ("ex-13-ratio", ratio()),
        ("ex-13-ratio", lambda path, noise: float(ratio()(path.double(), noise))),
        ("ex-13-neighbors", neighbors()),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-13-ratio", ratio(power=1), "take its root"),
        ("ex-13-ratio", ratio(subtract=0), "drift and noise"),
        ("ex-13-ratio", ratio(subtract=0, power=1), "then take the root"),
        ("ex-13-ratio", ratio(subtract=0, after=1), "subtract before the root"),
        ("ex-13-ratio", ratio(noise_power=1), "squared, too"),
        ("ex-13-ratio", ratio(scale=False), "divide it by the noise"),
        ("ex-13-ratio", ratio(axis=1), "time is axis 0"),
        ("ex-13-ratio", last_minus_first, "is not a step"),
        ("ex-13-ratio", lambda path, noise: 0.3, "for our path"),
        ("ex-13-ratio", lambda path, noise: path, "raised"),
        ("ex-13-neighbors", neighbors(itself=True), "leave the diagonal out"),
        ("ex-13-neighbors", neighbors(inverse=True), "data over chains"),
        ("ex-13-neighbors", neighbors(power=2), "take the root"),
        ("ex-13-neighbors", all_pairs, "all pairs"),
        ("ex-13-neighbors", neighbors(other=True), "chains with chains"),
        ("ex-13-neighbors", neighbors(middle=torch.mean), "take the median"),
        ("ex-13-neighbors", lambda chains, data: 1.0, "for our chains"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
