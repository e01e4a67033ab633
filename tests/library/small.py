"""Small networks, images and checks that several test files use."""

import torch

from ebmlib.networks import ConvEnergy, PatchEnergy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_conv(**options):
    torch.manual_seed(0)
    return ConvEnergy(**{"channels": 2, "width": 4, "depth": 3} | options)


def small_patch(**options):
    torch.manual_seed(0)
    return PatchEnergy(**{"channels": 2, "width": 4, "blocks": 2} | options)


def images(n=2, channels=2, size=32, dtype=torch.float32):
    return torch.rand(n, channels, size, size, generator=seeded(1), dtype=dtype)


def assert_covariance(x, expected, n):
    # The standard error of a covariance of n Gaussian draws (Isserlis).
    d = expected.diagonal()
    error = ((d[:, None] * d + expected**2) / n).sqrt()
    assert ((torch.cov(x.T) - expected).abs() < 5 * error).all()
