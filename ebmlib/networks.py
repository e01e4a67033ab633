"""Two convolutional energies, `(B, C, H, W)` in [0, 1] -> `(B,)` (chapter 6)."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmlib.energy import (
    autocast_is_on,
    check_positive,
    full_precision,
    register_energy,
)

CHROMA = 2.0  # gain of color differences in PatchEnergy, chosen on the synthetic nut


@register_energy
class ConvEnergy(nn.Module):
    """A plain convolutional energy: strided convolutions, one number per image.

    `depth` convolutions 4x4 of stride 2, each followed by SiLU, with width, 2 width,
    4 width, 4 width, ... channels; then the features are *summed* over positions and
    a linear map makes one number of them. Smooth activations, because a sampler
    follows dE/dx; no batch normalization, because the energy of an image must not
    depend on the other images; a sum and not a mean, because then dE/dx at a pixel
    does not shrink as the image grows. The linear map has no bias: a constant added
    to E is absorbed by Z.

    Any image size of at least 2^depth pixels a side. With depth 4 (the default):
    stride 16 px, receptive field 46 px, minimum size 16 px.

    On a CPU `energy.to(memory_format=torch.channels_last)` makes gradients and training
    some 10 to 20 % faster, with other rounding (see `benchmarks/speed_langevin.py`).

    Args:
        channels: image channels, C.
        width: channels of the first layer.
        depth: number of layers.
    """

    def __init__(self, channels: int = 3, width: int = 32, depth: int = 4):
        super().__init__()
        check_positive(channels=channels, width=width, depth=depth)
        self.channels, self.width, self.depth = channels, width, depth
        widths = [channels] + [width * min(2**i, 4) for i in range(depth)]
        self.layers = nn.ModuleList(
            _conv(a, b, 4, stride=2) for a, b in pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], 1, bias=False)
        # A sum over some ten to a hundred positions then starts at the order of one.
        nn.init.normal_(self.head.weight, std=0.3 / math.sqrt(widths[-1]))

    @property
    def stride(self) -> int:
        """Distance in px between the centers of neighboring positions: 2^depth."""
        return 2**self.depth

    @property
    def receptive_field(self) -> int:
        """Side in px of the square that one position sees: 3 * 2^depth - 2."""
        return 3 * 2**self.depth - 2

    def config(self) -> dict[str, int]:
        """The constructor's arguments; `ConvEnergy(**config)` has the same shape."""
        return {"channels": self.channels, "width": self.width, "depth": self.depth}

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image: (B, C, H, W) in [0, 1] -> (B,)."""
        _check_images(x, self.channels, self.stride, self.head.weight.dtype)
        h = 2 * x - 1
        for layer in self.layers:
            h = F.silu(layer(h))
        pooled = _at_least_float32(h).sum((2, 3))  # (B, 4 * width)
        with full_precision(x.device):  # bfloat16 is too coarse for this sum
            return self.head(pooled).squeeze(1)  # (B,)


@register_energy
class PatchEnergy(nn.Module):
    """A sum of patch energies: E(x) = sum_p e_p(x), with e_p = softplus(f_p) >= 0.

    A fully convolutional network f gives one logit per position p of a grid with a
    stride of 4 or 8 px. sigmoid(-f_p) is the probability that the patch around p is
    normal, and e_p = -log sigmoid(-f_p) = softplus(f_p). The density is therefore a
    product over the patches, p(x) proportional to prod_p sigmoid(-f_p(x)), and the
    energy map shows which patches raise the energy.

    Two (stride 4) or three (stride 8) convolutions 4x4 of stride 2, then `blocks`
    residual blocks h + conv1x1(SiLU(conv3x3(SiLU(h)))), then a 1x1 convolution.
    The 3x3 convolutions after the first are dilated by 2 to see far at no cost.
    Borders are padded by repeating the last pixel, so a constant image has a constant
    energy map. Cell (i, j) of the map is centered at ((i + 1/2) stride - 1/2,
    (j + 1/2) stride - 1/2) px. If a side is not a multiple of the stride, the remaining
    rows or columns at the lower or right border have no cell of their own. Receptive
    field with the default 3 blocks: 50 px at stride 4, 102 px at stride 8.

    RGB images are first turned into one luminance and two color-difference channels.
    In photographs nearly all variance is luminance, so a network that starts from RGB
    responds to brightness long before it responds to a stain of equal brightness.

    Args:
        channels: image channels, C; 3 means RGB.
        width: half the channels of the residual blocks; layers before have fewer.
        blocks: number of residual blocks.
        coordinates: the network also sees two channels with the position of each
            pixel in [-1, 1]; for objects that always lie in the same place.
        normalize: each image is first shifted and scaled to mean 0 and variance 1
            (over all its pixels and channels together, which keeps its hue), so that
            a change of exposure hardly changes the energy. Each patch energy then
            depends on the rest of the image through these two numbers.
        stride: distance in px of neighboring cells, 4 or 8. As a rule 1/16 of the
            image's side: 4 at 64 px, 8 at 128 px.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 48,
        blocks: int = 3,
        coordinates: bool = False,
        normalize: bool = True,
        stride: int = 4,
    ):
        super().__init__()
        check_positive(channels=channels, width=width, blocks=blocks)
        if stride not in (4, 8):
            raise ValueError(f"stride must be 4 or 8; got {stride!r}")
        self.stride = stride
        self.channels, self.width, self.blocks = channels, width, blocks
        self.coordinates, self.normalize = coordinates, normalize
        widths = [channels + 2 * coordinates, width, 2 * width]
        if stride == 8:
            widths.insert(1, max(1, width // 2))
        self.downs = nn.ModuleList(
            _conv(a, b, 4, stride=2) for a, b in pairwise(widths)
        )
        self.mixers = nn.ModuleList(
            _conv(2 * width, 2 * width, 3, dilation=1 if i == 0 else 2)
            for i in range(blocks)
        )
        outs = [_conv(2 * width, 2 * width, 1) for _ in range(blocks)]
        for out in outs:  # the sum of all blocks keeps the variance of one
            with torch.no_grad():
                out.weight.mul_(blocks**-0.5)
        self.outs = nn.ModuleList(outs)
        self.head = _conv(2 * width, 1, 1, bias=-2.0)  # P(normal) = 0.88 at the start
        nn.init.normal_(self.head.weight, std=0.1 / math.sqrt(2 * width))

    @property
    def receptive_field(self) -> int:
        """Side in px of the square that one cell of the map sees."""
        start = {4: 10, 8: 22}[self.stride]
        return start + 2 * self.stride * (2 * self.blocks - 1)

    def config(self) -> dict[str, int | bool]:
        """The constructor's arguments; `PatchEnergy(**config)` has the same shape."""
        names = ("channels", "width", "blocks", "coordinates", "normalize", "stride")
        return {name: getattr(self, name) for name in names}

    def logits(self, x: Tensor) -> Tensor:
        """f_p, positive where a patch looks abnormal: (B, C, H, W) -> (B, h, w)."""
        _check_images(x, self.channels, 2 * self.stride, self.head.weight.dtype)
        h = _standardize(x) if self.normalize else 2 * x - 1
        h = opponent(h) if self.channels == 3 else h
        if self.coordinates:
            h = torch.cat((h, _positions(h)), dim=1)  # (B, C + 2, H, W)
        for i, down in enumerate(self.downs):
            h = down(h if i == 0 else F.silu(h))  # to (B, 2 width, H/stride, W/stride)
        for mixer, out in zip(self.mixers, self.outs, strict=True):
            h = h + out(F.silu(mixer(F.silu(h))))
        return _at_least_float32(self.head(F.silu(h)).squeeze(1))  # (B, h, w)

    def energy_map(self, x: Tensor) -> Tensor:
        """e_p = softplus(f_p) = -log P(patch p is normal): -> (B, h, w)."""
        return F.softplus(self.logits(x))

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))


