"""Energies with a known answer: exact samples and log Z (chapter 2).

The energies of this file have a known log Z and exact samples, so a sampler or a
training loop can be tested against them. They are plain callables without a device:
energies are computed where x lies, and samples lie on the generator's device.
"""

import math
from collections.abc import Callable

import torch
from scipy.integrate import quad
from torch import Tensor

from ebmlib.random import check_generator, choice, rand, randint, randn


class GaussianEnergy:
    """E(x) = (x - mean)^T covariance^-1 (x - mean) / 2, for x of shape (B, d).

    Args:
        mean: (d,).
        covariance: (d, d), symmetric and positive definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        mean, covariance = _floats(mean), _floats(covariance)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"mean must be (d,) and covariance (d, d); got {tuple(mean.shape)} "
                f"and {tuple(covariance.shape)}"
            )
        self.factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed or not torch.allclose(covariance, covariance.T):
            raise ValueError(
                "covariance must be symmetric and positive definite; "
                f"got {covariance.tolist()}"
            )
        self.mean, self.covariance = mean, covariance
        self.precision = torch.cholesky_inverse(self.factor)  # (d, d)

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each row of x: (B, d) -> (B,)."""
        offset = _points(x, len(self.mean)) - self.mean.to(x)  # (B, d)
        return 0.5 * (offset @ self.precision.to(x) * offset).sum(1)  # (B,)

    def log_partition(self) -> float:
        """Log Z = (d log 2 pi + log det covariance) / 2."""
        log_det = 2 * self.factor.diagonal().log().sum()
        return float(0.5 * (len(self.mean) * math.log(2 * math.pi) + log_det))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples, (n, d)."""
        mean, factor = _beside(generator, self.mean, self.factor)
        return mean + randn((n, len(mean)), generator, mean) @ factor.T


class GaussianMixtureEnergy:
    """E(x) = -log sum_k w_k N(x; m_k, s_k^2 I), for x of shape (B, d).

    The components are normalized densities and the weights sum to one, so Z = 1.

    Args:
        means: (K, d).
        stds: (K,), positive.
        weights: (K,), non-negative; divided by their sum. None: all equal.
    """

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor | None = None):
        self.means, self.stds = _floats(means), _floats(stds)
        count = len(self.means)
        weights = torch.ones(count) if weights is None else _floats(weights)
        one_each = self.stds.shape == weights.shape == (count,)
        if self.means.ndim != 2 or not one_each:
            raise ValueError(
                "means must be (K, d), stds (K,) and weights (K,); got "
                f"{tuple(self.means.shape)}, {tuple(self.stds.shape)} and "
                f"{tuple(weights.shape)}"
            )
        if not (self.stds > 0).all() or not (weights >= 0).all() or not weights.sum():
            raise ValueError(
                "stds must be positive and weights non-negative with a positive sum; "
                f"got stds {self.stds.tolist()}, weights {weights.tolist()}"
            )
        self.weights = weights / weights.sum()

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each row of x: (B, d) -> (B,)."""
        d = self.means.shape[1]
        means, stds, weights = (t.to(x) for t in (self.means, self.stds, self.weights))
        squares = (_points(x, d)[:, None] - means).square().sum(2)  # (B, K)
        log_peak = weights.log() - d * (stds * math.sqrt(2 * math.pi)).log()  # (K,)
        return -torch.logsumexp(log_peak - 0.5 * squares / stds**2, dim=1)  # (B,)

    def log_partition(self) -> float:
        """Log Z = 0: this energy is minus the log of a normalized density."""
        return 0.0

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples, (n, d): choose a component, then a Gaussian."""
        means, stds, weights = _beside(generator, self.means, self.stds, self.weights)
        k = choice(weights, n, generator)
        noise = randn((n, means.shape[1]), generator, means)
        return means[k] + stds[k, None] * noise


class RingEnergy:
    """E(x) = (|x| - radius)^2 / (2 width^2), for x of shape (B, 2).

    The density of |x| is proportional to |x| exp(-E), so its mode lies a little
    outside `radius`: the circumference grows with |x|.
    """

    def __init__(self, radius: float = 2.0, width: float = 0.2):
        if not (radius > 0 and width > 0):
            raise ValueError(
                f"radius and width must be positive; got {radius} and {width}"
            )
        self.radius, self.width = float(radius), float(width)

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each row of x: (B, 2) -> (B,)."""
        distance = _points(x, 2).norm(dim=1) - self.radius  # (B,)
        return 0.5 * (distance / self.width).square()

    def log_partition(self) -> float:
        """Log of 2 pi [w^2 e^(-r^2/2w^2) + r w sqrt(pi/2) (1 + erf(r/(w sqrt 2)))]."""
        r, w = self.radius, self.width
        inner = w**2 * math.exp(-(r**2) / (2 * w**2))
        outer = r * w * math.sqrt(math.pi / 2) * (1 + math.erf(r / (w * math.sqrt(2))))
        return math.log(2 * math.pi * (inner + outer))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples, (n, 2), by rejection from a Gaussian radius.

        The tangent of log |x| at the mode m of the radius turns the density into
        the Gaussian N(m, width^2), which lies above it everywhere.
        """
        r, w = self.radius, self.width
        mode = (r + math.sqrt(r**2 + 4 * w**2)) / 2

        def propose(count: int) -> tuple[Tensor, Tensor]:
            radius = mode + w * randn((count,), generator)
            ratio = radius.clamp(min=0) / mode
            return radius, ratio * torch.exp(1 - ratio)

        radius = _rejection(propose, n, generator)
        angle = 2 * math.pi * rand((n,), generator)
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)


class DoubleWellEnergy:
    """E(x) = barrier ((x1/separation)^2 - 1)^2 + (x2/width)^2 / 2, x of shape (B, 2).

    Two wells at x1 = -separation and +separation; `barrier` is the energy between
    them, so exp(-barrier) says how rarely a chain crosses.
    """

    def __init__(
        self, barrier: float = 4.0, separation: float = 1.5, width: float = 0.5
    ):
        if not (barrier > 0 and separation > 0 and width > 0):
            raise ValueError(
                "barrier, separation and width must be positive; "
                f"got {barrier}, {separation} and {width}"
            )
        self.barrier = float(barrier)
        self.separation = float(separation)
        self.width = float(width)

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each row of x: (B, 2) -> (B,)."""
        x1, x2 = _points(x, 2).unbind(1)
        wells = self.barrier * ((x1 / self.separation).square() - 1).square()
        return wells + 0.5 * (x2 / self.width).square()

    def log_partition(self) -> float:
        """Log Z, by numerical quadrature over x1 (relative error below 1e-8)."""
        # (u^2 - 1)^2 >= (|u| - 1)^2: beyond `far` the integrand is below exp(-50).
        far = 1 + math.sqrt(50 / self.barrier)
        half, _ = quad(
            lambda u: math.exp(-self.barrier * (u * u - 1) ** 2), 0, far, epsrel=1e-10
        )
        return math.log(
            2 * self.separation * half * self.width * math.sqrt(2 * math.pi)
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples, (n, 2), by rejection from one Gaussian per well."""
        b = self.barrier

        def propose(count: int) -> tuple[Tensor, Tensor]:
            u = 1 + randn((count,), generator) / math.sqrt(2 * b)
            excess = (u * u - 1).square() - (u - 1).square()  # >= 0 for u >= 0
            return u, torch.exp(-b * excess) * (u >= 0)

        u = _rejection(propose, n, generator)
        side = 2.0 * randint(2, (n,), generator) - 1
        x2 = self.width * randn((n,), generator)
        return torch.stack((self.separation * side * u, x2), dim=1)


def _rejection(
    propose: Callable[[int], tuple[Tensor, Tensor]], n: int, generator: torch.Generator
) -> Tensor:
    """N accepted values; `propose(count)` gives values and acceptance probabilities."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < n:
        value, probability = propose(max(n, 64))
        kept.append(value[rand((len(value),), generator) < probability])
    return torch.cat(kept)[:n]


def _beside(generator: torch.Generator, *tensors: Tensor) -> list[Tensor]:
    """The tensors on the generator's device."""
    check_generator(generator)
    return [tensor.to(generator.device) for tensor in tensors]


def _floats(x: Tensor) -> Tensor:
    """A float tensor of what may be a list or an integer tensor."""
    x = torch.as_tensor(x)
    return x if x.is_floating_point() else x.float()


def _points(x: Tensor, d: int) -> Tensor:
    if x.ndim != 2 or x.shape[1] != d:
        raise ValueError(f"x must have shape (B, {d}); got {tuple(x.shape)}")
    return x
