"""A convolutional autoencoder: what cannot be rebuilt is abnormal (chapter 12)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmlib.baselines.base import Baseline, check_options, smoothing_width
from ebmlib.data.images import Images
from ebmlib.data.resizing import Size
from ebmlib.devices import choose_device
from ebmlib.random import rand, randint
from ebmlib.scoring import smooth

DEPTH = 4  # halvings; sides are padded to a multiple of 2^DEPTH


class Autoencoder(Baseline):
    """Reconstruction error of a convolutional autoencoder trained on normal images.

        r(x) = (x - mean) - decode(encode(x - mean)),   trained to minimize mean r^2
        map_i = G_sigma * sqrt(mean_c r_ci^2),   score = max_i map_i

    Four convolutions of stride 2, a linear code of `code` numbers, and the same way
    back; no batch normalization, so an image's score does not depend on its neighbors.
    A nonlinear PCA, and the AE-L2 row of many tables (Bergmann et al., VISAPP 2019,
    arXiv 1807.02011), with a smaller network.

    Args:
        code: numbers that an image is squeezed into, >= 1.
        width: channels of the first layer; they double up to 4 * width.
        steps: training steps of Adam on 16 images each.
        learning_rate: of the first step; it falls to zero along a half cosine.
        smoothing: as in `PerPixelGaussian`.
        seed: of the weights and of the order of the images.
        image_size: as in `Baseline`.
        device: where it is trained and evaluated, see `ebmlib.devices.choose_device`.

    Attributes:
        mean_: (C, H, W), on the device.
        network_: the trained network, on the device.
    """

    label = "convolutional autoencoder"
    least = 1
    mean_: Tensor
    network_: nn.Module

    def __init__(
        self,
        code: int = 64,
        width: int = 16,
        steps: int = 1500,
        learning_rate: float = 3e-3,
        smoothing: float | None = None,
        seed: int = 0,
        image_size: Size | None = None,
        device: str = "cpu",
    ):
        check_options(image_size, smoothing, code=code, width=width, steps=steps)
        if not learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {learning_rate}.")
        choose_device(device)
        self.code, self.width, self.steps = code, width, steps
        self.learning_rate, self.smoothing, self.seed = learning_rate, smoothing, seed
        self.image_size, self.device = image_size, device

    def _learn(self, images: Tensor) -> dict[str, Any]:
        device = choose_device(self.device)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.inference_mode(False), torch.enable_grad():
            network = build(images.shape[1:], self.width, self.code, generator)
            network.to(device)
            images = images.to(device, copy=True)
            mean = images.mean(0)  # (C, H, W)
            adam = torch.optim.Adam(network.parameters(), self.learning_rate)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
            generator.manual_seed(self.seed)
            for _ in range(self.steps):
                x = images[randint(len(images), (16,), generator, images)] - mean
                loss = F.mse_loss(rebuild(network, x), x)
                adam.zero_grad()
                loss.backward()
                adam.step()
                falling.step()
        if not torch.isfinite(loss):
            raise ValueError(
                f"training diverged at learning_rate={self.learning_rate}; lower it."
            )
        return {"mean_": mean, "network_": network.eval().requires_grad_(False)}

    def reconstruct(self, images: Images) -> Tensor:
        """(N, C, H, W): the images as the code remembers them."""
        return torch.cat([self._reconstruct(x) for x in self._batches(images)])

    def _reconstruct(self, x: Tensor) -> Tensor:
        centered = x.to(self.mean_.device) - self.mean_
        return (rebuild(self.network_, centered) + self.mean_).cpu()

    def _maps(self, x: Tensor) -> Tensor:
        residual = (x - self._reconstruct(x)).square().mean(1).sqrt()
        return smooth(residual, smoothing_width(self.smoothing, self.shape_))


def build(
    shape: torch.Size, width: int, code: int, generator: torch.Generator
) -> nn.Sequential:
    """The network for images of `shape` (C, H, W), padded by `rebuild`; on the CPU.

    The constructors of torch draw weights from the global generator. Layers are
    therefore made without data, and filled from `generator`. As many numbers as the
    constructors would draw are skipped first, in their order, so that the weights of a
    seed are those of the recorded runs.
    """
    channels = shape[0]
    rows, columns = (-(-side // 2**DEPTH) for side in shape[1:])
    widths = [width, 2 * width, 4 * width, 4 * width]
    size = widths[-1] * rows * columns
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    made: list[nn.Module] = []  # in the order of their making
    with torch.device("meta"):
        for before, after in zip([channels, *widths], widths, strict=False):
            made += [nn.Conv2d(before, after, 4, 2, 1)]
            made += [nn.ConvTranspose2d(after, before, 4, 2, 1)]
            down += [made[-2], nn.SiLU()]
            up = [made[-1], nn.SiLU(), *up]
        made += [nn.Linear(size, code), nn.Linear(code, size)]
        network = nn.Sequential(
            *down,
            nn.Flatten(),
            made[-2],
            made[-1],
            nn.SiLU(),
            nn.Unflatten(1, (widths[-1], rows, columns)),
            *up[:-1],  # the last layer gives gray levels, not SiLU features
        )
    network.float().to_empty(device="cpu")
    for layer in made:
        for parameter in layer.parameters():
            rand(parameter.shape, generator, parameter)
    for layer in network:
        _initialize(layer, generator)
    return network


def _initialize(layer: nn.Module, generator: torch.Generator) -> None:
    """Keep the variance of SiLU features, whose mean square is 0.356, from layer on.

    With the defaults of torch, the code tells nothing for hundreds of steps. A
    transposed convolution 4x4 of stride 2 sums 2 x 2 inputs of every channel.
    """
    if isinstance(layer, nn.Linear):
        inputs = layer.in_features
    elif isinstance(layer, nn.Conv2d):
        inputs = 16 * layer.in_channels
    elif isinstance(layer, nn.ConvTranspose2d):
        inputs = 4 * layer.in_channels
    else:
        return
    std = 1 / math.sqrt(0.356 * inputs)
    nn.init.normal_(layer.weight, std=std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def rebuild(network: nn.Module, x: Tensor) -> Tensor:
    """Pad to whole cells, pass through the network, crop: (N, C, H, W) -> the same."""
    height, width = x.shape[2:]
    cell = 2**DEPTH
    padded = F.pad(x, (0, -width % cell, 0, -height % cell), mode="replicate")
    return network(padded)[:, :, :height, :width]