def _conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    bias: float = 0.0,
) -> nn.Conv2d:
    """A convolution that repeats the border and keeps the size of SiLU features."""
    layer = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=dilation * ((kernel - 1) // 2),
        dilation=dilation,
        padding_mode="replicate" if kernel > 1 else "zeros",
    )
    # SiLU of a unit Gaussian has mean square 0.356 (He et al. 2015, for this case).
    nn.init.normal_(layer.weight, std=1 / math.sqrt(0.356 * inputs * kernel**2))
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


def _standardize(x: Tensor, eps: float = 1e-4) -> Tensor:
    """Shift and scale each image to mean 0, variance 1; a constant image becomes 0.

    eps is the variance at 1 % contrast; less is taken for sensor noise.
    """
    center = x - x.mean((1, 2, 3), keepdim=True)
    return center / (center.square().mean((1, 2, 3), keepdim=True) + eps).sqrt()


def opponent(x: Tensor, gain: float = CHROMA) -> Tensor:
    """RGB to (R+G+B)/sqrt(3), gain (R-G)/sqrt(2), gain (2B-R-G)/sqrt(6).

    `(B, 3, H, W)` to the same shape. The three axes are orthonormal: a gain of 1 makes
    this a rotation.
    """
    r, g, b = x.unbind(1)  # (B, H, W) each
    luminance = (r + g + b) / math.sqrt(3)
    red_green = gain / math.sqrt(2) * (r - g)
    blue_yellow = gain / math.sqrt(6) * (2 * b - r - g)
    return torch.stack((luminance, red_green, blue_yellow), dim=1)


def _positions(x: Tensor) -> Tensor:
    """Row and column of each pixel in [-1, 1]: (B, C, H, W) -> (B, 2, H, W)."""
    height, width = x.shape[-2:]
    rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)
    columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return grid.expand(len(x), -1, -1, -1)


def _at_least_float32(x: Tensor) -> Tensor:
    """Half precision is too coarse for a sum over positions."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_images(x: Tensor, channels: int, minimum: int, dtype: torch.dtype) -> None:
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(
            f"this energy takes images (B, {channels}, H, W); got {tuple(x.shape)}. "
            "Set channels= when you build it, or convert the images."
        )
    if min(x.shape[-2:]) < minimum:
        raise ValueError(
            f"images must be at least {minimum} px a side for this energy; got "
            f"{x.shape[-2]} x {x.shape[-1]}. Resize them, or use a smaller depth."
        )
    if x.dtype != dtype and not autocast_is_on(x.device):
        raise TypeError(
            f"images are {x.dtype}, the energy's weights {dtype}; they must be equal: "
            "call energy.to(images.dtype), or images.to(the dtype of the weights)"
        )
