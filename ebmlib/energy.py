"""What E(x) is: energies with a known answer, and networks (chapters 2 and 6).

An energy is any callable that maps a batch `(B, *shape)` to one number per item
`(B,)`; it defines the density p(x) = exp(-E(x)) / Z, so *lower is more normal*.
The toy energies know log Z and can be sampled exactly, which is what makes a
sampler or a training loop testable. The two networks are for images `(B, C, H, W)`
in [0, 1]. `input_gradient` is the force -dE/dx of a sampler up to its sign, and the
raw material of the localization map.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import Tensor, nn

Energy = Callable[[Tensor], Tensor]  # (B, *shape) -> (B,)

CHROMA = 2.0  # gain of color differences in PatchEnergy, chosen on the synthetic nut


# ---------------------------------------------------------------- known answers


class GaussianEnergy:
    """E(x) = (x - mean)^T covariance^-1 (x - mean) / 2, for x of shape (B, d).

    Args:
        mean: (d,).
        covariance: (d, d), symmetric and positive definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        mean, covariance = _floats(mean), _floats(covariance)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"mean must be (d,) and covariance (d, d); got {tuple(mean.shape)} "
                f"and {tuple(covariance.shape)}"
            )
        self.factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed or not torch.allclose(covariance, covariance.T):
            raise ValueError(
                "covariance must be symmetric and positive definite; "
                f"got {covariance.tolist()}"
            )
        self.mean, self.covariance = mean, covariance
        self.precision = torch.cholesky_inverse(self.factor)  # (d, d)

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each row of x: (B, d) -> (B,)."""
        offset = _points(x, len(self.mean)) - self.mean.to(x)  # (B, d)
        return 0.5 * (offset @ self.precision.to(x) * offset).sum(1)  # (B,)

    def log_partition(self) -> float:
        """Log Z = (d log 2 pi + log det covariance) / 2."""
        log_det = 2 * self.factor.diagonal().log().sum()
        return float(0.5 * (len(self.mean) * math.log(2 * math.pi) + log_det))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples, (n, d)."""
        noise = torch.randn(
            n, len(self.mean), generator=generator, dtype=self.mean.dtype
        )
        return self.mean + noise @ self.factor.T


