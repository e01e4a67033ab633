"""Energies with a known answer: partition functions, exact samples, gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad

from ebmlib.energy import energies, input_gradient
from ebmlib.toy import (
    DoubleWellEnergy,
    GaussianEnergy,
    GaussianMixtureEnergy,
    RingEnergy,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


GAUSSIAN = GaussianEnergy(double([0.5, -1.0]), double([[1.0, 0.6], [0.6, 2.0]]))
MIXTURE = GaussianMixtureEnergy(
    double([[-1.5, 0.0], [1.5, 1.0]]), double([0.4, 0.7]), double([1.0, 3.0])
)
RING = RingEnergy(radius=1.5, width=0.4)
WELL = DoubleWellEnergy(barrier=3.0, separation=1.2, width=0.5)
TOYS = {"gaussian": GAUSSIAN, "mixture": MIXTURE, "ring": RING, "well": WELL}


@pytest.mark.parametrize("name", TOYS)
def test_partition_function_equals_numerical_quadrature(name):
    energy = TOYS[name]

    def density(y, x):
        return math.exp(-float(energy(double([[x, y]]))))

    step = 0.05  # the trapezoid rule is spectrally exact for such smooth bumps
    axis = torch.arange(-9, 9, step, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    by_sum = float(torch.logsumexp(-energy(grid), 0)) + 2 * math.log(step)
    # The ring has a cusp at the origin, hence the looser tolerance.
    assert energy.log_partition() == pytest.approx(by_sum, abs=1e-5)
    if name == "gaussian":
        by_quad, _ = dblquad(density, -8, 8, -8, 8, epsabs=1e-6)
        assert energy.log_partition() == pytest.approx(math.log(by_quad), abs=1e-5)


@pytest.mark.parametrize("radius,width", [(2.0, 0.2), (0.3, 1.0), (1.0, 1.0)])
def test_ring_partition_function_in_polar_coordinates(radius, width):
    z, _ = quad(
        lambda r: 2 * math.pi * r * math.exp(-((r - radius) ** 2) / 2 / width**2),
        0,
        radius + 12 * width,
    )
    assert RingEnergy(radius, width).log_partition() == pytest.approx(math.log(z))


@pytest.mark.parametrize("name", TOYS)
def test_exact_samples_have_the_moments_of_the_density(name):
    energy, n = TOYS[name], 40_000
    x = energy.sample(n, seeded()).double()
    axis = torch.arange(-9, 9, 0.05, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    p = torch.softmax(-energy(grid), 0)[:, None]
    for moment in (lambda v: v, torch.square, lambda v: v.prod(1, keepdim=True)):
        expected = (p * moment(grid)).sum(0)
        sigma = (p * moment(grid).square()).sum(0).sqrt() / n**0.5
        assert ((moment(x).mean(0) - expected).abs() < 5 * sigma).all()


def test_ring_samples_have_the_radius_density_of_the_ring():
    # P(|x| < r) by quadrature against the empirical distribution (Kolmogorov).
    energy, n = RingEnergy(0.8, 0.5), 20_000
    radii = energy.sample(n, seeded()).norm(dim=1).double().sort().values.numpy()
    axis = np.linspace(0, 8, 20_001)
    density = axis * np.exp(-((axis - 0.8) ** 2) / (2 * 0.25))
    cdf = np.concatenate(([0], np.cumsum((density[1:] + density[:-1]) / 2)))
    distance = np.abs(
        np.interp(radii, axis, cdf / cdf[-1]) - (np.arange(n) + 0.5) / n
    ).max()
    assert distance < 1.63 / n**0.5  # 1 % level


def test_mean_energy_of_a_gaussian_is_half_its_dimension():
    x = GAUSSIAN.sample(40_000, seeded())
    assert GAUSSIAN(x).mean().item() == pytest.approx(1.0, abs=0.03)


def test_the_same_seed_gives_the_same_samples():
    for energy in TOYS.values():
        assert torch.equal(energy.sample(50, seeded(3)), energy.sample(50, seeded(3)))


def test_toy_energies_refuse_impossible_parameters():
    with pytest.raises(ValueError, match="positive definite"):
        GaussianEnergy(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match=r"covariance \(d, d\)"):
        GaussianEnergy(torch.zeros(2), torch.eye(3))
    with pytest.raises(ValueError, match="stds must be positive"):
        GaussianMixtureEnergy([[0.0, 0.0]], [-1.0], [1.0])
    with pytest.raises(ValueError, match=r"means must be \(K, d\)"):
        GaussianMixtureEnergy([[0.0, 0.0]], [1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="must be positive"):
        RingEnergy(radius=1.0, width=0.0)
    with pytest.raises(ValueError, match="must be positive"):
        DoubleWellEnergy(barrier=-1.0)
    with pytest.raises(ValueError, match=r"shape \(B, 2\)"):
        RING(torch.zeros(4, 3))


@pytest.mark.parametrize("name", TOYS)
def test_gradient_equals_finite_differences(name):
    energy, h = TOYS[name], 1e-5
    x = energy.sample(5, seeded()).double()
    gradient = input_gradient(energy, x)
    for seed in range(3):  # along random directions
        u = torch.randn(x.shape, generator=seeded(seed), dtype=x.dtype)
        slope = (energies(energy, x + h * u) - energies(energy, x - h * u)) / (2 * h)
        torch.testing.assert_close((gradient * u).sum(1), slope, rtol=1e-5, atol=1e-7)


def test_gradient_of_a_quadratic_is_linear():
    x = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    expected = (x - GAUSSIAN.mean) @ GAUSSIAN.precision
    torch.testing.assert_close(input_gradient(GAUSSIAN, x), expected)
