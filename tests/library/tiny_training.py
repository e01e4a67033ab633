"""A small energy, objective and run that the tests of training share."""

import torch
from torch import nn

from ebmlib.losses import LossResult
from ebmlib.training import train

IMAGES = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(7))


class TinyEnergy(nn.Module):
    """A sum of SiLU features; the weights are the same in every test."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.1 * torch.randn(8, 48, generator=generator))
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        features = nn.functional.linear(x.flatten(1), self.weight, self.bias)
        return nn.functional.silu(features).sum(1)


def mean_energy(energy, batch, generator):
    """The simplest objective: push E(data) down, with noise and a pull to zero."""
    e = energy(batch + 0.1 * torch.randn(batch.shape, generator=generator))
    loss = e.mean() + 0.1 * e.square().mean()
    return LossResult(loss, {"energy_data": e.mean().item()})


class Poisoned:
    """An objective, but call number `bad` does something wrong."""

    def __init__(self, bad, how, objective=mean_energy):
        self.bad, self.how, self.objective, self._calls = bad, how, objective, 0

    def __call__(self, energy, batch, generator):
        self._calls += 1
        result = self.objective(energy, batch, generator)
        return self.how(energy, result) if self._calls == self.bad else result


def fit(energy=None, objective=mean_energy, **options):
    energy = energy or TinyEnergy()
    settings = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "device": "cpu"}
    return energy, train(energy, IMAGES, objective, **settings | options)


def weights(energy):
    return torch.cat([p.detach().flatten() for p in energy.parameters()])
