"""Judges of the exercises of chapter 13, energies on pretrained features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import ask, tensor


def _field(local_nearest) -> str:
    g = torch.Generator().manual_seed(13)
    train = torch.randn(5, 3, 4, 6, generator=g)
    test = torch.randn(2, 3, 4, 6, generator=g)
    for radius in (1, 0, 2):
        right = _local(train, test, radius)
        value = ask(local_nearest, train, test, radius)
        value = tensor(value, right, "one patch energy per image and cell")
        if torch.allclose(value, right, rtol=1e-4, atol=1e-5):
            continue
        for hint, answer in FIELD_MISTAKES.items():
            if torch.allclose(value, answer(train, test, radius), rtol=1e-4, atol=1e-5):
                raise Hint(hint)
        b, i, j = torch.nonzero((value - right).abs() > 1e-4)[0].tolist()
        raise Hint(
            f"with radius {radius} the energy of cell ({i}, {j}) should be "
            f"{float(right[b, i, j]):.4f}, got {float(value[b, i, j]):.4f}."
        )
    return "The core of PatchCore in a few lines, with a place for every patch."


def _local(
    train: Tensor,
    test: Tensor,
    radius: float,
    apart: Callable[[Tensor], Tensor] = lambda step: step.amax(-1),
    reduce: Callable[[Tensor], Tensor] = lambda d: d.sum(1),
    over: Callable[[Tensor], Tensor] = lambda d: d.amin((0, 3, 4)),
) -> Tensor:
    """Half the least squared distance to patches of `train` near the same place.

    apart: from the steps in rows and columns (..., 2) to a distance in cells; reduce:
    of squared differences over axis 1, the features; over: of the energies over images
    and cells, (N, h, w, h', w') with infinity where a cell is too far.
    """
    rows, columns = train.shape[2:]
    place = torch.stack(
        torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1
    )
    step = (place[:, :, None, None] - place[None, None]).abs().float()
    far = apart(step) > radius  # (h, w, h', w')
    found = []
    for phi in test:
        squares = (phi[None, :, :, :, None, None] - train[:, :, None, None]).square()
        energy = reduce(squares) / 2  # (N, h, w, h', w')
        found.append(over(energy.masked_fill(far, torch.inf)))
    return torch.stack(found)


def _rolled(train: Tensor, test: Tensor, radius: int) -> Tensor:
    """Neighbors by torch.roll, which continues on the other side."""
    steps = range(-radius, radius + 1)
    near = torch.cat([train.roll((i, j), (2, 3)) for i in steps for j in steps])
    return _local(near, test, 0)


FIELD_MISTAKES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "the energy is half of the squared distance.": (
        lambda train, test, radius: 2 * _local(train, test, radius)
    ),
    "this is the distance; the energy is half of its square.": (
        lambda train, test, radius: (2 * _local(train, test, radius)).sqrt()
    ),
    "half of the *squared* distance, not half of the distance.": (
        lambda train, test, radius: (2 * _local(train, test, radius)).sqrt() / 2
    ),
    "this looks at the own cell only; cells up to `radius` away count as well.": (
        lambda train, test, radius: _local(train, test, 0)
    ),
    "this looks anywhere; only cells up to `radius` away count.": (
        lambda train, test, radius: _local(train, test, 99)
    ),
    "radius counts rows and columns separately: the cells form a square.": (
        lambda train, test, radius: _local(
            train, test, radius, apart=lambda step: step.sum(-1)
        )
    ),
    "the cells form a square, not a disk: the larger of the steps in rows and in "
    "columns is at most `radius`.": (
        lambda train, test, radius: _local(
            train, test, radius + 1e-6, apart=lambda step: step.norm(dim=-1)
        )
    ),
    "a cell at a distance of exactly `radius` still counts.": (
        lambda train, test, radius: _local(train, test, max(radius - 1, 0))
    ),
    "sum the squared differences over the features; this is their mean.": (
        lambda train, test, radius: _local(
            train, test, radius, reduce=lambda d: d.mean(1)
        )
    ),
    "the nearest patch counts, not the mean over the images.": (
        lambda train, test, radius: _local(
            train, test, radius, over=lambda d: d.amin((3, 4)).mean(0)
        )
    ),
    "torch.roll continues on the other side; beyond the border there is no cell.": (
        _rolled
    ),
}


class _Bent(nn.Module):
    """Features that are not linear, as those of a network."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.kernel = torch.randn(4, 2, 2, 2, generator=g)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(nn.functional.conv2d(x, self.kernel, stride=2))


