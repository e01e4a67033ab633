"""Random numbers from an explicit generator: the one file that draws (chapter 3).

Numbers are drawn on the generator's device and then moved. A CPU generator therefore
gives the same numbers wherever they are used; a CUDA generator saves the copy. The
global random state of no device is read or changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def randn(
    shape: Sequence[int], generator: torch.Generator | None, like: Tensor | None = None
) -> Tensor:
    """Independent draws from N(0, 1), of the given shape.

    Args:
        shape: of the result.
        generator: on any device.
        like: a floating-point tensor that gives the dtype and the device of the
            result. None: torch's default dtype, on the generator's device.

    Raises:
        ValueError: generator is not a torch.Generator.
    """
    generator = check_generator(generator)
    dtype = None if like is None else like.dtype
    drawn = torch.randn(
        tuple(shape), generator=generator, device=generator.device, dtype=dtype
    )
    return _moved(drawn, like)


def rand(
    shape: Sequence[int], generator: torch.Generator | None, like: Tensor | None = None
) -> Tensor:
    """Independent draws from the uniform distribution on [0, 1); else as `randn`."""
    generator = check_generator(generator)
    dtype = None if like is None else like.dtype
    drawn = torch.rand(
        tuple(shape), generator=generator, device=generator.device, dtype=dtype
    )
    return _moved(drawn, like)


def randint(
    high: int,
    shape: Sequence[int],
    generator: torch.Generator | None,
    like: Tensor | None = None,
) -> Tensor:
    """Independent whole numbers from 0 to high - 1, int64, on the device of `like`."""
    generator = check_generator(generator)
    drawn = torch.randint(
        high, tuple(shape), generator=generator, device=generator.device
    )
    return _moved(drawn, like)


def randperm(
    n: int, generator: torch.Generator | None, like: Tensor | None = None
) -> Tensor:
    """The numbers 0 to n - 1 in random order: (n,) int64, on the device of `like`."""
    generator = check_generator(generator)
    drawn = torch.randperm(n, generator=generator, device=generator.device)
    return _moved(drawn, like)


def choice(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Draw n indices, index k with probability weights[k] / sum(weights): (n,) int64.

    weights: (K,), non-negative with a positive sum; the result lies on its device.
    """
    generator = check_generator(generator)
    drawn = torch.multinomial(
        weights.to(generator.device), n, replacement=True, generator=generator
    )
    return _moved(drawn, weights)


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Inside, modules are initialized from `seed`, on the CPU.

    Modules draw their initial weights from the CPU's default generator, which is seeded
    here and put back at the end. It is also what the context yields. The generators of
    other devices are not touched, as `torch.manual_seed` would.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        yield torch.default_generator.manual_seed(seed)


def check_generator(generator: object) -> torch.Generator:
    """The generator; a ValueError that says how to make one if it is something else."""
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, got {type(generator).__name__}; "
            "give generator=torch.Generator().manual_seed(0), so that the result can "
            "be repeated"
        )
    return generator


def _moved(drawn: Tensor, like: Tensor | None) -> Tensor:
    return drawn if like is None else drawn.to(like.device)
