"""Features of a pretrained network, for the energies of `ebmlib.fields` (chapter 13).

Nothing is trained here, and no weights come with the library: they are read from a
file. Without a file the features are those of random filters, and `weights` says so.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ebmlib.energy import register_energy
from ebmlib.features import check_images, sample_cells
from ebmlib.random import randperm
from ebmlib.torchvision_import import torchvision_module
from ebmlib.weights import RANDOM, read_weights, weights_label

BACKBONES = ("resnet18", "wide_resnet50_2")
STEM = ("conv1", "bn1", "relu", "maxpool")
LAYERS = ("layer1", "layer2", "layer3")
COUNTER = "num_batches_tracked"  # older files have none, and nothing here reads it
PAD = 2  # px on the upper and left border: cells of layer 1 are then off by 1/2 px
COARSEST = 16  # px between the cells of layer 3
# Mean and standard deviation of the images that torchvision's weights were trained on.
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


@register_energy
class ResNetFeatures(nn.Module):
    """Channels of layers 1 to 3 of a ResNet at the centers of a grid of 4 px.

    Layer 1 to 3 have their cells at 4k, 8k and 16k px of their input, k = 0, 1, ...,
    whatever its size. The image is therefore continued by PAD px on its upper and left
    border, and each layer is interpolated linearly at the centers 4i + 1.5 px of the
    grid of `ebmlib.features`. A fixed random choice of `count` channels is kept, as in
    PaDiM (Defard et al., ICPR workshops 2021, arXiv 2011.08785), which repeats the
    cells of layers 2 and 3 instead: on a grid like ours, that shifts the maps towards
    the lower right, by 1.8 px on average.

    Nothing is trained: the parameters take no gradient, and batch normalization always
    uses the statistics of the file.

    Args:
        name: "resnet18" or "wide_resnet50_2".
        channels: image channels, 3 for RGB in [0, 1], or 1, which is repeated.
        count: how many channels are chosen, of 448 or 1792.
        seed: of the choice, and of random weights.
        weights: what the weights are called in records; `from_file` loads a file.

    Raises:
        ValueError: an unknown name, or numbers out of range.
        ImportError: torchvision is not installed.
    """

    stride = 4
    chosen: Tensor
    imagenet: Tensor

    def __init__(
        self,
        name: str = "resnet18",
        channels: int = 3,
        count: int = 100,
        seed: int = 0,
        weights: str = RANDOM,
    ):
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"a backbone sees 1 or 3 channels, got {channels}")
        self.name, self.channels, self.count = name, channels, count
        self.seed, self.weights = seed, weights
        generator = torch.Generator().manual_seed(seed)
        self.trunk = _trunk(name, generator).requires_grad_(False).eval()
        self._widths = [_width(self.trunk[layer]) for layer in LAYERS]
        total = sum(self._widths)
        if not 1 <= count <= total:
            raise ValueError(f"{name} has {total} channels to choose from, got {count}")
        order = randperm(total, generator.manual_seed(seed))
        self.register_buffer("chosen", order[:count].sort().values)
        self._parts = _parts(self.chosen, self._widths)
        self.register_load_state_dict_post_hook(_note_parts)
        self.register_buffer("imagenet", IMAGENET[:, :, None, None], persistent=False)

    @classmethod
    def from_file(
        cls, path: str | Path, name: str | None = None, **options: Any
    ) -> ResNetFeatures:
        """Features with the weights of a file, whose name is read from it.

        Args:
            path: as in `load_weights`.
            name: one of `BACKBONES`; None takes the one that the file fits.
            **options: further arguments of the constructor.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file does not fit, see `load_weights`.
        """
        name, state = load_weights(path, name)
        made = cls(name, weights=weights_label(path), **options)
        made.trunk.load_state_dict(state)
        return made

    def config(self) -> dict[str, Any]:
        """The constructor's arguments; the weights themselves are in the state."""
        names = ("name", "channels", "count", "seed", "weights")
        return {name: getattr(self, name) for name in names}

    def train(self, mode: bool = True) -> ResNetFeatures:
        """The trunk never trains: its batch statistics stay those of the file."""
        super().train(mode)
        self.trunk.eval()
        return self

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of cells on images of `size` = (H, W)."""
        return size[0] // self.stride, size[1] // self.stride

    def forward(self, x: Tensor) -> Tensor:
        """The chosen channels at every cell: (B, C, H, W) -> (B, count, h, w)."""
        check_images(x, self)
        grid = self.grid((x.shape[2], x.shape[3]))
        below, right = (
            max(COARSEST * -(-cells * self.stride // COARSEST) + 1 - PAD - side, 0)
            for cells, side in zip(grid, x.shape[2:], strict=True)
        )
        x = pad(x, (PAD, right, PAD, below), mode="replicate")
        mean, std = self.imagenet.to(x.dtype)
        x = (x - mean) / std  # one gray channel becomes three
        for stem in STEM:
            x = self.trunk[stem](x)
        found, before = [], 0
        for i, layer in enumerate(LAYERS):
            x = self.trunk[layer](x)
            part = x[:, self.chosen[self._parts[i]] - before]
            spacing, first = self.stride << i, (-PAD, -PAD)
            found.append(sample_cells(part, grid, self.stride, spacing, first))
            before += self._widths[i]
        return torch.cat(found, dim=1)


def _parts(chosen: Tensor, widths: list[int]) -> list[slice]:
    """Which of the chosen channels, in ascending order, belong to which layer."""
    layer = torch.bucketize(chosen.cpu(), torch.tensor(widths).cumsum(0), right=True)
    ends = torch.bincount(layer, minlength=len(widths)).cumsum(0).tolist()
    return [slice(*pair) for pair in pairwise([0, *ends])]


def _note_parts(features: ResNetFeatures, _: Any) -> None:
    """A state was loaded, and may hold another choice; read once, not in each pass."""
    features._parts = _parts(features.chosen, features._widths)


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
    state = read_weights(path)
    if name is None:  # only the wide one has bottlenecks
        name = BACKBONES["layer1.0.conv3.weight" in state]
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


def _resnet(name: str) -> nn.Module:
    """The network without weights: its tensors have shapes and no data."""
    if name not in BACKBONES:
        raise ValueError(f"name must be one of {BACKBONES}, got {name!r}")
    models = torchvision_module("models", "a backbone")
    with torch.device("meta"):  # not around the import: it makes tensors of its own
        return getattr(models, name)(weights=None)


def _trunk(name: str, generator: torch.Generator) -> nn.ModuleDict:
    """What layers 1 to 3 need of the network, with random weights.

    Convolutions as He et al. (2015) draw them, with the variance 2 / (outputs k^2).
    """
    whole = _resnet(name)
    trunk = nn.ModuleDict({part: getattr(whole, part) for part in (*STEM, *LAYERS)})
    trunk.float().to_empty(device="cpu")
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # constants
    return trunk


def _width(layer: nn.Module) -> int:
    """Channels that leave a layer."""
    (*_, last) = (m for m in layer.modules() if isinstance(m, nn.BatchNorm2d))
    return last.num_features
