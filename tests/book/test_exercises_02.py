"""Typical answers to the exercises of chapter 2, and the hint that each must get."""

import math

import pytest
import torch

from ebmbook.exercises import check


def experts(weight=lambda s: s**-2, std=lambda lam, s1, s2: lam**-0.5, divide=True):
    def answer(m1, s1, m2, s2):
        a, b = weight(s1), weight(s2)
        mean = (a * m1 + b * m2) / (a + b if divide else 1)
        return mean, std(s1**-2 + s2**-2, s1, s2)

    return answer


def samples(
    one=1.0, root=0.5, power=2, square=True, rounding=math.ceil, combine=pow, wide=True
):
    def answer(d, tau, error):
        t = tau**2 if square else tau
        if wide and 2 * tau**2 <= 1:
            return math.inf
        return rounding((combine(t / (2 * t - 1) ** root, d) - one) / error**power)

    return answer


def in_float32(d, tau, error):
    if 2 * tau**2 <= 1:
        return math.inf
    tau = torch.tensor([tau])
    return (((tau**2 / (2 * tau**2 - 1).sqrt()) ** d - 1) / error**2).ceil()


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-02-experts", experts()),
        ("ex-02-experts", lambda *case: torch.tensor([experts()(*case)]).T),
        ("ex-02-samples", samples()),
        ("ex-02-samples", lambda *case: torch.tensor([samples()(*case)]).double()),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "answer, hint",
    [
        (experts(weight=lambda s: 1.0), "plain average"),
        (experts(weight=lambda s: s**2), "wider expert"),
        (experts(weight=lambda s: s), "wider expert"),
        (experts(weight=lambda s: 1 / s), "square is missing"),
        (experts(divide=False), "sum of the weights"),
        (experts(weight=lambda s: s**-4), "complete the square"),
        (experts(std=lambda lam, s1, s2: 1 / lam), "square root"),
        (experts(std=lambda lam, s1, s2: lam), "precision 1/s^2"),
        (experts(std=lambda lam, s1, s2: math.hypot(s1, s2)), "energies are added"),
        (experts(std=lambda lam, s1, s2: (s1 + s2) / 2), "standard deviation should"),
        (lambda m1, s1, m2, s2: (math.nan, 1.0), "complete the square"),
        (lambda m1, s1, m2, s2: 1.0, "return two numbers"),
    ],
)
def test_a_typical_mistake_with_experts_gets_its_hint(answer, hint):
    feedback = check("ex-02-experts", answer)
    assert not feedback.correct
    assert hint in feedback.message


@pytest.mark.parametrize(
    "answer, hint",
    [
        (samples(one=0.0), "rho^d - 1"),
        (in_float32, "close: the relative error"),
        (samples(power=1), "1/sqrt(n)"),
        (samples(combine=lambda rho, d: 1 + d * (rho - 1)), "do not add"),
        (samples(combine=lambda rho, d: rho), "to the power d"),
        (samples(square=False), "contains tau^2"),
        (samples(rounding=math.floor), "round up"),
        (samples(root=1.0), "before rounding up"),
        (samples(wide=False), "return math.inf"),
        (lambda d, tau, error: math.nan, "before rounding up"),
        (lambda d, tau, error: "many", "raised ValueError"),
    ],
)
def test_a_typical_mistake_with_samples_gets_its_hint(answer, hint):
    feedback = check("ex-02-samples", answer)
    assert not feedback.correct
    assert hint in feedback.message
