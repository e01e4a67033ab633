"""The energy of a Gaussian for every position, on features of a pretrained network.

Nothing is trained. The user supplies the weights file; without one the features are
those of random filters, and every record says so.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ebmlib.fields import GaussianPatches
from ebmlib.torchvision_import import torchvision_module

BACKBONES = ("resnet18", "wide_resnet50_2")
RANDOM = "random"
STEM = ("conv1", "bn1", "relu", "maxpool")
LAYERS = ("layer1", "layer2", "layer3")
COUNTER = "num_batches_tracked"  # older files have none, and nothing here reads it


class BackbonePatches(GaussianPatches):
    """The energy of a Gaussian for every position, fitted in closed form.

        e_p(x)  = d_p^2 / 2
        d_p^2   = (phi_p - mean_p)^T Sigma_p^-1 (phi_p - mean_p)
        Sigma_p = S_p + 0.01 I

    phi_p(x): a fixed random choice of the channels that layers 1 to 3 of a ResNet have
    at grid position p; layers 2 and 3 are repeated to the grid of layer 1, one cell
    every 4 px. S_p: their covariance over the training images. This is PaDiM (Defard
    et al., ICPR workshops 2021, arXiv 2011.08785), read as an energy: the sum over p is
    differentiable, so that `ebmlib.scoring.gradient_map` works on it.

    Args:
        size: height and width of the images, `(H, W)`.
        name: "resnet18" or "wide_resnet50_2".
        channels: image channels, 3 for RGB in [0, 1], or 1, which is repeated.
        everywhere: one mean and covariance for all positions.
        count: how many channels are chosen.
        seed: of the choice, and of random weights.
        weights: what the weights are called in records; `of` loads a file.

    Raises:
        ValueError: an unknown name, or numbers out of range.
        ImportError: torchvision is not installed.
    """

    def __init__(
        self,
        size: tuple[int, int],
        name: str = "resnet18",
        channels: int = 3,
        everywhere: bool = False,
        count: int = 100,
        seed: int = 0,
        weights: str = RANDOM,
    ):
        nn.Module.__init__(self)  # the features are others than the parent's
        if channels not in (1, 3):
            raise ValueError(f"a backbone sees 1 or 3 channels, got {channels}")
        self.size, self.name, self.channels = tuple(size), name, channels
        self.everywhere, self.count, self.seed = everywhere, count, seed
        self.weights, self.stride, self.noise = weights, 4, 0.1  # noise^2 = 0.01
        self.trunk = _trunk(name, seed).requires_grad_(False).eval()
        grid = (1, 1) if everywhere else [-(-side // 4) for side in size]
        total = sum(_width(self.trunk[layer]) for layer in LAYERS)
        if not 1 <= count <= total:
            raise ValueError(f"{name} has {total} channels to choose from, got {count}")
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("chosen", order[:count].sort().values)
        # Of the images of ImageNet; torchvision's weights were trained on x so scaled.
        usual = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
        self.register_buffer("usual", usual[:, :, None, None], False)
        self.register_buffer("mean", torch.zeros(count, *grid))
        eye = torch.eye(count) / self.noise
        self.register_buffer("whitener", eye.expand(*grid, -1, -1).clone())

    @classmethod
    def of(
        cls, size: tuple[int, int], path: str | Path, **options: Any
    ) -> BackbonePatches:
        """Not yet fitted, with the weights of a file, whose `name` is read from it.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file does not fit, see `load_weights`.
        """
        name, state = load_weights(path, options.pop("name", None))
        made = cls(size, name, weights=weights_label(path), **options)
        made.trunk.load_state_dict(state)
        return made

    def config(self) -> dict[str, Any]:
        """The constructor's arguments: `BackbonePatches(**config)` is not fitted."""
        names = ("size", "name", "channels", "everywhere", "count", "seed", "weights")
        return {name: getattr(self, name) for name in names}

    def train(self, mode: bool = True) -> BackbonePatches:
        """The trunk never trains: its batch statistics stay those of the file."""
        super().train(mode)
        self.trunk.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """phi: (B, C, H, W) -> (B, count, h, w), the chosen channels at every cell."""
        if x.ndim != 4 or x.shape[1:] != (self.channels, *self.size):
            raise ValueError(
                f"this backbone was set up for images (B, {self.channels}, "
                f"{self.size[0]}, {self.size[1]}); got {tuple(x.shape)}"
            )
        mean, std = self.usual.to(x.dtype)
        x = (x - mean) / std  # one gray channel becomes three
        for part in STEM:
            x = self.trunk[part](x)
        grid, found, start = x.shape[-2:], [], 0
        for layer in LAYERS:
            x = self.trunk[layer](x)
            inside = (self.chosen >= start) & (self.chosen < start + x.shape[1])
            part = x[:, self.chosen[inside] - start]
            found.append(interpolate(part, grid, mode="nearest"))
            start += x.shape[1]
        return torch.cat(found, dim=1)


def load_weights(
    path: str | Path, name: str | None = None
) -> tuple[str, dict[str, Tensor]]:
    """Read the weights of layers 1 to 3, and what is below them, from a file.

    Only tensors are read, so loading a file cannot run code.

    Args:
        path: the state dict of a torchvision ResNet, `.safetensors`, or a pickle of
            `torch.save`, mostly `.pth`.
        name: one of `BACKBONES`; None takes the one that the file fits.

    Returns:
        The name, and the tensors for the trunk.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, one that holds code, or the wrong keys or shapes.
    """
    state = _read(_checked(path))
    if name is None:  # only the wide one has bottlenecks
        name = BACKBONES["layer1.0.conv3.weight" in state]
    with torch.device("meta"):
        expected = {k: v.shape for k, v in _resnet(name).state_dict().items()}
    ours = {k for k in expected if k.startswith((*STEM, *LAYERS))}
    ours = {k for k in ours if not k.endswith(COUNTER)}
    known = ours & state.keys()
    wrong = {
        "missing": ours - state.keys(),
        "unknown": state.keys() - expected.keys(),
        "of another shape": {k for k in known if state[k].shape != expected[k]},
    }
    for what, keys in wrong.items():
        if keys:
            raise ValueError(
                f"{path} does not hold the weights of {name}: {len(keys)} {what}, "
                f"such as {min(keys)}"
            )
    return name, {k: state[k] for k in sorted(ours)}


def weights_label(path: str | Path) -> str:
    """How a file is called in records: its name and the start of its SHA-256.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with open(_checked(path), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{Path(path).name}, sha256 {digest[:12]}"


def _checked(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    return Path(path)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, and nothing but tensors."""
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


def _resnet(name: str) -> nn.Module:
    if name not in BACKBONES:
        raise ValueError(f"name must be one of {BACKBONES}, got {name!r}")
    return getattr(torchvision_module("models", "a backbone"), name)(weights=None)


def _trunk(name: str, seed: int) -> nn.ModuleDict:
    """What layers 1 to 3 need of the network, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = _resnet(name)
    return nn.ModuleDict({part: getattr(whole, part) for part in (*STEM, *LAYERS)})


def _width(layer: nn.Sequential) -> int:
    """Channels that leave a layer."""
    block = layer[-1]
    return (block.bn3 if hasattr(block, "bn3") else block.bn2).num_features
