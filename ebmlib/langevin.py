"""Langevin sampling: draw x from p(x) = exp(-E(x)) / Z without Z (chapter 3)."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebmlib.energy import (
    Energy,
    all_finite,
    check_energy,
    check_input,
    check_positive,
    differentiate,
    frozen,
    full_precision,
    to_device_of,
)
from ebmlib.random import check_generator, randn

READ_EVERY = 10  # steps between two readings of the vital signs


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
        x: the final positions, (B, *shape), detached, on the energy's device.
        health: the vital signs.
        trajectory: (T + 1, B, *shape), the start included, or None.
    """

    x: Tensor
    health: ChainHealth
    trajectory: Tensor | None = None


def langevin_step(
    x: Tensor,
    gradient: Tensor,
    step_size: float,
    noise: float,
    generator: torch.Generator | None,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """The next x: x - step_size * gradient + noise * N(0, I), clamped to bounds."""
    x = x - step_size * gradient
    if noise > 0:
        x += noise * randn(x.shape, generator, like=x)
    return x if bounds is None else x.clamp_(*bounds)


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
            gradient, and flags and mode are restored, after an interrupt as well.
        x: starting points (B, *shape), moved to the energy's device; left unchanged.
        steps: number of steps T.
        step_size: the step. Give exactly one of step_size and snr.
        snr: signal-to-noise ratio step_size * rms(gradient) / noise, from which the
            step is set once, with the (clipped) gradient at the start. With exact
            noise this means step_size = 2 (snr / rms)^2.
        noise: standard deviation of the noise; None means sqrt(2 step_size).
        clip_grad: c clamps each entry of the gradient to [-c, c].
        bounds: (low, high) clamps x after each step.
        generator: the source of the noise; required unless noise=0. A CPU generator
            gives the same noise on every device, one of the energy's device is faster.
        autocast: compute energy and gradient in bfloat16. Faster only where the
            hardware multiplies bfloat16; many times slower on a CPU that does not.
        trajectory: keep all positions (memory: T + 1 times x).
        callback: called as callback(t, info) before step t = 0 ... T-1 with x, energy
            (B,), gradient, step_size and noise.

    Raises:
        ValueError: an option is out of range, or the energy has the wrong shape.
        ChainDiverged: a NaN, an infinity or a gradient whose square overflows, with
            the first step that has one; nothing is clamped away or hidden. Without a
            callback it is found up to READ_EVERY steps later.
    """
    _check_options(steps, step_size, snr, noise, clip_grad, bounds, generator)
    check_input(x)
    x = to_device_of(energy, x.detach())
    path = [x]
    vitals = _VitalSigns(read_every=READ_EVERY if callback is None else 1)
    with frozen(energy), torch.no_grad(), _precision(x.device, autocast):
        for t in range(steps):
            value, gradient = differentiate(energy, x)
            clipping: list[Tensor] = []
            if clip_grad is not None:
                gradient, clipping = _clip(gradient, clip_grad)
            square = gradient.square().mean()
            vitals.note(value.mean(), square, *clipping)
            if step_size is None or noise is None:
                step_size, noise = _scale(square.sqrt(), step_size, snr, noise)
            if callback is not None:
                moment = {"x": x, "energy": value, "gradient": gradient}
                callback(t, moment | {"step_size": step_size, "noise": noise})
            x = langevin_step(x, gradient, step_size, noise, generator, bounds)
            if trajectory:
                path.append(x)
        vitals.read()
        if not all_finite(x):
            raise _diverged(steps - 1, "x")
        end = check_energy(energy(x), len(x))
    assert step_size is not None and noise is not None  # set in the first step
    health = _health(vitals.rows, x, end, bounds, step_size, noise)
    return Chain(x, health, torch.stack(path) if trajectory else None)


class _VitalSigns:
    """The figures of each step, which are read every `read_every` steps.

    Each reading takes time, and on an accelerator waits for all work that is queued
    there. No divergence is missed in between, as a NaN in x stays.
    """

    def __init__(self, read_every: int):
        self.read_every = read_every
        self.noted: list[tuple[Tensor, ...]] = []
        self.rows: list[list[float]] = []  # E, mean squared dE/dx, those of _clip

    def note(self, *figures: Tensor) -> None:
        """Keep the figures of a step, each without dimensions."""
        self.noted.append(figures)
        if len(self.noted) == self.read_every:
            self.read()

    def read(self) -> None:
        """Append what was noted to `rows`.

        Raises:
            ChainDiverged: a figure is not finite; for the first such step.
        """
        if not self.noted:
            return
        figures = torch.stack([figure for row in self.noted for figure in row])
        for row in figures.view(len(self.noted), -1).tolist():
            if not all(map(math.isfinite, row)):
                name = "the gradient" if math.isfinite(row[0]) else "the energy"
                raise _diverged(len(self.rows), name)
            self.rows.append(row)
        self.noted = []


def _clip(gradient: Tensor, limit: float) -> tuple[Tensor, list[Tensor]]:
    """The clipped gradient, and two figures: the share that was cut, and the largest.

    The largest absolute value, without which clipping would hide an infinity.
    """
    clipped = gradient.clamp(-limit, limit)
    low, high = gradient.aminmax()
    share = (clipped != gradient).sum() / gradient.numel()
    return clipped, [share, torch.maximum(high, -low)]


def _health(
    rows: list[list[float]],
    x: Tensor,
    end: Tensor,
    bounds: tuple[float, float] | None,
    step_size: float,
    noise: float,
) -> ChainHealth:
    """The vital signs, from the figures of the steps and the end of the chains."""
    drift = step_size * sum(math.sqrt(row[1]) for row in rows) / len(rows)
    return ChainHealth(
        drift_to_noise=drift / noise if noise > 0 else math.inf,
        clip_fraction=sum(sum(row[2:3]) for row in rows) / len(rows),
        saturated=_saturated(x, bounds),
        energy_start=rows[0][0],
        energy_end=float(end.mean()),
        spread=_spread(x),
        step_size=step_size,
        noise=noise,
    )


def _precision(device: torch.device, autocast: bool) -> AbstractContextManager[object]:
    if autocast:
        return torch.autocast(device.type, torch.bfloat16)
    return full_precision(device)


def _scale(
    rms: Tensor, step_size: float | None, snr: float | None, noise: float | None
) -> tuple[float, float]:
    """Step size and noise from what was given and the rms gradient at the start."""
    if snr is not None:
        size = float(rms)
        if size == 0:
            raise ValueError(
                "the gradient is zero at the start, so snr cannot set the step; "
                "give step_size"
            )
        step_size = 2 * (snr / size) ** 2 if noise is None else snr * noise / size
    assert step_size is not None  # exactly one of the two is given
    return step_size, math.sqrt(2 * step_size) if noise is None else noise


def _saturated(x: Tensor, bounds: tuple[float, float] | None) -> float:
    if bounds is None:
        return 0.0
    return float(((x <= bounds[0]) | (x >= bounds[1])).float().mean())


def _spread(x: Tensor) -> float:
    # The mean squared difference of two draws is twice their variance.
    if len(x) == 1:
        return 0.0
    x = x.float()
    variance = (x - x.mean(0)).square().mean() * len(x) / (len(x) - 1)
    return math.sqrt(2 * float(variance))


def _diverged(t: int, name: str) -> ChainDiverged:
    return ChainDiverged(
        f"step {t}: {name} has values that are NaN or infinite. Lower step_size (or "
        "snr), or set clip_grad and bounds; if it happens at step 0, the energy itself "
        "is broken: lower the learning rate or raise the energy penalty."
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
    check_positive(steps=steps)
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
    if noise != 0:
        check_generator(generator)
