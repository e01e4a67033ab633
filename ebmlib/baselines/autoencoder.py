"""A convolutional autoencoder: what cannot be rebuilt is abnormal (chapter 12)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmlib.baselines.checks import (
    check_fitted,
    check_images,
    check_smoothing,
    smoothing_width,
)
from ebmlib.scoring import image_score, smooth

DEPTH = 4  # halvings; sides are padded to a multiple of 2^DEPTH


class Autoencoder:
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
    """

    label = "convolutional autoencoder"

    def __init__(
        self,
        code: int = 64,
        width: int = 16,
        steps: int = 1500,
        learning_rate: float = 3e-3,
        smoothing: float | None = None,
        seed: int = 0,
    ):
        for name, value in (("code", code), ("width", width), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {learning_rate}.")
        check_smoothing(smoothing)
        self.code, self.width, self.steps = code, width, steps
        self.learning_rate, self.smoothing, self.seed = learning_rate, smoothing, seed
        self.shape: torch.Size | None = None

    def fit(self, images: Tensor) -> "Autoencoder":
        """Train on normal images; at least 1."""
        check_images(images, at_least=1)
        self.mean = images.mean(0)  # (C, H, W)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)  # the weights depend on the seed alone
            network = build(images.shape[1:], self.width, self.code)
            adam = torch.optim.Adam(network.parameters(), self.learning_rate)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
            for _ in range(self.steps):
                drawn = torch.randint(len(images), (16,), generator=generator)
                x = images[drawn] - self.mean
                loss = F.mse_loss(rebuild(network, x), x)
                adam.zero_grad()
                loss.backward()
                adam.step()
                falling.step()
        if not torch.isfinite(loss):
            raise ValueError(
                f"training diverged at learning_rate={self.learning_rate}; lower it."
            )
        self.network = network.eval().requires_grad_(False)
        self.shape = images.shape[1:]
        return self

    def reconstruct(self, images: Tensor) -> Tensor:
        """(N, C, H, W): the images as the code remembers them."""
        check_fitted(self, images)
        batches = (images - self.mean).split(32)
        return torch.cat([rebuild(self.network, x) for x in batches]) + self.mean

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(N, H, W): smoothed root mean square residual over channels, >= 0."""
        residual = (images - self.reconstruct(images)).square().mean(1).sqrt()
        return smooth(residual, smoothing_width(self.smoothing, images.shape))

    def anomaly_score(self, images: Tensor) -> Tensor:
        """(N,): the maximum of the map, in gray levels."""
        return image_score(self.anomaly_map(images), "max")


def build(shape: torch.Size, width: int, code: int) -> nn.Sequential:
    """The network for images of `shape` (C, H, W), padded by `rebuild`."""
    channels = shape[0]
    rows, columns = (-(-side // 2**DEPTH) for side in shape[1:])
    widths = [width, 2 * width, 4 * width, 4 * width]
    down, up = [], []
    for before, after in zip([channels, *widths], widths, strict=False):
        down += [nn.Conv2d(before, after, 4, 2, 1), nn.SiLU()]
        up = [nn.ConvTranspose2d(after, before, 4, 2, 1), nn.SiLU(), *up]
    size = widths[-1] * rows * columns
    network = nn.Sequential(
        *down,
        nn.Flatten(),
        nn.Linear(size, code),
        nn.Linear(code, size),
        nn.SiLU(),
        nn.Unflatten(1, (widths[-1], rows, columns)),
        *up[:-1],  # the last layer gives gray levels, not SiLU features
    )
    for layer in network:
        _initialize(layer)
    return network


def _initialize(layer: nn.Module) -> None:
    """Keep the variance of SiLU features, whose mean square is 0.356, from layer on.

    With the library's defaults, the code tells nothing for hundreds of steps. A
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
    nn.init.normal_(layer.weight, std=1 / math.sqrt(0.356 * inputs))
    nn.init.zeros_(layer.bias)


def rebuild(network: nn.Module, x: Tensor) -> Tensor:
    """Pad to whole cells, pass through the network, crop: (N, C, H, W) -> the same."""
    height, width = x.shape[2:]
    cell = 2**DEPTH
    padded = F.pad(x, (0, -width % cell, 0, -height % cell), mode="replicate")
    return network(padded)[:, :, :height, :width]
