"""Which device to compute on."""

from __future__ import annotations

import torch


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on, chosen once: "auto" is CUDA if there is one, else CPU.

    Apple's MPS is taken only by name. It has no float64, which closed-form fits need,
    and the tests have not been run on it.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "mps", or a `torch.device`.

    Raises:
        ValueError: The name is unknown, or this machine does not have the device.
    """
    available = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if device == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):  # not a name that torch knows
        chosen = None
    if chosen is None or (chosen.index or 0) >= available.get(chosen.type, 0):
        there = [name for name, count in available.items() if count]
        raise ValueError(
            f"no device {str(device)!r} here; choose 'auto' or one of {there}"
        )
    return chosen