class GaussianMixtureEnergy:
    """E(x) = -log sum_k w_k N(x; m_k, s_k^2 I), for x of shape (B, d).

    The components are normalized densities and the weights sum to one, so Z = 1.

    Args:
        means: (K, d).
        stds: (K,), positive.
        weights: (K,), non-negative; divided by their sum. None: all equal.
    """

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor | None = None):
        self.means, self.stds = _floats(means), _floats(stds)
        count = len(self.means)
        weights = torch.ones(count) if weights is None else _floats(weights)
        if self.means.ndim != 2 or {tuple(self.stds.shape), tuple(weights.shape)} != {
            (count,)
        }:
            raise ValueError(
                "means must be (K, d), stds (K,) and weights (K,); got "
                f"{tuple(self.means.shape)}, {tuple(self.stds.shape)} and "
                f"{tuple(weights.shape)}"
            )
        if not (self.stds > 0).all() or not (weights >= 0).all() or not weights.sum():
            raise ValueError(
                "stds must be positive and weights non-negative with a positive sum; "
                f"got stds {self.stds.tolist()}, weights {weights.tolist()}"
            )
        self.weights = weights / weights.sum()

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each row of x: (B, d) -> (B,)."""
        d = self.means.shape[1]
        means, stds, weights = (t.to(x) for t in (self.means, self.stds, self.weights))
        squares = (_points(x, d)[:, None] - means).square().sum(2)  # (B, K)
        log_peak = weights.log() - d * (stds * math.sqrt(2 * math.pi)).log()  # (K,)
        return -torch.logsumexp(log_peak - 0.5 * squares / stds**2, dim=1)  # (B,)

    def log_partition(self) -> float:
        """Log Z = 0: this energy is minus the log of a normalized density."""
        return 0.0

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples, (n, d): choose a component, then a Gaussian."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(
            n, self.means.shape[1], generator=generator, dtype=self.means.dtype
        )
        return self.means[k] + self.stds[k, None] * noise


class RingEnergy:
    """E(x) = (|x| - radius)^2 / (2 width^2), for x of shape (B, 2).

    The density of |x| is proportional to |x| exp(-E), so its mode lies a little
    outside `radius`: there is more room on a larger circle.
    """

    def __init__(self, radius: float = 2.0, width: float = 0.2):
        if not (radius > 0 and width > 0):
            raise ValueError(
                f"radius and width must be positive; got {radius} and {width}"
            )
        self.radius, self.width = float(radius), float(width)

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each row of x: (B, 2) -> (B,)."""
        distance = _points(x, 2).norm(dim=1) - self.radius  # (B,)
        return 0.5 * (distance / self.width).square()

    def log_partition(self) -> float:
        """Log of 2 pi [w^2 e^(-r^2/2w^2) + r w sqrt(pi/2) (1 + erf(r/(w sqrt 2)))]."""
        r, w = self.radius, self.width
        inner = w**2 * math.exp(-(r**2) / (2 * w**2))
        outer = r * w * math.sqrt(math.pi / 2) * (1 + math.erf(r / (w * math.sqrt(2))))
        return math.log(2 * math.pi * (inner + outer))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples, (n, 2), by rejection from a Gaussian radius.

        The tangent of log |x| at the mode m of the radius turns the density into
        the Gaussian N(m, width^2), which lies above it everywhere.
        """
        r, w = self.radius, self.width
        mode = (r + math.sqrt(r**2 + 4 * w**2)) / 2

        def propose(count: int) -> tuple[Tensor, Tensor]:
            radius = mode + w * torch.randn(count, generator=generator)
            ratio = radius.clamp(min=0) / mode
            return radius, ratio * torch.exp(1 - ratio)

        radius = _rejection(propose, n, generator)
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)


class DoubleWellEnergy:
    """E(x) = barrier ((x1/separation)^2 - 1)^2 + (x2/width)^2 / 2, x of shape (B, 2).

    Two wells at x1 = -separation and +separation; `barrier` is the energy between
    them, so exp(-barrier) says how rarely a chain crosses.
    """

    def __init__(
        self, barrier: float = 4.0, separation: float = 1.5, width: float = 0.5
    ):
        if not (barrier > 0 and separation > 0 and width > 0):
            raise ValueError(
                "barrier, separation and width must be positive; "
                f"got {barrier}, {separation} and {width}"
            )
        self.barrier = float(barrier)
        self.separation = float(separation)
        self.width = float(width)

    def __call__(self, x: Tensor) -> Tensor:
        """The energy of each row of x: (B, 2) -> (B,)."""
        x1, x2 = _points(x, 2).unbind(1)
        wells = self.barrier * ((x1 / self.separation).square() - 1).square()
        return wells + 0.5 * (x2 / self.width).square()

    def log_partition(self) -> float:
        """Log Z, by numerical quadrature over x1 (relative error below 1e-8)."""
        # (u^2 - 1)^2 >= (|u| - 1)^2: beyond `far` the integrand is below exp(-50).
        far = 1 + math.sqrt(50 / self.barrier)
        half, _ = quad(
            lambda u: math.exp(-self.barrier * (u * u - 1) ** 2), 0, far, epsrel=1e-10
        )
        return math.log(
            2 * self.separation * half * self.width * math.sqrt(2 * math.pi)
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples, (n, 2), by rejection from one Gaussian per well."""
        b = self.barrier

        def propose(count: int) -> tuple[Tensor, Tensor]:
            u = 1 + torch.randn(count, generator=generator) / math.sqrt(2 * b)
            excess = (u * u - 1).square() - (u - 1).square()  # >= 0 for u >= 0
            return u, torch.exp(-b * excess) * (u >= 0)

        u = _rejection(propose, n, generator)
        side = 2.0 * torch.randint(0, 2, (n,), generator=generator) - 1
        x2 = self.width * torch.randn(n, generator=generator)
        return torch.stack((self.separation * side * u, x2), dim=1)


