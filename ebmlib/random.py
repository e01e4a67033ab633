"""Random numbers from an explicit generator, for tensors on any device.

Numbers are drawn on the generator's device and then moved, so that one CPU generator
gives the same numbers for tensors on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator itself.

    Raises:
        ValueError: it is not a `torch.Generator`.
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"noise needs an explicit generator, got {generator!r}: pass "
            "generator=torch.Generator().manual_seed(0)"
        )
    return generator


def randn(
    shape: Sequence[int], generator: torch.Generator | None, like: Tensor | None = None
) -> Tensor:
    """Standard normal numbers of the dtype and on the device of `like`.

    Without `like` they are of the default dtype, on the generator's device.
    """
    source = check_generator(generator)
    dtype = None if like is None else like.dtype
    values = torch.randn(
        tuple(shape), generator=source, device=source.device, dtype=dtype
    )
    return values if like is None else values.to(like.device)


def rand(
    shape: Sequence[int], generator: torch.Generator | None, like: Tensor | None = None
) -> Tensor:
    """Uniform numbers in [0, 1), else as `randn`."""
    source = check_generator(generator)
    dtype = None if like is None else like.dtype
    values = torch.rand(
        tuple(shape), generator=source, device=source.device, dtype=dtype
    )
    return values if like is None else values.to(like.device)
