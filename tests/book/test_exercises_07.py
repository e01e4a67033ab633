"""Typical answers to the exercises of chapter 7, and the hint that each must get."""

import pytest
import torch

from ebmbook.exercises import check


def rms(gradient):
    return gradient.square().mean().sqrt()


def without_gradient(f, x, negatives):
    with torch.no_grad():
        return f(negatives).mean() - f(x).mean()


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-07-step", lambda g, snr, noise: (snr * noise / rms(g)).view(1).numpy()),
        ("ex-07-sign", lambda f, x, n: f(n.detach()).mean() - f(x).mean()),
        ("ex-07-step", lambda gradient, snr, noise: snr * noise / rms(gradient)),
        ("ex-07-sign", lambda f, x, negatives: f(negatives).mean() - f(x).mean()),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-07-step", lambda g, snr, noise: snr * noise / rms(g) ** 2, "root"),
        ("ex-07-step", lambda g, snr, noise: snr * noise / g.norm(), "not their sum"),
        ("ex-07-step", lambda g, snr, noise: snr * rms(g) / noise, "over noise"),
        ("ex-07-step", lambda g, snr, noise: snr / rms(g), "scale of the noise"),
        ("ex-07-step", lambda g, snr, noise: noise / rms(g), "snr, is missing"),
        ("ex-07-step", lambda g, snr, noise: snr * noise / g.abs().mean(), "magnitude"),
        ("ex-07-step", lambda g, snr, _: 2 * (snr / rms(g)) ** 2, "an exact chain"),
        ("ex-07-step", lambda g, snr, noise: 1.0, "with rms"),
        ("ex-07-step", lambda g, s, noise: g.mean((1, 2, 3)), "one number for all"),
        ("ex-07-sign", lambda f, x, n: (f(n).mean() - f(x).mean()).item(), "a tensor"),
        ("ex-07-sign", lambda f, x, n: (f(n).mean() - f(x).mean()).tolist(), "flow"),
        ("ex-07-sign", without_gradient, "no no_grad"),
        ("ex-07-sign", lambda f, x, n: f(n).detach().mean() - f(x).mean(), "not f's"),
        ("ex-07-sign", lambda f, x, n: f(x).mean() + f(n).mean(), "signs must differ"),
        ("ex-07-sign", lambda f, x, n: -f(x).mean() - f(n).mean(), "signs must differ"),
        ("ex-07-sign", lambda f, x, n: f(x).mean() - f(n).mean(), "other way round"),
        ("ex-07-sign", lambda f, x, n: f(n).sum() - f(x).sum(), "means, not sums"),
        ("ex-07-sign", lambda f, x, n: (f(n).mean() - f(x).mean()) / 2, "factor 1/2"),
        ("ex-07-sign", lambda f, x, n: f(n)[:5] - f(x)[:5], "mean over a batch"),
        ("ex-07-sign", lambda f, x, n: -f(x).mean(), "one mean for the data"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
