"""Typical answers to the exercises of chapter 3, and the hint that each must get."""

import math

import pytest

from ebmbook.exercises import check


def noise(power=0.5, temperature=True, curvature=False, correction=-1.0):
    def answer(step_size, lam, t):
        square = step_size * (2 + correction * step_size * lam)
        square *= t if temperature else 1
        square *= lam if curvature else 1
        return square**power

    return answer


def in_place(path, lags):
    path -= path.mean()
    return size()(path, lags)


def stopped(path, lags):
    x = (path - path.mean()) / path.std()
    total = 0.0
    for k in range(1, lags + 1):
        rho = float((x[k:] * x[:-k]).mean())
        if rho < 0.05:
            break
        total += rho
    return len(path) / (1 + 2 * total)


def centered_below_only(path, lags):
    total = sum((path[k:] * path[:-k]).mean() for k in range(1, lags + 1))
    return len(path) / (1 + 2 * total / path.var())


def size(center=True, factor=2.0, first=1, one=1.0, scale=True, result="size"):
    def answer(path, lags):
        x = path - path.mean() if center else path
        variance = x.square().mean() if scale else 1.0
        total = sum(
            float((x[k:] * x[: len(x) - k]).mean() / variance)
            for k in range(first, lags + 1)
        )
        steps = one + factor * total
        return {
            "size": len(path) / steps,
            "steps": steps,
            "product": len(path) * steps,
        }[result]

    return answer


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-03-noise", noise()),
        ("ex-03-ess", size()),
        ("ex-03-ess", lambda path, lags: size()(path.float(), lags)),
        ("ex-03-ess", lambda path, lags: path.new_tensor([size()(path, lags)])),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-03-noise", noise(power=1), "take its root"),
        ("ex-03-noise", noise(temperature=False), "temperature is missing"),
        ("ex-03-noise", noise(correction=0.0), "as the step goes to 0"),
        ("ex-03-noise", noise(correction=1.0), "with a minus"),
        ("ex-03-noise", noise(curvature=True), "T / lambda, not T"),
        ("ex-03-noise", lambda e, a, t: math.sqrt(t * e), "by rho^2"),
        ("ex-03-noise", lambda e, a, t: round(noise()(e, a, t), 3), "close: the rel"),
        ("ex-03-noise", lambda e, a, t: 1.0, "got 1.0000"),
        ("ex-03-noise", lambda e, a, t: "1 + 1", "ValueError"),
        ("ex-03-ess", size(factor=1.0), "counts twice"),
        ("ex-03-ess", size(first=0), "begins at lag 1"),
        ("ex-03-ess", size(one=0.0), "the 1 in 1 + 2 sum"),
        ("ex-03-ess", size(center=False), "subtract the mean"),
        ("ex-03-ess", size(scale=False), "divide by the variance"),
        ("ex-03-ess", size(result="steps"), "divide n by it"),
        ("ex-03-ess", size(result="product"), "worth less"),
        ("ex-03-ess", lambda path, lags: len(path), "no lag was summed"),
        ("ex-03-ess", lambda path, lags: size()(path, lags - 1), "last lag is missing"),
        ("ex-03-ess", lambda path, lags: size()(path, lags - 2), "no lag was summed"),
        ("ex-03-ess", lambda path, lags: size()(path, lags + 1), "no lag more"),
        ("ex-03-ess", lambda path, lags: size()(path, 50), "no lag more"),
        ("ex-03-ess", lambda path, lags: 7.0, "for our path and 2 lags"),
        ("ex-03-ess", lambda path, lags: path, "one number for all; got 20000"),
        ("ex-03-ess", stopped, "without stopping early"),
        ("ex-03-ess", centered_below_only, "subtract the mean"),
        ("ex-03-ess", in_place, "changed its input"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
