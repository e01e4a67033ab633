"""Imports torchvision lazily, also beside a CPU build of torch (for `backbone`).

On Linux the registry's torchvision is compiled for CUDA. Beside a CPU build of torch
its compiled operators cannot load, and `import torchvision` stops with "operator
torchvision::nms does not exist", although the pure-Python part would work. Declaring
the signatures of the missing operators is enough for `transforms.v2` and `models`;
`torchvision.ops` and `torchvision.io` then stay unusable.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a declaration lives as long as its object


def torchvision_module(part: str, user: str) -> ModuleType:
    """The module `torchvision.<part>`; `user` is who needs it, for the error.

    Raises:
        ImportError: torchvision is not installed.
    """
    name = f"torchvision.{part}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ImportError(
            f"{user} needs torchvision, which is not installed; run "
            "`pip install torchvision` (or `pip install 'ebmlib[vision]'`)."
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _declare_missing_operators()
    return importlib.import_module(name)


def _declare_missing_operators() -> None:
    """Forget the half-finished import and declare what it missed."""
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(operator + _NMS)
    _declared.append(library)