def _pull(pixel_gradient) -> str:
    g = torch.Generator().manual_seed(31)
    features = _Bent()
    x, other = (torch.rand(3, 2, 4, 6, generator=g) for _ in range(2))
    mean = 0.3 * torch.randn(4, generator=g)
    root = torch.randn(4, 4, generator=g)
    precision = root @ root.T + torch.eye(4)  # Sigma^-1
    right = _chain(features, x, mean, precision)
    value = tensor(ask(pixel_gradient, features, x, mean, precision), right, "dE/dx")
    if not torch.allclose(value, right, rtol=1e-3, atol=1e-5):
        for hint, answer in PULL_MISTAKES.items():
            wrong = answer(features, x, mean, precision)
            if torch.allclose(value, wrong, rtol=1e-3, atol=1e-5):
                raise Hint(hint)
        off = float((value - right).norm() / right.norm())
        raise Hint(f"the gradient is off by {off:.2g} of its length.")
    again = _chain(features, other, mean, precision)
    if not torch.allclose(
        tensor(ask(pixel_gradient, features, other, mean, precision), again, "dE/dx"),
        again,
        rtol=1e-3,
        atol=1e-5,
    ):
        raise Hint("right for one batch, wrong for the next; keep nothing in x.grad.")
    return "The deviation in feature space, pulled back to the pixels."


def _chain(
    features: nn.Module,
    x: Tensor,
    mean: Tensor,
    precision: Tensor,
    *,
    weigh: Callable[[Tensor, Tensor], Tensor] = lambda away, p: torch.einsum(
        "ab,nbhw->nahw", p, away
    ),
) -> Tensor:
    """The pull-back of weigh(phi - mean, precision)."""
    x = x.clone().requires_grad_()
    phi = features(x)
    push = weigh((phi - mean[:, None, None]).detach(), precision)
    return torch.autograd.grad(phi, x, push)[0]


PULL_MISTAKES: dict[str, Callable[..., Tensor]] = {
    "this is the gradient of d^2; the energy is half of it.": (
        lambda *given: 2 * _chain(*given)
    ),
    "the sign is turned: this points to where the energy falls.": (
        lambda *given: -_chain(*given)
    ),
    "the deviation must be multiplied by the inverse covariance first.": (
        lambda *given: _chain(*given, weigh=lambda away, p: away)
    ),
    "the mean is missing: take the deviation phi - mean.": (
        lambda features, x, mean, precision: _chain(
            features, x, torch.zeros_like(mean), precision
        )
    ),
    "this is the gradient of the sum of all features; each must be weighed by its "
    "deviation.": (
        lambda *given: _chain(*given, weigh=lambda away, p: torch.ones_like(away))
    ),
    "multiply by the inverse covariance once; twice is the gradient of another "
    "energy.": (
        lambda *given: _chain(
            *given, weigh=lambda away, p: torch.einsum("ab,nbhw->nahw", p @ p, away)
        )
    ),
    "the energy is a sum over cells and features, not a mean.": (
        lambda features, x, mean, precision: (
            _chain(features, x, mean, precision) / features(x)[0, 0].numel()
        )
    ),
    "each image has an energy of its own; do not average over the batch.": (
        lambda features, x, mean, precision: (
            _chain(features, x, mean, precision) / len(x)
        )
    ),
}

EXERCISES = {
    "ex-13-field": Exercise(
        _field,
        "For one cell: which training cells lie within `radius`, and which is nearest?",
    ),
    "ex-13-pull": Exercise(
        _pull, "torch.autograd.grad takes the vector that is pulled back as its third."
    ),
}
