"""An energy in closed form: one Gaussian per position, on any features (chapter 12)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ebmlib.energy import (
    energy_spec,
    full_precision,
    images_at_once,
    register_energy,
)
from ebmlib.features import FeatureMap
from ebmlib.progress import Progress, Show


@register_energy
class GaussianField(nn.Module):
    """The energy of a Gaussian for every cell of a feature map.

        e_p(x)  = d_p^2 / 2
        d_p^2   = (phi_p - mean_p)^T Sigma_p^-1 (phi_p - mean_p)
        Sigma_p = S_p + noise^2 C
        E(x)    = sum_p e_p(x)

    phi_p(x): the F features of the cell at grid position p; S_p: their covariance over
    the training images; C: the identity, or, if `relative`, the diagonal matrix of the
    features' variances over all places and training images. One Gaussian per position
    is PaDiM (Defard et al., ICPR workshops 2021, arXiv 2011.08785). Unlike the scores
    of PaDiM, this is a differentiable energy of the image, with the gradient
    dE/dx = sum_p (d phi_p / dx)^T Sigma_p^-1 (phi_p - mean_p).

    Args:
        features: a module as `ebmlib.features.FeatureMap` describes it, such as
            `CosineFeatures` or `ebmlib.backbone.ResNetFeatures`.
        size: height and width of the images, `(H, W)`.
        shared: one mean and covariance for all positions, for textures and for parts
            that lie in any direction.
        noise: standard deviation granted to every feature, in its units. What never
            varied in training would have no inverse without it. The default suits
            cosine coefficients, where noise^2 I is the covariance of white noise of
            0.02 gray levels; PaDiM uses 0.1 for features of a ResNet.
        relative: `noise` is a share of every feature's spread.

    Attributes:
        mean: (F, h, w), or (F, 1, 1) if shared.
        whitener: (h, w, F, F) or (1, 1, F, F), the inverses of the Cholesky factors of
            Sigma_p: d_p = |whitener_p (phi_p - mean_p)|.

    Raises:
        ValueError: numbers out of range.
    """

    features: FeatureMap
    mean: Tensor
    whitener: Tensor

    def __init__(
        self,
        features: FeatureMap,
        size: tuple[int, int],
        shared: bool = False,
        noise: float = 0.02,
        relative: bool = False,
    ):
        super().__init__()
        if not noise > 0:
            raise ValueError(f"noise must be > 0, got {noise}")
        height, width = size
        self.features, self.size = features, (int(height), int(width))
        self.shared, self.noise, self.relative = shared, noise, relative
        self.channels, self.stride = features.channels, features.stride
        rows, columns = features.grid(self.size)
        if rows < 1 or columns < 1:
            raise ValueError(
                f"images must be at least {self.stride} px a side, the stride of the "
                f"features; got size {height} x {width}"
            )
        grid, count = (1, 1) if shared else (rows, columns), features.count
        self.register_buffer("mean", torch.zeros(count, *grid, dtype=torch.float32))
        eye = torch.eye(count, dtype=torch.float32) / noise
        self.register_buffer("whitener", eye.expand(*grid, -1, -1).clone())

    def config(self) -> dict[str, Any]:
        """What `ebmlib.energy.build_energy` needs for a field that is not fitted."""
        return {
            "features": energy_spec(self.features),
            "size": self.size,
            "shared": self.shared,
            "noise": self.noise,
            "relative": self.relative,
        }

    @torch.no_grad()
    def fit(self, images: Tensor) -> GaussianField:
        """Estimate mean and covariance of every cell from images (N, C, H, W); N >= 2.

        The features are computed where the module lies, some images at a time; means
        and covariances are accumulated on the CPU in float64, which not every device
        has. Memory does not grow with N: F^2 numbers per cell, and one chunk.

        Raises:
            ValueError: fewer than two images, images of another shape, or features that
                are not finite. The field is then as it was.
        """
        if len(images) < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {len(images)}")
        return self.fit_features(features_of(self, images))

    @torch.no_grad()
    def fit_features(self, parts: Iterable[Tensor]) -> GaussianField:
        """As `fit`, from the features of the images, parts `(B, F, h, w)` of them."""
        moments = Moments(self.mean.shape[1:], len(self.mean))
        for part in parts:
            moments.add(_points(part, self.shared))
        dtype = self.whitener.dtype
        mean, whitener = moments.gaussians(self.noise, self.relative, dtype)
        self.mean.copy_(mean.permute(2, 0, 1))
        self.whitener.copy_(whitener)
        return self

    def energy_map(self, x: Tensor) -> Tensor:
        """e_p = d_p^2 / 2: (B, C, H, W) -> (B, h, w)."""
        with full_precision(x.device):  # bfloat16 rounds phi by more than the noise
            return self.cell_energies(look(self, x))

    def cell_energies(self, phi: Tensor) -> Tensor:
        """e_p from the features of the cells: (B, F, h, w) -> (B, h, w)."""
        return self.whiten(phi).square().sum(1) / 2

    def whiten(self, phi: Tensor) -> Tensor:
        """z_p = whitener_p (phi_p - mean_p), e_p = |z_p|^2 / 2: both (B, F, h, w)."""
        mean, whitener = self.mean.to(phi.dtype), self.whitener.to(phi.dtype)
        centered = (phi - mean).permute(2, 3, 1, 0)  # (h, w, F, B)
        return (whitener @ centered).permute(3, 2, 0, 1)

    def log_density(self, phi: Tensor) -> Tensor:
        """Log of the Gaussian density of every cell's features: -> (B, h, w).

        log p_p = -e_p - log det(Sigma_p) / 2 - F log(2 pi) / 2
        """
        half = self.whitener.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # -log det / 2
        constant = len(self.mean) * math.log(2 * math.pi) / 2
        return half - constant - self.cell_energies(phi)

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each image, the sum of its map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))


def _points(phi: Tensor, shared: bool) -> Tensor:
    """Features (B, F, h, w) as points of each Gaussian: (h, w, B, F), on the CPU."""
    points = phi.cpu().permute(2, 3, 0, 1)
    if shared:
        points = points.reshape(1, 1, -1, points.shape[-1])
    return points.double()


def positions_pay(
    parts: Sequence[Tensor], noise: float, relative: bool = True, cells: int = 64
) -> bool:
    """Whether a Gaussian for every place foretells new patches better than one for all.

    Both are fitted to the first four fifths of the images; the one that gives the
    patches of the others the higher log density is better. Few images, or parts that
    lie in several poses, leave too little to learn at each place.

    Args:
        parts: features of the training images, (B, F, h, w) each. With fewer than
            three images the answer is no.
        noise: as in `GaussianField`.
        relative: as in `GaussianField`.
        cells: about how many cells are asked, spread evenly over the grid.
    """
    height, width = parts[0].shape[2:]
    step = max(1, round(math.sqrt(height * width / cells)))
    some = slice(step // 2, None, step)
    phi = torch.cat([part[:, :, some, some] for part in parts])
    count = 4 * len(phi) // 5
    if count < 2:  # no covariance
        return False
    densities = []
    for shared in (False, True):
        learned = _points(phi[:count], shared)
        moments = Moments(learned.shape[:2], phi.shape[1])
        moments.add(learned)
        mean, whitener = moments.gaussians(noise, relative)
        white = (_points(phi[count:], shared) - mean[:, :, None]) @ whitener.mT
        log_determinant = -whitener.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        energy = white.square().sum(-1).mean(-1) / 2
        densities.append(-float((energy + log_determinant).mean()))
    return densities[0] > densities[1]


def look(field: Any, x: Tensor) -> Tensor:
    """The features of images of the size that a field was made for.

    Raises:
        ValueError: images of another shape.
    """
    expected = (field.channels, *field.size)
    if x.ndim != 4 or tuple(x.shape[1:]) != expected:
        raise ValueError(
            f"this field was made for images (B, {', '.join(map(str, expected))}); "
            f"got {tuple(x.shape)}"
        )
    return field.features(x)


def features_of(field: Any, images: Tensor, progress: Show = False) -> Iterator[Tensor]:
    """The features of many images, where the field lies, some images at a time.

    Args:
        field: one that is fitted to features.
        images: (N, C, H, W), anywhere.
        progress: as in `ebmlib.progress.Progress`.
    """
    place = next(chain(field.parameters(), field.buffers()))
    done = 0
    with Progress(len(images), progress, label="features") as bar:
        for x in images.split(images_at_once(images)):
            x = x.to(device=place.device, dtype=place.dtype)
            # Not around the yield: what is done with the features keeps its own mode.
            with torch.no_grad(), full_precision(x.device):
                phi = look(field, x)
            yield phi
            done += len(x)
            bar.update(done)


class Moments:
    """Mean and covariance of points that come in parts, for every cell of a grid.

    Of two sets of n and k points with means a and b, the sums of squared deviations M
    about the common mean combine as
    M = M_n + M_k + (b - a)(b - a)^T n k / (n + k).
    Source: Chan, Golub, LeVeque, The American Statistician 37, 1983.

    Args:
        grid: (h, w).
        features: F.

    Attributes:
        count: points so far, in each cell.
        mean: (h, w, F), float64.
    """

    def __init__(self, grid: tuple[int, ...], features: int):
        self.count = 0
        self.mean = torch.zeros(*grid, features, dtype=torch.float64)
        self._squares = torch.zeros(*grid, features, features, dtype=torch.float64)

    def add(self, points: Tensor) -> None:
        """Take in points (h, w, B, F), float64; B >= 1."""
        new = points.shape[2]
        share = new / (self.count + new)
        for mean, squares, row in zip(self.mean, self._squares, points, strict=True):
            center = row.mean(1)  # (w, F)
            apart = center - mean
            row = row - center[:, None]
            squares.baddbmm_(row.mT, row)
            weighted = (self.count * share * apart)[:, :, None]
            squares.baddbmm_(weighted, apart[:, None])
            mean += share * apart
        self.count += new

    def covariance(self, row: int) -> Tensor:
        """The sample covariances of one row of cells, (w, F, F); a copy."""
        return self._squares[row] / (self.count - 1)

    def variance(self) -> Tensor:
        """The variance of each feature over all cells and points, (F,)."""
        within = self._squares.diagonal(dim1=-2, dim2=-1) / self.count  # (h, w, F)
        means = self.mean.flatten(0, 1)
        return within.flatten(0, 1).mean(0) + means.var(0, correction=0)

    def gaussians(
        self, noise: float, relative: bool, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """Means (h, w, F) and whiteners (h, w, F, F) of `GaussianField`.

        They are computed in float64; the whiteners are returned as `dtype`.

        Raises:
            ValueError: the points held NaN or infinite values.
        """
        if not self.mean.isfinite().all():
            raise ValueError("the features of the images hold NaN or infinite values")
        count = self.mean.shape[-1]
        granted = torch.full((count,), noise**2, dtype=torch.float64)
        if relative:
            variance = self.variance()
            granted *= variance.clamp_min(max(1e-6 * float(variance.max()), 1e-12))
        eye = torch.eye(count, dtype=torch.float64)
        whitener = torch.empty(self._squares.shape, dtype=dtype)
        for i in range(len(whitener)):  # row by row, as copies are large
            sigma = self.covariance(i)
            sigma.diagonal(dim1=-2, dim2=-1).add_(granted)
            factor = torch.linalg.cholesky(sigma)
            whitener[i] = torch.linalg.solve_triangular(
                factor, eye.expand_as(factor), upper=False
            )
        return self.mean, whitener