# -------------------------------------------------------------------- networks


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

    Args:
        channels: image channels, C.
        width: channels of the first layer.
        depth: number of layers.
    """

    def __init__(self, channels: int = 3, width: int = 32, depth: int = 4):
        super().__init__()
        _positive(channels=channels, width=width, depth=depth)
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
        """The constructor's arguments: `ConvEnergy(**energy.config())` is a twin."""
        return {"channels": self.channels, "width": self.width, "depth": self.depth}

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image: (B, C, H, W) in [0, 1] -> (B,)."""
        _check_images(x, self.channels, self.stride)
        h = 2 * x - 1
        for layer in self.layers:
            h = F.silu(layer(h))
        pooled = _wide(h).sum((2, 3))  # (B, 4 * width)
        with torch.autocast(x.device.type, enabled=False):  # the sum is not for bf16
            return self.head(pooled).squeeze(1)  # (B,)


class PatchEnergy(nn.Module):
    """A sum of patch energies: E(x) = sum_p e_p(x), with e_p = softplus(f_p) >= 0.

    A fully convolutional network f gives one logit per position p of a grid with a
    stride of 4 or 8 px. sigmoid(-f_p) is the probability that the patch around p is
    normal, and e_p = -log sigmoid(-f_p) = softplus(f_p). The density is therefore a
    product of experts, p(x) proportional to prod_p sigmoid(-f_p(x)), and the energy
    map says which expert objects.

    Two (stride 4) or three (stride 8) convolutions 4x4 of stride 2, then `blocks`
    residual blocks h + conv1x1(SiLU(conv3x3(SiLU(h)))), then a 1x1 convolution.
    The 3x3 convolutions after the first are dilated by 2 to see far at no cost.
    Borders are padded by repeating the last pixel, so a constant image has a constant
    energy map. Cell (i, j) is centered in its square of pixels, and bilinear upsampling
    with `align_corners=False` puts it back in place. Receptive field with the default
    3 blocks: 50 px at stride 4, 102 px at stride 8.

    RGB images are first turned into one luminance and two color-difference channels.
    In photographs nearly all variance is luminance, so a network that starts from RGB
    learns to see brightness long before it sees a stain of equal brightness.

    Args:
        channels: image channels, C; 3 means RGB.
        width: half the channels of the residual blocks; layers before have fewer.
        blocks: number of residual blocks.
        coordinates: the network also sees two channels with the position of each
            pixel in [-1, 1]; for objects that always lie in the same place.
        normalize: each image is first shifted and scaled to mean 0 and variance 1
            (over all its pixels and channels together, which keeps its hue), so that
            a change of exposure hardly moves the energy. Each patch then knows of the
            rest of the image through these two numbers.
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
        _positive(channels=channels, width=width, blocks=blocks)
        if stride not in (4, 8):
            raise ValueError(f"stride must be 4 or 8; got {stride!r}")
        self.stride = stride
        self.channels, self.width, self.blocks = channels, width, blocks
        self.coordinates, self.normalize = coordinates, normalize
        halvings = stride.bit_length() - 1  # 2 or 3
        widths = [max(1, 2 * width >> i) for i in reversed(range(halvings))]
        widths = [channels + 2 * coordinates, *widths]
        self.downs = nn.ModuleList(
            _conv(a, b, 4, stride=2) for a, b in pairwise(widths)
        )
        self.mixers = nn.ModuleList(
            _conv(2 * width, 2 * width, 3, dilation=1 if i == 0 else 2)
            for i in range(blocks)
        )
        self.outs = nn.ModuleList(_conv(2 * width, 2 * width, 1) for _ in range(blocks))
        self.head = _conv(2 * width, 1, 1)
        for out in self.outs:  # the sum of all blocks keeps the variance of one
            with torch.no_grad():
                out.weight.mul_(blocks**-0.5)
        nn.init.normal_(self.head.weight, std=0.1 / math.sqrt(2 * width))
        nn.init.constant_(self.head.bias, -2.0)  # P(normal) = 0.88 before training

    @property
    def receptive_field(self) -> int:
        """Side in px of the square that one cell of the map sees."""
        start = {4: 10, 8: 22}[self.stride]
        return start + 2 * self.stride * (2 * self.blocks - 1)

    def config(self) -> dict[str, int | bool]:
        """The constructor's arguments: `PatchEnergy(**energy.config())` is a twin."""
        names = ("channels", "width", "blocks", "coordinates", "normalize", "stride")
        return {name: getattr(self, name) for name in names}

    def logits(self, x: Tensor) -> Tensor:
        """f_p, positive where a patch looks abnormal: (B, C, H, W) -> (B, h, w)."""
        _check_images(x, self.channels, 2 * self.stride)
        h = _standardize(x) if self.normalize else 2 * x - 1
        h = opponent(h) if self.channels == 3 else h
        if self.coordinates:
            h = torch.cat((h, _positions(h)), dim=1)  # (B, C + 2, H, W)
        for i, down in enumerate(self.downs):
            h = down(h if i == 0 else F.silu(h))  # to (B, 2 width, H/stride, W/stride)
        for mixer, out in zip(self.mixers, self.outs, strict=True):
            h = h + out(F.silu(mixer(F.silu(h))))
        return _wide(self.head(F.silu(h)).squeeze(1))  # (B, h, w)

    def energy_map(self, x: Tensor) -> Tensor:
        """e_p = softplus(f_p) = -log P(patch p is normal): -> (B, h, w)."""
        return F.softplus(self.logits(x))

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))


