"""PyTorch's global random states, as a part of what a run owns for a while.

Dropout and its kind take no generator: they draw from the global random state of the
device they run on. `torch.manual_seed` is no cure, as it seeds every device there is
and leaves them so. The functions here touch the state of the CPU and of one device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def private_global_random(device: torch.device) -> Iterator[None]:
    """Inside, the global states of the CPU and of `device` may be changed.

    They are put back at the end, after an error too. They belong to the process: other
    threads draw from them as well meanwhile.
    """
    before = global_random(device)
    try:
        yield
    finally:
        set_global_random(device, before)


def global_random(device: torch.device) -> dict[str, Tensor]:
    """The global random states of the CPU and of the device, by the device's type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_global_random(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Put back what `global_random` returned; states of other devices are left out."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())


def seed_global_random(device: torch.device, seed: int) -> None:
    """Seed the global states of the CPU and of the device, and of no other device."""
    states = {
        kind: torch.Generator(device=kind).manual_seed(seed).get_state()
        for kind in global_random(device)
    }
    set_global_random(device, states)
