"""What an energy is, and its gradient, in batches and on any device (chapter 2).

An energy is any callable that maps a batch `(B, *shape)` to one number per item
`(B,)`; it defines the density p(x) = exp(-E(x)) / Z, so *lower is more normal*.
`input_gradient` is dE/dx: the force of a sampler up to its sign, and the localization
map before any processing.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

Energy = Callable[[Tensor], Tensor]  # (B, *shape) -> (B,)
Kind = TypeVar("Kind", bound=type[nn.Module])
_kinds: dict[str, type[nn.Module]] = {}


class HasEnergyMap(Protocol):
    """A sum of patch energies, such as `ebmlib.networks.PatchEnergy`."""

    def energy_map(self, x: Tensor) -> Tensor:
        """The patch energies of each image: (B, C, H, W) -> (B, h, w)."""


def input_gradient(energy: Energy, x: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient of the energy with respect to its input, dE/dx.

    The parameters of the energy receive no gradient. Works inside `torch.no_grad()`
    and `torch.inference_mode()`.

    Args:
        energy: any energy; a module is evaluated in eval mode, then put back.
        x: (B, *shape), floating point and finite.
        create_graph: keep the graph, so that a loss made of the gradient can be
            differentiated with respect to the parameters (score matching). The
            module's mode and flags are then left alone.

    Returns:
        (B, *shape); detached unless create_graph.

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
    """E(x) and dE/dx, ((B,), (B, *shape)), by one forward and one backward pass."""
    _check_input(x)
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
        energy: any energy; a module is evaluated in eval mode, then put back.
        images: (N, *shape), floating point.
        batch_size: how many at once; bounds the memory, not the result.

    Raises:
        TypeError: images is not a floating-point tensor.
        ValueError: images is empty or not finite, or the energy's shape is wrong.
    """
    check_positive(batch_size=batch_size)
    _check_input(images)
    with frozen(energy), torch.no_grad():
        batches = (on_device_of(energy, x) for x in images.split(batch_size))
        parts = [check_energy(energy(x), len(x)) for x in batches]
    return torch.cat(parts)


def energy_maps(energy: HasEnergyMap, images: Tensor, batch_size: int = 32) -> Tensor:
    """Patch energies of many images, as `energies` takes E: -> (N, h, w), on the CPU.

    energy: anything with `energy_map`. batch_size bounds the memory, not the result.
    """
    check_positive(batch_size=batch_size)
    with torch.no_grad():
        batches = (on_device_of(energy, x) for x in images.split(batch_size))
        return torch.cat([energy.energy_map(x).cpu() for x in batches])


def on_device_of(energy: Energy, x: Tensor) -> Tensor:
    """`x` where the energy's parameters or buffers lie; as it is without any."""
    if isinstance(energy, nn.Module):
        for p in chain(energy.parameters(), energy.buffers()):
            return x.to(p.device)
    return x


def device_of(energy: Any) -> torch.device | None:
    """Where the parameters or buffers of a module lie; None without any."""
    if isinstance(energy, nn.Module):
        for p in chain(energy.parameters(), energy.buffers()):
            return p.device
    return None


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context in which a surrounding `torch.autocast` has no effect on `device`."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def register_energy(kind: Kind) -> Kind:
    """Decorator: `build_energy` can make this class from its `config()`."""
    _kinds[kind.__name__] = kind
    return kind


def energy_spec(energy: Any) -> dict[str, Any]:
    """{"name": ..., "config": ...} of a module of a registered class."""
    return {"name": type(energy).__name__, "config": energy.config()}


def build_energy(name: str, config: dict[str, Any]) -> nn.Module:
    """A module of a registered class from its name and `config()`; nested specs too.

    Raises:
        ValueError: an unknown name.
    """
    if name not in _kinds:
        raise ValueError(f"unknown energy {name!r}, expected one of {sorted(_kinds)}")
    spec = {"name", "config"}
    return _kinds[name](
        **{
            key: build_energy(**value)
            if isinstance(value, dict) and set(value) == spec
            else value
            for key, value in config.items()
        }
    )


@contextmanager
def frozen(energy: Energy) -> Iterator[None]:
    """Inside, a module is in eval mode and its parameters take no gradient.

    Mode and flags are put back at the end, whatever happens in between (Ctrl-C
    included). An energy that is not a module passes through.
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


def check_energy(value: Tensor, batch: int) -> Tensor:
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


def check_positive(**numbers: int) -> None:
    """Refuse what is not a whole number of at least 1; the keyword is its name."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number >= 1; got {number!r}")


def _check_input(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"x must be a floating-point tensor; got {got}. "
            "Images of uint8 become floats in [0, 1] by x.float() / 255."
        )
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x must be a batch (B, *shape), B >= 1; got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"x has {bad} values that are NaN or infinite")
