"""Chains that go on between training steps, and where they start (chapter 7)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebmlib.energy import check_positive
from ebmlib.random import check_generator, rand, randint, randn, randperm

Start = Callable[[int, torch.Generator], Tensor]  # n -> (n, *shape) in [0, 1]
Corrupt = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]

_CPU = torch.empty(0, dtype=torch.float32, device="cpu")  # what draws are made like


class ReplayBuffer:
    """Chains that go on between training steps (Tieleman 2008; Du & Mordatch 2019).

    Chains are stored as uint8, a quarter of the memory, and de-quantized by uniform
    jitter when drawn: (u + U[0, 1)) / 256. So x comes back within 1/256 and without
    the steps that a network could learn to see. Lies on the CPU. `exact` keeps float32
    as it is, for chains that are not images, such as features.

    Args:
        size: number of chains.
        start: where a new chain starts: start(n, generator) -> (n, *shape) in [0, 1].
        fresh: the chance that a drawn chain is thrown away and begun anew from
            `start`. Adding a little noise to an old chain would not be a new start.
        exact: store float32 of any value, not uint8.
        generator: fills the buffer. Later draws use the generator of the call, so
            that who owns the generator can save its state and resume exactly.

    Attributes:
        pixels: uint8, or float32 if `exact`, (size, *shape).
        ages: int64 (size,), how many rounds of Langevin each chain has been through
            since its last start.
    """

    def __init__(
        self,
        size: int,
        start: Start,
        *,
        fresh: float = 0.05,
        exact: bool = False,
        generator: torch.Generator,
    ):
        check_positive(size=size)
        if not 0 <= fresh <= 1:
            raise ValueError(f"fresh must lie in [0, 1]; got {fresh}")
        check_generator(generator)
        self.start, self.fresh, self.exact = start, fresh, exact
        counts = [min(256, size - done) for done in range(0, size, 256)]
        self.pixels = torch.cat([self._stored(start(n, generator)) for n in counts])
        if len(self.pixels) != size:
            raise ValueError(
                f"start(n, generator) must return n images: {size} were asked for "
                f"in all, got {len(self.pixels)}"
            )
        self.ages = torch.zeros(size, dtype=torch.long, device="cpu")

    def __len__(self) -> int:
        return len(self.pixels)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n different chains: positions (n, *shape) in [0, 1] and index (n,).

        Both lie on the CPU; the generator may be of any device.
        """
        if not 1 <= n <= len(self):
            raise ValueError(
                f"n must be between 1 and the size {len(self)}; got {n}. "
                "Use a smaller batch or a larger buffer."
            )
        index = randperm(len(self), generator, like=_CPU)[:n]
        anew = index[rand((n,), generator, like=_CPU) < self.fresh]
        if len(anew):
            self._store(anew, self.start(len(anew), generator))
            self.ages[anew] = 0
        if self.exact:
            return self.pixels[index], index
        levels = self.pixels[index].float()
        jitter = rand(levels.shape, generator, like=_CPU)
        # 16 random bits, so that level + jitter is exact and never rounds a level up.
        jitter = (jitter * 2**16).floor() / 2**16
        return (levels + jitter) / 256, index

    def write(self, index: Tensor, x: Tensor) -> None:
        """Store chains after a round: x (n, *shape) in [0, 1] at index (n,)."""
        self._store(index, x)
        self.ages[index.cpu()] += 1

    def describe(self) -> dict[str, Any]:
        """The settings, for comparing two runs: size, fresh, exact, and the start.

        The starts of this file are dataclasses, so that their images and corruptions
        can be compared by content. The chains are not settings; see `state_dict`.
        """
        settings = {"size": len(self), "fresh": self.fresh, "start": self.start}
        return settings | ({"exact": True} if self.exact else {})

    def state_dict(self) -> dict[str, Tensor]:
        """What changes from call to call, as copies: nothing of it need be cloned."""
        return {"pixels": self.pixels.clone(), "ages": self.ages.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken; `state` is copied.

        Raises:
            ValueError: the state is of a buffer of another size or image shape. The
                buffer is then left as it was.
        """
        for name, mine in {"pixels": self.pixels, "ages": self.ages}.items():
            if name not in state:
                raise ValueError(f"the buffer's state lacks {name!r}; has {[*state]}")
            got = state[name]
            if got.shape != mine.shape or got.dtype != mine.dtype:
                raise ValueError(
                    f"{name} must be {mine.dtype} {tuple(mine.shape)}, got {got.dtype} "
                    f"{tuple(got.shape)}; build the buffer with the saved size and "
                    "image shape"
                )
        self.pixels = state["pixels"].detach().to("cpu", copy=True)
        self.ages = state["ages"].detach().to("cpu", copy=True)

    def _store(self, index: Tensor, x: Tensor) -> None:
        if index.shape != (len(x),) or x.shape[1:] != self.pixels.shape[1:]:
            raise ValueError(
                f"expected index (n,) and x (n, {', '.join(map(str, x.shape[1:]))}) "
                f"for a buffer of {tuple(self.pixels.shape)}; got "
                f"{tuple(index.shape)} and {tuple(x.shape)}"
            )
        self.pixels[index.cpu()] = self._stored(x)

    def _stored(self, x: Tensor) -> Tensor:
        """Chains as they are kept, on the CPU."""
        return x.detach().to("cpu", torch.float32) if self.exact else _quantize(x)


@dataclass(frozen=True)
class UniformNoise:
    """Start from independent uniform pixels, on the generator's device.

    shape: that of one image, (C, H, W).
    """

    shape: tuple[int, ...]

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, *shape)."""
        return rand((n, *self.shape), generator)


@dataclass(frozen=True)
class StandardNormal:
    """Start from independent N(0, 1), on the generator's device.

    shape: that of one point, such as (F,).
    """

    shape: tuple[int, ...]

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, *shape)."""
        return randn((n, *self.shape), generator)


@dataclass(frozen=True, eq=False)
class FittedGaussian:
    """Start from a Gaussian fitted to the pixels of `images`, clamped to [0, 1].

    mean + sum_i z_i (x_i - mean) / sqrt(N - 1) with z_i ~ N(0, 1) has exactly the
    covariance of the N images, and the matrix, one row per pixel, is never built.

    images: (N, *shape) in [0, 1], N >= 2; the result lies where they do.
    """

    images: Tensor

    def __post_init__(self) -> None:
        if len(self.images) < 2:
            raise ValueError(
                f"a covariance needs at least 2 images; got {len(self.images)}"
            )

    @cached_property
    def mean(self) -> Tensor:
        """The mean image, of the given shape."""
        return self.images.mean(0)

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, *shape)."""
        count = len(self.images)
        z = randn((n, count), generator, like=self.images) / (count - 1) ** 0.5
        total = z.sum(1).view(-1, *[1] * self.mean.ndim)
        mixed = torch.tensordot(z, self.images, dims=1)  # (n, *shape)
        return (self.mean + mixed - total * self.mean).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class CorruptedImages:
    """Start from normal images with artificial defects.

    Args:
        images: (N, C, H, W) in [0, 1].
        corrupt: corrupt(images, generator) -> (corrupted images, masks), for example
            `ebmlib.data.corruption.corrupt`.
    """

    images: Tensor
    corrupt: Corrupt

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise ValueError("corrupted_images needs at least one image; got none")

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n images with replacement and corrupt them: (n, C, H, W)."""
        chosen = randint(len(self.images), (n,), generator, like=self.images)
        return self.corrupt(self.images[chosen], generator)[0]


# Names that read as functions where they are used: ReplayBuffer(9, uniform_noise(s)).
uniform_noise = UniformNoise
fitted_gaussian = FittedGaussian
corrupted_images = CorruptedImages


def _quantize(x: Tensor) -> Tensor:
    if not x.is_floating_point() or not ((x >= 0) & (x <= 1)).all():
        raise ValueError(
            "the buffer stores float images in [0, 1]; got "
            f"{x.dtype} in [{float(x.min()):.3g}, {float(x.max()):.3g}]. "
            "Run the chain with bounds=(0, 1)."
        )
    return (x.detach() * 256).floor().clamp(max=255).to("cpu", torch.uint8)
