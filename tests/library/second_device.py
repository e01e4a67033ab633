"""A second device without hardware: tensors that compute on the CPU and say "meta".

    def test_energies_where_the_module_lies(second_device):
        x, energy = second_device(images), second_device(ConvEnergy(3, 8))
        assert energies(energy, x).device == second_device.device

`second_device(x)` copies a tensor, or moves a module, to a device named "meta", the one
name that PyTorch accepts without hardware. The numbers are there all the same: they are
computed on the CPU, behind the scenes. Factories such as `torch.zeros(3,
device=x.device)`, `.to(x.device)` and `.cpu()` work as usual. As on a GPU,

- an operation that mixes two devices raises `MixedDevices`, except with CPU tensors
  without dimensions, with CPU indices of a tensor of the device, and for copies;
- a generator draws on its own device only; `second_device.generator(seed)` is one of
  the device, with the numbers of the CPU generator of that seed;
- `.numpy()` is refused;
- reading a number makes the host wait (`.item()`, `.cpu()`, `nonzero`, masks as
  indices, ...): `second_device.reads` counts that;
- with `second_device.float64 = False` the device has no float64, as Apple's has not.

Tensors of the device are of no use after the test (or the block `with SecondDevice()`).
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
aten = torch.ops.aten

COPIES = (aten._to_copy, aten.copy_, aten._copy_from)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
TOGETHER = (aten.cat, aten.stack)  # no exception for tensors without dimensions
READS = (
    aten._local_scalar_dense,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
)


class MixedDevices(RuntimeError):  # noqa: N818
    """An operation met tensors, or a generator, of two devices."""


class OnDevice(Tensor):
    """A tensor that says "meta" and holds its numbers in a CPU tensor."""

    @staticmethod
    def __new__(cls, numbers: Tensor):
        return Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )

    def __init__(self, numbers: Tensor):
        self.numbers = numbers

    @property
    def is_meta(self) -> bool:
        return False  # a tensor without numbers: not this one

    def __repr__(self) -> str:
        return f"OnDevice({self.numbers})"

    def __deepcopy__(self, memo: dict) -> "OnDevice":
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            copy._is_param = True
        return copy

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise RuntimeError("a tensor of the second device was used outside its block")


class GeneratorOnDevice(torch.Generator):
    """A generator that says "meta"."""

    @property
    def device(self) -> torch.device:
        return DEVICE


class SecondDevice:
    """The device, inside a `with` block; see the file's docstring."""

    device = DEVICE

    def __init__(self) -> None:
        self.reads = 0
        self.float64 = True
        self._modes = (_Functions(), _Operations(self))

    def __enter__(self) -> "SecondDevice":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def __call__(self, thing: Any) -> Any:
        """A tensor copied to the device, or a module moved there."""
        return thing.to(DEVICE)

    def generator(self, seed: int = 0) -> torch.Generator:
        """A generator of the device."""
        return GeneratorOnDevice().manual_seed(seed)


class _Operations(TorchDispatchMode):
    """Runs every operation on the CPU, after a look at where its tensors lie."""

    def __init__(self, owner: SecondDevice):
        super().__init__()
        self.owner = owner

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or PyTorch imports its compiler, which takes seconds

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = operation.overloadpacket
        tensors = _tensors((args, *kwargs.values()))
        there = [t for t in tensors if isinstance(t, OnDevice)]
        here = [t for t in tensors if not isinstance(t, OnDevice)]
        to = kwargs.get("device")
        goes_there = bool(there) if to is None else torch.device(to) == DEVICE
        if name is aten.copy_:
            goes_there = isinstance(args[0], OnDevice)
        if there and here and name not in COPIES:
            self._refuse_mixed(operation, args, here)
        if there and (name in READS or not goes_there or _reads_mask(name, args)):
            self.owner.reads += 1
        if to is not None:
            kwargs["device"] = torch.device("cpu") if goes_there else to
        kwargs = {key: _each(_numbers, value) for key, value in kwargs.items()}
        result = operation(*_each(_numbers, args), **kwargs)
        if not goes_there:
            return result
        known = {id(t.numbers): t for t in there}  # what was changed in place
        return _each(lambda r: self._wrap(r, known), result)

    def _wrap(self, result: Any, known: dict[int, OnDevice]) -> Any:
        if not isinstance(result, Tensor):
            return result
        if result.dtype == torch.float64 and not self.owner.float64:
            raise TypeError("this device has no float64")
        return known[id(result)] if id(result) in known else OnDevice(result)

    @staticmethod
    def _refuse_mixed(operation: Any, args: Any, here: list[Tensor]) -> None:
        name = operation.overloadpacket
        if name in INDEXING and isinstance(args[0], OnDevice):
            here = [t for t in _tensors(args[2:]) if not isinstance(t, OnDevice)]
        if any(t.ndim > 0 or name in TOGETHER for t in here):
            shapes = [tuple(t.shape) for t in here]
            raise MixedDevices(f"{operation}: tensors {shapes} are on the CPU, not all")


class _Functions(TorchFunctionMode):
    """Lets generators draw on their own device only, and mends what is no operation."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            tensors = _tensors(args)
            at = tensors[0].device if tensors else kwargs.get("device") or "cpu"
            if torch.device(at) != generator.device:
                raise MixedDevices(
                    f"a generator of {generator.device} cannot draw on {at}"
                )
        if function is Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].cpu().tolist()
        if function is Tensor.numpy and isinstance(args[0], OnDevice):
            raise TypeError("a tensor of the second device has no numpy(); call cpu()")
        if function == Tensor.data.__set__ and isinstance(args[0], OnDevice):
            args[0].numbers = args[1].numbers
        return function(*args, **kwargs)


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """The value with the function applied to each item of its lists and tuples."""
    if isinstance(value, list | tuple):
        return type(value)([_each(function, item) for item in value])
    return function(value)


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(value, list | tuple):
        return [t for item in value for t in _tensors(item)]
    return [value] if isinstance(value, Tensor) else []


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, OnDevice) else value


def _reads_mask(name: Any, args: Any) -> bool:
    """Whether an indexing must first count the True of a mask."""
    if name not in INDEXING:
        return False
    masks = [
        i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)
    ]
    return bool(masks) and (name is aten.index or args[2].numel() > 1)


@pytest.fixture
def second_device() -> Iterator[SecondDevice]:
    """The second device; import this fixture by name in a test file."""
    with SecondDevice() as device:
        yield device
