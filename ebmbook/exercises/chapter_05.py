"""Judges of the exercises of chapter 5, learning without long chains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import tensor
from ebmlib.energy import input_gradient
from ebmlib.toy import GaussianEnergy, GaussianMixtureEnergy


def _same(answer: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(answer, wanted, atol=1e-4, rtol=1e-4)


def _denoise(denoiser) -> str:
    g = torch.Generator().manual_seed(5)
    means = torch.tensor([[-2.0, 0.0], [1.0, 1.0]])
    stds, weights = torch.tensor([0.6, 0.9]), torch.tensor([0.7, 0.3])
    data = GaussianMixtureEnergy(means, stds, weights)
    for sigma in (0.6, 1.5):
        noisy = data.sample(64, g) + sigma * torch.randn(64, 2, generator=g)
        energy = GaussianMixtureEnergy(
            data.means, (data.stds**2 + sigma**2).sqrt(), data.weights
        )
        slope = input_gradient(energy, noisy)
        answer = denoiser(energy, noisy.clone(), sigma)
        answer = tensor(answer, noisy, "one clean point for each noisy one")
        if _same(answer, noisy + sigma**2 * slope):
            raise Hint("the sign: the gradient points uphill, so subtract it.")
        if _same(answer, noisy - sigma * slope):
            raise Hint("the step is sigma squared, not sigma.")
        if _same(answer, noisy - slope):
            raise Hint("the step down the energy has a size: sigma squared.")
        if _same(answer, noisy - sigma**2 / 2 * slope):
            raise Hint("a factor 2 is missing: no Langevin step, go all the way.")
        if _same(answer, noisy - 2 * sigma**2 * slope):
            raise Hint("twice too far: the step is sigma squared, without a factor.")
        if _same(answer, noisy - sigma**2 / len(noisy) * slope):
            raise Hint(
                "sum the energies before backward(), not their mean: each point has a "
                "gradient of its own."
            )
        if _same(answer, sigma**2 * slope):
            raise Hint("this is the guess of the noise; subtract it from the point.")
        if not _same(answer, noisy - sigma**2 * slope):
            raise Hint("for sigma = 1 the guess is the point minus the gradient of E.")
    return "It is the posterior mean, for any density."


def _logit(logit) -> str:
    g = torch.Generator().manual_seed(6)
    energy = GaussianEnergy(torch.zeros(2), torch.eye(2))
    noise = GaussianEnergy(torch.ones(2), 3 * torch.eye(2))
    x = 2 * torch.randn(32, 2, generator=g)

    def log_noise(points: Tensor) -> Tensor:
        return -noise(points) - noise.log_partition()

    e, log_q = energy(x), log_noise(x)
    for ratio in (1, 10):
        more = math.log(ratio)
        answer = tensor(logit(energy, log_noise, x, ratio), e, "one logit each")
        if ratio == 10 and _same(answer, -e - log_q):
            raise Hint("right for equal numbers; ten times the noise makes data rarer.")
        if ratio == 10 and _same(answer, -e - log_q + more):
            raise Hint("the sign of log ratio: more noise makes data *less* likely.")
        divided = ratio == 10 and _same(answer, (-e - log_q) / ratio)
        if _same(answer, -e - log_q - math.log(1 + ratio)):
            raise Hint("noise is `ratio` times as frequent as data, not 1 + ratio.")
        if _same(answer, -e - log_q - ratio) or divided:
            raise Hint("a logit is a logarithm: the ratio enters as log ratio.")
        if _same(answer, e + log_q + more):
            raise Hint('this is the logit of "x is noise"; the sign of all of it.')
        if _same(answer, e - log_q - more):
            raise Hint("the sign of E: log p is minus the energy.")
        if _same(answer, -e + log_q - more):
            raise Hint("the sign of log q: noise density *lowers* the odds of data.")
        if _same(answer, -e - more) or (ratio == 10 and _same(answer, -e)):
            raise Hint("log q is missing: the classifier learns the ratio p / q.")
        if _same(answer, torch.sigmoid(-e - log_q - more)):
            raise Hint("this is the probability; its logit is what is asked for.")
        if not _same(answer, -e - log_q - more):
            raise Hint("take the logarithm of p(x) / (ratio q(x)) with p = exp(-E).")
    return "The energy stays normalized, however much noise you draw."


EXERCISES = {
    "ex-05-denoise": Exercise(
        _denoise, "Begin with ebmlib.energy.input_gradient, the slope of the energy."
    ),
    "ex-05-logit": Exercise(
        _logit, "By Bayes' rule, P(data) / P(noise) = p(x) / (ratio q(x))."
    ),
}
