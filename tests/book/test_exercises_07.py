"""Typical answers to the exercises of chapter 7, and the hint that each must get."""

import pytest
import torch

from ebmbook.exercises import check
from ebmlib.langevin import langevin


def rms(gradient):
    return gradient.square().mean().sqrt()


def loop(
    *,
    noise=None,
    sign=1,
    persistent=True,
    move=True,
    step=True,
    result=True,
    optimize=None,
):
    """Contrastive divergence by hand, with one thing wrong."""

    def learn(energy, points, chains, generator):
        parameters = list(energy.parameters()) if optimize is None else optimize(energy)
        adam = torch.optim.Adam(parameters)
        for t in range(150):
            adam.param_groups[0]["lr"] = 0.05 * (1 - t / 150)
            x, index = chains.sample(len(points), generator)
            if move:
                options = {"steps": 10, "step_size": 4e-4, "noise": noise}
                x = langevin(energy, x, generator=generator, **options).x
            if persistent:
                chains.write(index, x)
            loss = sign * (energy(points).mean() - energy(x).mean())
            adam.zero_grad()
            loss.backward()
            if step:
                adam.step()
        return energy if result else 0.5

    return learn


def without_gradient(f, x, negatives):
    with torch.no_grad():
        return f(negatives).mean() - f(x).mean()


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-07-loop", loop()),
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
        ("ex-07-step", lambda g, snr, noise: 1.0, "yours is 1.000e+00"),
        ("ex-07-step", lambda g, snr, noise: snr * noise / g.std(), "subtracts the"),
        ("ex-07-step", lambda g, snr, noise: rms(g) / (snr * noise), "upside down"),
        ("ex-07-loop", loop(noise=0.02), "half the variance"),
        ("ex-07-loop", loop(noise=0.0), "too narrow"),
        ("ex-07-loop", loop(persistent=False), "write them back"),
        ("ex-07-loop", loop(move=False), "by Langevin steps"),
        ("ex-07-loop", loop(sign=-1), "the wrong way round"),
        ("ex-07-loop", loop(step=False), "step()"),
        ("ex-07-loop", loop(result=False), "got float"),
        ("ex-07-loop", loop(optimize=lambda e: [e.factor]), "mean is off by"),
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
