"""What an energy is, and its gradient, in batches and on any device (chapter 2).

An energy is any callable that maps a batch `(B, *shape)` to one number per item
`(B,)`; it defines the density p(x) = exp(-E(x)) / Z, so *lower is more normal*.
`input_gradient` is dE/dx: the force of a sampler up to its sign, and the localization
map before any processing.

Two rules hold for every function of the library that takes an energy and images:

- The images are moved to the energy's device, that of its first parameter or buffer.
- Energies and gradients are computed in the precision of x, also inside a surrounding
  `torch.autocast`, so that a threshold does not depend on where it is computed. Only
  `create_graph=True`, which is for training, leaves autocast as it finds it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

Energy = Callable[[Tensor], Tensor]  # (B, *shape) -> (B,)
Kind = TypeVar("Kind", bound=type[nn.Module])

IMAGES_AT_ONCE, PIXELS_AT_ONCE = 32, 32 * 128**2  # that one pass takes, at most
_kinds: dict[str, type[nn.Module]] = {}  # what `register_energy` has seen, by name


class HasEnergyMap(Protocol):
    """A sum of patch energies, such as `ebmlib.networks.PatchEnergy`."""

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""

    def energy_map(self, x: Tensor) -> Tensor:
        """The patch energies of each image: (B, C, H, W) -> (B, h, w)."""


def input_gradient(energy: Energy, x: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient of the energy with respect to its input, dE/dx.

    The parameters of the energy receive no gradient. Works inside `torch.no_grad()`
    and `torch.inference_mode()`.

    Args:
        energy: any energy; a module is evaluated in eval mode, then restored.
        x: (B, *shape), floating point and finite.
        create_graph: keep the graph, so that a loss made of the gradient can be
            differentiated with respect to the parameters (score matching). The
            module's mode and flags are then left alone.

    Returns:
        (B, *shape) on the energy's device; detached unless create_graph.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x is not finite, or the energy does not return (B,) numbers that
            depend on x.
    """
    if create_graph:
        return value_and_gradient(energy, x, create_graph=True)[1]
    with frozen(energy):
        return value_and_gradient(energy, x)[1]


