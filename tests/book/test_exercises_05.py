"""Typical answers to the exercises of chapter 5, and the hint that each must get."""

import math

import pytest
import torch

from ebmbook.exercises import check
from ebmlib.energy import input_gradient


def denoiser(step=lambda sigma: -(sigma**2), keep=1.0):
    def answer(energy, noisy, sigma):
        return keep * noisy + step(sigma) * input_gradient(energy, noisy)

    return answer


def logit(e=-1.0, q=-1.0, ratio=lambda ratio: -math.log(ratio)):
    def answer(energy, log_noise, x, nu):
        return e * energy(x) + q * log_noise(x) + ratio(nu)

    return answer


def divided(energy, log_noise, x, nu):
    return -(energy(x) + log_noise(x)) / nu


def by_mean(energy, noisy, sigma):
    noisy.requires_grad_()
    energy(noisy).mean().backward()
    return noisy - sigma**2 * noisy.grad


def in_double(answer):
    return lambda *arguments: answer(*arguments).double()


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-05-denoise", denoiser()),
        ("ex-05-denoise", in_double(denoiser())),
        ("ex-05-logit", logit()),
        ("ex-05-logit", in_double(logit())),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


def test_an_answer_with_a_graph_is_accepted():
    def answer(energy, noisy, sigma):
        noisy.requires_grad_()
        (slope,) = torch.autograd.grad(energy(noisy).sum(), noisy)
        return noisy - sigma**2 * slope

    assert check("ex-05-denoise", answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-05-denoise", denoiser(lambda s: s**2), "subtract it"),
        ("ex-05-denoise", denoiser(lambda s: -s), "sigma squared, not sigma"),
        ("ex-05-denoise", denoiser(lambda s: -2 * s**2), "twice too far"),
        ("ex-05-denoise", by_mean, "not their mean"),
        ("ex-05-denoise", denoiser(lambda s: -1.0), "has a size"),
        ("ex-05-denoise", denoiser(lambda s: -(s**2) / 2), "factor 2"),
        ("ex-05-denoise", denoiser(lambda s: s**2, keep=0.0), "guess of the noise"),
        ("ex-05-denoise", lambda energy, noisy, sigma: noisy, "minus the gradient"),
        ("ex-05-denoise", lambda energy, noisy, sigma: 3, "a tensor (64, 2)"),
        ("ex-05-denoise", lambda energy, noisy, sigma: energy(noisy), "got (64,)"),
        ("ex-05-logit", logit(ratio=lambda nu: 0.0), "makes data rarer"),
        ("ex-05-logit", logit(ratio=math.log), "data *less* likely"),
        ("ex-05-logit", logit(ratio=lambda nu: -nu), "enters as log ratio"),
        ("ex-05-logit", divided, "enters as log ratio"),
        ("ex-05-logit", logit(ratio=lambda nu: -math.log(1 + nu)), "not 1 + ratio"),
        ("ex-05-logit", logit(1.0, 1.0, math.log), "x is noise"),
        ("ex-05-logit", logit(e=1.0), "sign of E"),
        ("ex-05-logit", logit(q=1.0), "sign of log q"),
        ("ex-05-logit", logit(q=0.0), "log q is missing"),
        (
            "ex-05-logit",
            lambda *arguments: torch.sigmoid(logit()(*arguments)),
            "the probability",
        ),
        ("ex-05-logit", lambda energy, q, x, nu: torch.zeros(len(x)), "logarithm of"),
        ("ex-05-logit", lambda energy, q, x, nu: 0.0, "one logit each"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message


def test_a_missing_answer_is_open():
    for label in ("ex-05-denoise", "ex-05-logit"):
        assert check(label, lambda *arguments: None).message.startswith("open. ")
