"""A device that every machine has: the meta device, with the rules of an accelerator.

Tensors on "meta" have no data. Inside `Elsewhere`, an operation on tensors of two
devices is refused, as on a GPU, and copies to the CPU hold random numbers in [0, 1), so
that code which moves its results back runs to its end. Only devices, dtypes and shapes
can be tested in this way.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

aten = torch.ops.aten
META = torch.device("meta")


class Elsewhere(TorchDispatchMode):
    """Refuses operations on tensors of two devices."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        away = any(t.is_meta for t in tensors)
        if function is aten._local_scalar_dense.default and away:
            return bool(1) if tensors[0].dtype == torch.bool else 1
        if function is aten._to_copy.default:
            if away and torch.device(kwargs.get("device", META)).type == "cpu":
                dtype = kwargs.get("dtype") or tensors[0].dtype
                drawn = torch.rand(tensors[0].shape, generator=self.generator)
                return drawn.to(dtype)
        elif function is not aten.copy_.default:
            found = {t.device.type for t in tensors if t.ndim}
            assert len(found) < 2, f"{function} on tensors of {sorted(found)}"
        return function(*args, **kwargs)
