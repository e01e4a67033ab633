"""Langevin sampling: draw x from p(x) = exp(-E(x)) / Z without Z (chapter 3)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebmlib.energy import Energy, energies, frozen, value_and_gradient


class ChainDiverged(RuntimeError):  # noqa: N818
    """A chain met a NaN or infinite energy, gradient or position."""


@dataclass(frozen=True)
class ChainHealth:
    """The vital signs of a batch of chains.

    Attributes:
        drift_to_noise: step_size * rms(gradient) / noise, averaged over the steps.
            Near 0: a random walk. Far above 1: gradient descent.
        clip_fraction: share of the gradient's entries that clip_grad cut, in [0, 1].
        saturated: share of values that end on a bound, in [0, 1]; 0 without bounds.
        energy_start: mean energy of the batch before the first step.
        energy_end: mean energy of the batch after the last step.
        spread: rms difference per value between two chains at the end; 0 when all
            chains have collapsed onto one image, or when there is only one.
        step_size: the step size that was used.
        noise: the noise that was used.
    """

    drift_to_noise: float
    clip_fraction: float
    saturated: float
    energy_start: float
    energy_end: float
    spread: float
    step_size: float
    noise: float


@dataclass(frozen=True)
class Chain:
    """What `langevin` returns.

    Attributes:
        x: the final positions, (B, *shape), detached.
        health: the vital signs.
        trajectory: (T + 1, B, *shape), the start included, or None.
    """

    x: Tensor
    health: ChainHealth
    trajectory: Tensor | None = None


def langevin(
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    step_size: float | None = None,
    snr: float | None = None,
    noise: float | None = None,
    clip_grad: float | None = None,
    bounds: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    autocast: bool = False,
    trajectory: bool = False,
    callback: Callable[[int, dict[str, Any]], None] | None = None,
) -> Chain:
    """Unadjusted Langevin dynamics: x <- x - step_size * dE/dx + noise * N(0, I).

    With noise=None the noise is sqrt(2 step_size), and the chains converge to p as
    the step goes to 0 (Welling & Teh 2011). With a smaller noise of its own the chain
    is *cold*: for a small step it samples exp(-E/T) with the temperature
    T = noise^2 / (2 step_size), if it runs long enough to cross the barriers. Short
    cold runs are the usual way to train an image EBM (Nijkamp et al. 2019; Du &
    Mordatch 2019).

    If it fails: the energy does not fall and drift_to_noise is below 0.05: raise the
    step or the snr. `ChainDiverged`: lower it (a quadratic energy of curvature a
    needs step_size < 2 / a), or set clip_grad and bounds.

    Args:
        energy: any energy. A module runs in eval mode, its parameters receive no
            gradient, and flags and mode are put back, after an interrupt as well.
        x: starting points (B, *shape); left unchanged.
        steps: number of steps T.
        step_size: the step. Give exactly one of step_size and snr.
        snr: signal-to-noise ratio step_size * rms(gradient) / noise, from which the
            step is set once, with the (clipped) gradient at the start. With exact
            noise this means step_size = 2 (snr / rms)^2.
        noise: standard deviation of the noise; None means sqrt(2 step_size).
        clip_grad: c clamps each entry of the gradient to [-c, c].
        bounds: (low, high) clamps x after each step.
        generator: the source of the noise; required unless noise=0.
        autocast: compute energy and gradient in bfloat16. Faster only where the
            hardware multiplies bfloat16; many times slower on a CPU that does not.
        trajectory: keep all positions (memory: T + 1 times x).
        callback: called as callback(t, info) before step t = 0 ... T-1 with x, energy
            (B,), gradient, step_size and noise.

    Raises:
        ValueError: an option is out of range, or the energy has the wrong shape.
        ChainDiverged: a NaN or an infinity; nothing is clamped away or hidden.
    """
    _check_options(steps, step_size, snr, noise, clip_grad, bounds, generator)
    x = x.detach()
    path = [x]
    drift, clipped = 0.0, 0.0
    precision = torch.autocast(x.device.type, torch.bfloat16, enabled=autocast)
    with frozen(energy), torch.no_grad(), precision:
        for t in range(steps):
            value, gradient = value_and_gradient(energy, x)
            _check_finite(t, energy=value, gradient=gradient)
            if clip_grad is not None:
                clipped += (gradient.abs() > clip_grad).float().mean()
                gradient = gradient.clamp(-clip_grad, clip_grad)
            rms = gradient.square().mean().sqrt()
            if t == 0:
                start = value
                step_size, noise = _scale(float(rms), step_size, snr, noise)
            if callback is not None:
                moment = {"x": x, "energy": value, "gradient": gradient}
                callback(t, moment | {"step_size": step_size, "noise": noise})

            x = x - step_size * gradient
            if noise > 0:
                x = x + noise * _randn_like(x, generator)
            if bounds is not None:
                x = x.clamp(*bounds)

            drift += step_size * rms
            _check_finite(t, x=x)
            if trajectory:
                path.append(x)
        end = energies(energy, x, batch_size=len(x))

    health = ChainHealth(
        drift_to_noise=float(drift) / (steps * noise) if noise > 0 else math.inf,
        clip_fraction=float(clipped) / steps,
        saturated=_saturated(x, bounds),
        energy_start=float(start.mean()),
        energy_end=float(end.mean()),
        spread=_spread(x),
        step_size=step_size,
        noise=noise,
    )
    return Chain(x, health, torch.stack(path) if trajectory else None)


def _scale(
    rms: float, step_size: float | None, snr: float | None, noise: float | None
) -> tuple[float, float]:
    """Step size and noise from what was given and the rms gradient at the start."""
    if step_size is None:
        if rms == 0:
            raise ValueError(
                "the gradient is zero at the start, so snr cannot set the step; "
                "give step_size"
            )
        step_size = 2 * (snr / rms) ** 2 if noise is None else snr * noise / rms
    return step_size, math.sqrt(2 * step_size) if noise is None else noise


def _randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    # Drawn where the generator lives: a CPU generator gives the same chain anywhere.
    device = generator.device if generator is not None else x.device
    noise = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype)
    return noise.to(x.device)


def _saturated(x: Tensor, bounds: tuple[float, float] | None) -> float:
    if bounds is None:
        return 0.0
    return float(((x <= bounds[0]) | (x >= bounds[1])).float().mean())


def _spread(x: Tensor) -> float:
    # The mean squared difference of two draws is twice their variance.
    return math.sqrt(2 * float(x.float().var(0).mean())) if len(x) > 1 else 0.0


def _check_finite(t: int, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ChainDiverged(
                f"step {t}: {name} has {bad} of {tensor.numel()} values that are NaN "
                "or infinite. Lower step_size (or snr), or set clip_grad and bounds; "
                "if it happens at step 0, the energy itself is broken: lower the "
                "learning rate or raise the energy penalty."
            )


def _check_options(
    steps: int,
    step_size: float | None,
    snr: float | None,
    noise: float | None,
    clip_grad: float | None,
    bounds: tuple[float, float] | None,
    generator: torch.Generator | None,
) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number >= 1; got {steps!r}")
    if (step_size is None) == (snr is None):
        raise ValueError(
            f"give exactly one of step_size and snr; got {step_size} and {snr}"
        )
    for name, v in {"step_size": step_size, "snr": snr, "clip_grad": clip_grad}.items():
        if v is not None and not 0 < v < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {v}")
    if noise is not None and not 0 <= noise < math.inf:
        raise ValueError(f"noise must be None or >= 0 and finite; got {noise}")
    if noise == 0 and snr is not None:
        raise ValueError("snr needs noise; with noise=0 give step_size")
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be (low, high) with low < high; got {bounds}")
    if noise != 0 and generator is None:
        raise ValueError(
            "give generator=torch.Generator().manual_seed(...), so that the chain can "
            "be repeated; only noise=0 needs none"
        )
