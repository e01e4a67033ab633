"""Which device to compute on."""

from __future__ import annotations

import torch


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on, chosen once: "auto" takes CUDA, then MPS, then CPU.

    Raises:
        ValueError: The name is unknown, or this machine does not have the device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    kind = str(device).split(":")[0]
    if not available.get(kind, False):
        there = [name for name, there in available.items() if there]
        raise ValueError(
            f"no device {str(device)!r} here; choose 'auto' or one of {there}"
        )
    return torch.device(device)