# ------------------------------------------------------------ gradient and values


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
    _positive(batch_size=batch_size)
    _check_input(images)
    with frozen(energy), torch.no_grad():
        batches = (on_device_of(energy, x) for x in images.split(batch_size))
        parts = [check_energy(energy(x), len(x)) for x in batches]
    return torch.cat(parts)


def energy_maps(energy: PatchEnergy, images: Tensor, batch_size: int = 32) -> Tensor:
    """Patch energies of many images, as `energies` takes E: -> (N, h, w), on the CPU.

    energy: anything with `energy_map`. batch_size bounds the memory, not the result.
    """
    _positive(batch_size=batch_size)
    with torch.no_grad():
        batches = (on_device_of(energy, x) for x in images.split(batch_size))
        return torch.cat([energy.energy_map(x).cpu() for x in batches])


def on_device_of(energy: Energy, x: Tensor) -> Tensor:
    """`x` where the energy's parameters lie; as it is if the energy has none."""
    if isinstance(energy, nn.Module):
        for p in energy.parameters():
            return x.to(p.device)
    return x


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


# -------------------------------------------------------------------- small print


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
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
    nn.init.zeros_(layer.bias)
    return layer


def _standardize(x: Tensor, eps: float = 1e-4) -> Tensor:
    """Shift and scale each image to mean 0, variance 1; a constant image becomes 0.

    eps is the variance of 1 % contrast: below it there is only sensor noise.
    """
    center = x - x.mean((1, 2, 3), keepdim=True)
    return center / (center.square().mean((1, 2, 3), keepdim=True) + eps).sqrt()


def opponent(x: Tensor, gain: float = CHROMA) -> Tensor:
    """RGB to (R+G+B)/sqrt(3), gain (R-G)/sqrt(2), gain (2B-R-G)/sqrt(6).

    The three axes are orthonormal: with a gain of 1 this is a mere rotation.
    `(B, 3, H, W)` to the same shape.
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


def _rejection(
    propose: Callable[[int], tuple[Tensor, Tensor]], n: int, generator: torch.Generator
) -> Tensor:
    """N accepted values; `propose(count)` gives values and acceptance probabilities."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < n:
        value, probability = propose(max(n, 64))
        kept.append(value[torch.rand(len(value), generator=generator) < probability])
    return torch.cat(kept)[:n]


def _wide(x: Tensor) -> Tensor:
    """At least float32: half precision is too coarse for a sum over positions."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _floats(x: Tensor) -> Tensor:
    """A float tensor of what may be a list or an integer tensor."""
    x = torch.as_tensor(x)
    return x if x.is_floating_point() else x.float()


def _points(x: Tensor, d: int) -> Tensor:
    if x.ndim != 2 or x.shape[1] != d:
        raise ValueError(f"x must have shape (B, {d}); got {tuple(x.shape)}")
    return x


def _positive(**numbers: int) -> None:
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


def _check_images(x: Tensor, channels: int, minimum: int) -> None:
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
