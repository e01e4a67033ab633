"""Typical answers to the exercises of chapter 4, and the hint that each must get."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from ebmbook.exercises import check


def moments(sign=1, second=1.0, factors=(0.5, 0.25), reduce=torch.mean):
    def answer(data, samples):
        def statistics(x):
            powers = zip((2, 4), factors, strict=True)
            return torch.stack([factor * reduce(x**p) for p, factor in powers])

        return sign * (statistics(data) - second * statistics(samples))

    return answer


def one_number(data, samples):
    return (data**2 / 2 - data**4 / 4).mean() - (samples**2 / 2).mean()


def everything_at_once(data, samples):
    def phi(x):
        return torch.stack((x**2 / 2, x**4 / 4), dim=1)

    return phi(data)[:300] - phi(samples)


def stop(power=2, infinite=False, weighted=True, noise=2.0, finite=True):
    def answer(k, step_size, a, variances):
        a, s2 = np.array(a), np.array(variances)

        def gradient(precision):
            c = step_size * precision * a
            v = noise / 2 / (precision * a * (1 - finite * c / 2))
            reach = 1.0 if infinite else 1 - (1 - c) ** (power * k)
            return ((a if weighted else 1.0) * reach * (s2 - v)).sum()

        return brentq(gradient, 1e-9, 1 / (step_size * a.max()))

    return answer


def in_the_image(data, samples):
    def slope(x):
        return torch.stack([x.mean(), (x**3).mean()])

    return slope(data) - slope(samples)


def unit_variances(k, step_size, a, variances):
    return stop()(k, step_size, a, [1.0] * len(a))


def no_bracket(k, step_size, a, variances):
    return brentq(lambda precision: 1.0 + precision, 0.1, 1.0)


def likelihood(k, step_size, a, variances):
    return len(a) / np.dot(a, variances)


def score_matching(k, step_size, a, variances):
    return sum(a) / np.dot(np.square(a), variances)


def on_a_grid(k, step_size, a, variances):
    """The right root, moved by less than the digits that used to be printed."""
    return stop()(k, step_size, a, variances) * (1 + 2e-4)


def without_a(k, step_size, a, variances):
    a, s2 = np.array(a), np.array(variances)

    def gradient(precision):
        c = step_size * precision * a
        v = 1 / (precision * (1 - c / 2))
        return (a * (1 - (1 - c) ** (2 * k)) * (s2 - v)).sum()

    return brentq(gradient, 0.5, 1 / (step_size * a.max()))


def squared_in_place(data, samples):
    a, b = data.pow_(2), samples.pow_(2)
    return torch.stack((a.mean() - b.mean(), ((a**2).mean() - (b**2).mean()) / 2)) / 2


def rounded(data, samples):
    return (1e3 * moments()(data, samples)).round() / 1e3


def test_the_right_answer_is_accepted():
    assert check("ex-04-moments", moments()).correct
    assert check("ex-04-stop", stop()).correct
    # As fsolve returns it, an array of one element.
    assert check("ex-04-stop", lambda *case: np.array([stop()(*case)])).correct


def test_an_answer_with_a_graph_or_as_a_list_is_accepted():
    def with_graph(data, samples):
        theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)

        def energy(x):
            return theta[0] * x**2 / 2 + theta[1] * x**4 / 4

        contrast = energy(data).mean() - energy(samples).mean()
        return torch.autograd.grad(contrast, theta)[0]

    assert check("ex-04-moments", with_graph).correct
    assert check("ex-04-moments", lambda d, s: moments()(d, s).tolist()).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-04-moments", moments(sign=-1), "data minus samples"),
        ("ex-04-moments", moments(second=0.0), "second term is missing"),
        ("ex-04-moments", moments(second=-1.0), "*minus* the mean"),
        ("ex-04-moments", moments(factors=(1.0, 1.0)), "factors are missing"),
        ("ex-04-moments", moments(factors=(0.5, 1.0)), "its 1 / 4 is missing"),
        ("ex-04-moments", moments(factors=(1.0, 0.25)), "its 1 / 2 is missing"),
        ("ex-04-moments", moments(factors=(0.5, 0.5)), "not x^4 / 2"),
        ("ex-04-moments", rounded, "close: the relative error"),
        ("ex-04-moments", squared_in_place, "changed its input"),
        ("ex-04-moments", in_the_image, "this is dE/dx"),
        ("ex-04-moments", moments(reduce=torch.sum), "means, not sums"),
        ("ex-04-moments", one_number, "one number for each parameter"),
        ("ex-04-moments", everything_at_once, "got shape (300, 2)"),
        ("ex-04-moments", lambda d, s: torch.zeros(2), "it should be"),
        ("ex-04-stop", stop(infinite=True), "k is infinite"),
        ("ex-04-stop", stop(power=1), "rho squared"),
        ("ex-04-stop", stop(weighted=False), "factor a_i is missing"),
        ("ex-04-stop", stop(noise=1.0), "variance 2 step_size"),
        ("ex-04-stop", stop(finite=False), "variance of the *chain*"),
        ("ex-04-stop", unit_variances, "variances of the data are ignored"),
        ("ex-04-stop", no_bracket, "no change of sign"),
        ("ex-04-stop", without_a, "look at v_i"),
        ("ex-04-stop", on_a_grid, "close: the relative error"),
        ("ex-04-stop", lambda k, *case: stop()(1, *case), "k is ignored"),
        ("ex-04-stop", likelihood, "maximum likelihood"),
        ("ex-04-stop", score_matching, "limit of tiny steps"),
        ("ex-04-stop", lambda k, step_size, a, variances: 1.0, "got 1.0000"),
        ("ex-04-stop", lambda k, step_size, a, variances: "x", "ValueError"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