def value_and_gradient(
    energy: Energy, x: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """E(x) and dE/dx, ((B,), (B, *shape)), by one forward and one backward pass.

    As `input_gradient`, but the module's mode and flags are left alone.
    """
    check_input(x)
    x = to_device_of(energy, x)
    with nullcontext() if create_graph else full_precision(x.device):
        return differentiate(energy, x, create_graph=create_graph)


def differentiate(
    energy: Energy, x: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """`value_and_gradient` for loops that have checked and moved x before.

    x is taken as it is, and a surrounding `torch.autocast` applies.
    """
    with torch.inference_mode(False), torch.enable_grad():
        if not create_graph or not x.requires_grad:
            # A fresh leaf. An inference tensor must be copied to become one.
            x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value = check_energy(energy(x), len(x))
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(
                value.sum(), x, create_graph=create_graph, allow_unused=True
            )
    if gradient is None:
        raise ValueError(
            "the energy does not depend on x through differentiable operations; "
            "look for .detach(), .item(), .numpy() or torch.no_grad() inside it"
        )
    return (value if create_graph else value.detach()), gradient


def energies(energy: Energy, images: Tensor, batch_size: int = 64) -> Tensor:
    """E of many images, `batch_size` at a time and without gradients: -> (N,).

    Args:
        energy: any energy; a module is evaluated in eval mode, then restored.
        images: (N, *shape), floating point; each batch is moved to the energy's
            device, where the result stays.
        batch_size: how many at once; bounds the memory, not the result.

    Raises:
        TypeError: images is not a floating-point tensor.
        ValueError: images is empty or not finite, or the energy's shape is wrong.
    """
    check_positive(batch_size=batch_size)
    check_input(images)
    device = device_of(energy) or images.device
    with frozen(energy), torch.no_grad(), full_precision(device):
        batches = (x.to(device) for x in images.split(batch_size))
        return torch.cat([check_energy(energy(x), len(x)) for x in batches])


def energy_maps(energy: HasEnergyMap, images: Tensor, batch_size: int = 32) -> Tensor:
    """Patch energies of many images, as `energies` takes E: -> (N, h, w), on the CPU.

    energy: anything with `energy_map`. batch_size bounds the memory, not the result.
    Arguments and errors are those of `energies`.
    """
    check_positive(batch_size=batch_size)
    check_input(images)
    device = device_of(energy) or images.device
    with frozen(energy), torch.no_grad(), full_precision(device):
        batches = (x.to(device) for x in images.split(batch_size))
        return torch.cat([energy.energy_map(x).cpu() for x in batches])


def images_at_once(images: Tensor) -> int:
    """How many images (N, C, H, W) one pass takes, so that memory stays bounded.

    At most IMAGES_AT_ONCE, those of 128 x 128 px; of larger images fewer.
    """
    pixels = images.shape[-2] * images.shape[-1]
    return max(1, min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // pixels))


def device_of(energy: object) -> torch.device | None:
    """The device of a module's first parameter or buffer; None if there is neither.

    A plain callable has no device: it computes where its input lies.
    """
    if isinstance(energy, nn.Module):
        for tensor in chain(energy.parameters(), energy.buffers()):
            return tensor.device
    return None


def to_device_of(energy: object, x: Tensor) -> Tensor:
    """`x` on the energy's device; as it is if the energy has none."""
    return x.to(device_of(energy) or x.device)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context in which a surrounding `torch.autocast` has no effect on `device`."""
    if autocast_is_on(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def autocast_is_on(device: torch.device) -> bool:
    """Whether operations on `device` run in reduced precision at this place."""
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


@contextmanager
def frozen(energy: object) -> Iterator[None]:
    """Inside, a module is in eval mode and its parameters take no gradient.

    Mode and flags are restored at the end, whatever happens in between (Ctrl-C
    included). Nothing is done to an energy that is not a module.
    """
    if not isinstance(energy, nn.Module):
        yield
        return
    learning = [p for p in energy.parameters() if p.requires_grad]
    modes = [(module, module.training) for module in energy.modules()]
    try:
        energy.eval()
        for p in learning:
            p.requires_grad_(False)
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def register_energy(kind: Kind) -> Kind:
    """The class itself, which `build_energy` knows from now on by its name.

    A class decorator for energies, and for modules that an energy is made of, such as
    feature maps. The class has a method `config()` with the constructor's arguments as
    JSON can hold them; a module among them is given as its `energy_spec`.

    Raises:
        TypeError: the class has no `config`.
        ValueError: another class of this name is registered.
    """
    if not callable(getattr(kind, "config", None)):
        raise TypeError(f"{kind.__name__} needs a method config(), see ConvEnergy")
    known = _kinds.get(kind.__name__, kind)
    # A notebook cell that is run again defines the same class again.
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(
            f"{known.__module__} has registered the name {kind.__name__!r} already; "
            f"rename the class of {kind.__module__}"
        )
    _kinds[kind.__name__] = kind
    return kind


def energy_spec(energy: Any) -> dict[str, Any]:
    """{"name": ..., "config": ...}, from which `build_energy` makes a twin.

    The twin has the same shape; its numbers come from the `state_dict`.

    Raises:
        ValueError: the class of the energy is not registered.
    """
    kind = type(energy)
    if _kinds.get(kind.__name__) is not kind:
        raise ValueError(
            f"{kind.__name__} cannot be described: decorate the class with "
            "@register_energy and give it a method config()"
        )
    return {"name": kind.__name__, "config": energy.config()}


def build_energy(name: str, config: dict[str, Any]) -> nn.Module:
    """A new module of a registered class, from the parts of its `energy_spec`.

    Values of `config` that are specs themselves are built first.

    Raises:
        ValueError: an unknown name, or a config that the class does not take.
    """
    if name not in _kinds:
        raise ValueError(
            f"unknown energy {name!r}; known are {', '.join(sorted(_kinds))}. An "
            "energy of your own needs @register_energy and its module imported."
        )
    arguments = {
        key: build_energy(**value) if _is_spec(value) else value
        for key, value in config.items()
    }
    try:
        return _kinds[name](**arguments)
    except TypeError as error:
        raise ValueError(f"{name} does not take {config}: {error}") from error


def _is_spec(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"name", "config"}


def check_energy(value: Any, batch: int) -> Tensor:
    """Return what an energy returned if it is one float for each of `batch` items."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"an energy must return a float tensor (B,); got {got}")
    if value.shape != (batch,):
        raise ValueError(
            f"an energy must return one number per item, shape ({batch},); got "
            f"{tuple(value.shape)}. Sum over everything but the batch, or squeeze."
        )
    return value


def check_positive(**numbers: Any) -> None:
    """Refuse what is not a whole number of at least 1; the keyword is its name."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number >= 1; got {number!r}")


def check_input(x: Any) -> None:
    """Refuse what is not a finite floating-point batch (B, *shape) with B >= 1."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"x must be a floating-point tensor; got {got}. "
            "Images of uint8 become floats in [0, 1] by x.float() / 255."
        )
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"x must be a batch (B, *shape), B >= 1; got {tuple(x.shape)}")
    if not all_finite(x):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"x has {bad} values that are NaN or infinite")


def all_finite(x: Tensor) -> bool:
    """Whether no value of x is NaN or infinite, in one pass and without a copy."""
    low, high = torch.aminmax(x.detach())  # both are NaN if a value is
    return bool(torch.isfinite(torch.maximum(high, -low)))
