"""Pretrained weights from a file: tensors alone are read, and the file is named.

A pickle may hold code, so nothing but tensors is taken from it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

RANDOM = "random"  # what weights are called in records that come from no file
LABEL = re.compile(r", sha256 ([0-9a-f]{12})$")  # the end of what files are called


def read_weights(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Args:
        path: a state dict, `.safetensors`, or a pickle of `torch.save`, mostly `.pth`.
        sha256: what the file's SHA-256 must be, or begin with; None: not checked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, one that holds code, or one with another hash.
    """
    path = _checked(path)
    if sha256 is not None and not _digest(path).startswith(sha256):
        raise ValueError(
            f"{path} is not the file it should be: its SHA-256 begins with "
            f"{_digest(path)[:12]}, expected {sha256[:12]}. Install it again."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    except Exception as error:  # unpickling a broken file may raise anything
        raise ValueError(
            f"{path} is not a file of tensors alone, and nothing else is read: a "
            "pickle may hold code. Save it with torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(v, Tensor) for v in state.values()
    ):
        raise ValueError(
            f"{path} holds no state dict; save it with "
            "torch.save(model.state_dict(), path)"
        )
    return state


def weights_label(path: str | Path) -> str:
    """How a file is called in records: its name and the start of its SHA-256.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = _checked(path)
    return f"{path.name}, sha256 {_digest(path)[:12]}"


def is_label(text: str | Path) -> bool:
    """Whether this is what `weights_label` calls a file, and not a path."""
    return LABEL.search(str(text)) is not None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    return Path(path)
