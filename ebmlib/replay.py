"""Chains that live on between training steps, and where new ones start (chapter 7)."""

from collections.abc import Callable

import torch
from torch import Tensor

Start = Callable[[int, torch.Generator], Tensor]  # n -> (n, *shape) in [0, 1]


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


def _quantize(x: Tensor) -> Tensor:
    if not x.is_floating_point() or not ((x >= 0) & (x <= 1)).all():
        raise ValueError(
            "the buffer stores float images in [0, 1]; got "
            f"{x.dtype} in [{float(x.min()):.3g}, {float(x.max()):.3g}]. "
            "Run the chain with bounds=(0, 1)."
        )
    return (x.detach() * 256).floor().clamp(max=255).to("cpu", torch.uint8)
