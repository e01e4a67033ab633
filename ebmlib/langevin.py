"""Langevin sampling: draw x from p(x) = exp(-E(x)) / Z without Z (chapter 3).

`langevin` moves a batch of chains; `ReplayBuffer` keeps chains alive between training
steps, so that short runs add up to long ones; the functions at the end say where a
new chain starts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebmlib.energy import Energy, energies, frozen, value_and_gradient

Start = Callable[[int, torch.Generator], Tensor]  # n -> (n, *shape) in [0, 1]


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


class ReplayBuffer:
    """Chains that live on between training steps (Tieleman 2008; Du & Mordatch 2019).

    Chains are stored as uint8, a quarter of the memory, and de-quantized by uniform
    jitter when drawn: (u + U[0, 1)) / 256. So x comes back within 1/256 and without
    the steps that a network could learn to see. Lives on the CPU.

    Args:
        size: number of chains.
        start: where a new chain starts: start(n, generator) -> (n, *shape) in [0, 1].
        fresh: the chance that a drawn chain is thrown away and begun anew from
            `start`. Adding a little noise to an old chain would not be a new start.
        generator: fills the buffer. Later draws use the generator of the call, so
            that who owns the generator can save its state and resume exactly.

    Attributes:
        pixels: uint8 (size, *shape).
        ages: int64 (size,), how many rounds of Langevin each chain has been through
            since its last start.
    """

    def __init__(
        self,
        size: int,
        start: Start,
        *,
        fresh: float = 0.05,
        generator: torch.Generator,
    ):
        if size < 1 or not 0 <= fresh <= 1:
            raise ValueError(
                f"size must be >= 1 and fresh in [0, 1]; got {size} and {fresh}"
            )
        self.start, self.fresh = start, fresh
        counts = [len(part) for part in torch.arange(size).split(256)]
        self.pixels = torch.cat([_quantize(start(n, generator)) for n in counts])
        if len(self.pixels) != size:
            raise ValueError(
                f"start(n, generator) must return n images: {size} were asked for "
                f"in all, got {len(self.pixels)}"
            )
        self.ages = torch.zeros(size, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.pixels)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n different chains: positions (n, *shape) in [0, 1] and index (n,)."""
        if not 1 <= n <= len(self):
            raise ValueError(
                f"n must be between 1 and the size {len(self)}; got {n}. "
                "Use a smaller batch or a larger buffer."
            )
        index = torch.randperm(len(self), generator=generator)[:n]
        anew = index[torch.rand(n, generator=generator) < self.fresh]
        if len(anew):
            self._store(anew, self.start(len(anew), generator))
            self.ages[anew] = 0
        levels = self.pixels[index].float()
        jitter = torch.rand(levels.shape, generator=generator)
        # 16 random bits, so that level + jitter is exact and never rounds a level up.
        jitter = (jitter * 2**16).floor() / 2**16
        return (levels + jitter) / 256, index

    def write(self, index: Tensor, x: Tensor) -> None:
        """Put chains back after a round: x (n, *shape) in [0, 1] at index (n,)."""
        self._store(index, x)
        self.ages[index] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes, as copies."""
        return {"pixels": self.pixels.clone(), "ages": self.ages.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue exactly where `state_dict` was taken."""
        for name, mine in self.state_dict().items():
            if name not in state:
                raise ValueError(f"the buffer's state lacks {name!r}; has {[*state]}")
            got = state[name]
            if got.shape != mine.shape or got.dtype != mine.dtype:
                raise ValueError(
                    f"{name} must be {mine.dtype} {tuple(mine.shape)}, got {got.dtype} "
                    f"{tuple(got.shape)}; build the buffer with the saved size and "
                    "image shape"
                )
        self.pixels = state["pixels"].detach().cpu().clone()
        self.ages = state["ages"].detach().cpu().clone()

    def _store(self, index: Tensor, x: Tensor) -> None:
        if index.shape != (len(x),) or x.shape[1:] != self.pixels.shape[1:]:
            raise ValueError(
                f"expected index (n,) and x (n, {', '.join(map(str, x.shape[1:]))}) "
                f"for a buffer of {tuple(self.pixels.shape)}; got "
                f"{tuple(index.shape)} and {tuple(x.shape)}"
            )
        self.pixels[index.cpu()] = _quantize(x)


# ------------------------------------------------------- where a new chain starts


def uniform_noise(shape: tuple[int, ...]) -> Start:
    """Start from independent uniform pixels; shape is that of one image, (C, H, W)."""

    def start(n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, *shape, generator=generator)

    return start


def fitted_gaussian(images: Tensor) -> Start:
    """Start from a Gaussian fitted to the pixels of `images`, clamped to [0, 1].

    mean + sum_i z_i (x_i - mean) / sqrt(N - 1) with z_i ~ N(0, 1) has exactly the
    covariance of the N images, and the matrix, one row per pixel, is never built.

    Args:
        images: (N, *shape) in [0, 1], N >= 2.
    """
    if len(images) < 2:
        raise ValueError(f"a covariance needs at least 2 images; got {len(images)}")
    mean = images.mean(0)

    def start(n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, len(images), generator=generator) / (len(images) - 1) ** 0.5
        total = z.sum(1).view(-1, *[1] * mean.ndim)
        mixed = torch.tensordot(z, images, dims=1)  # (n, *shape)
        return (mean + mixed - total * mean).clamp(0, 1)

    return start


def corrupted_images(
    images: Tensor,
    corrupt: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]],
) -> Start:
    """Start from normal images with artificial defects.

    Args:
        images: (N, C, H, W) in [0, 1].
        corrupt: corrupt(images, generator) -> (corrupted images, masks), for example
            `ebmlib.data.corruption.corrupt`.
    """
    if len(images) == 0:
        raise ValueError("corrupted_images needs at least one image; got none")

    def start(n: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(images), (n,), generator=generator)
        return corrupt(images[chosen], generator)[0]

    return start


# -------------------------------------------------------------------- small print


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


def _quantize(x: Tensor) -> Tensor:
    if not x.is_floating_point() or not ((x >= 0) & (x <= 1)).all():
        raise ValueError(
            "the buffer stores float images in [0, 1]; got "
            f"{x.dtype} in [{float(x.min()):.3g}, {float(x.max()):.3g}]. "
            "Run the chain with bounds=(0, 1)."
        )
    return (x.detach() * 256).floor().clamp(max=255).to("cpu", torch.uint8)


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
