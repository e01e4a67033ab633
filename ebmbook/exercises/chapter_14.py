"""Judges of the exercises of chapter 14, the museum of broken runs."""

from __future__ import annotations

import math
from functools import partial

import torch

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import number, real_number, reject_near_miss
from ebmlib.langevin import langevin
from ebmlib.toy import GaussianEnergy


def _ratio(ratio_from_path) -> str:
    g = torch.Generator().manual_seed(13)
    energy = GaussianEnergy(torch.zeros(8), 0.04 * torch.eye(8))
    for step_size, noise in ((0.01, 0.1), (0.02, 0.05)):
        start = 0.3 * torch.randn(200, 8, generator=g)
        chain = langevin(
            energy, start, steps=30, step_size=step_size, noise=noise, generator=g,
            trajectory=True,
        )  # fmt: skip
        path = chain.trajectory
        assert path is not None  # it was asked for
        square = float(path.diff(dim=0).square().mean())
        right = math.sqrt(square / noise**2 - 1)
        value = real_number(
            partial(ratio_from_path, path, noise),
            "this is the root of a negative number. The noise has to be squared, too: "
            "subtract 1 from the mean square of a step over noise^2.",
        )
        norms = path.diff(dim=0).square().sum(-1)  # over the D coordinates
        across = float(path.diff(dim=-1).square().mean())
        between = float(path.diff(dim=1).square().mean())
        ends = float((path[-1] - path[0]).square().mean())
        for wrong, hint in (
            (square / noise**2 - 1, "this is the square of the ratio; take its root."),
            (
                math.sqrt(square) / noise,
                "a step is drift and noise; subtract the part of the noise, a 1.",
            ),
            (square / noise**2, "subtract the part of the noise, then take the root."),
            (
                math.sqrt(square) / noise - 1,
                "drift and noise add as squares: subtract before the root.",
            ),
            (
                math.sqrt(abs(square / noise - 1)),
                "the noise has to be squared, too: its variance is noise^2.",
            ),
            (
                math.sqrt(square - noise**2),
                "this is the size of the drift; divide it by the noise.",
            ),
            (
                math.sqrt(abs(between / noise**2 - 1)),
                "these are differences between chains; time is axis 0 of the path.",
            ),
            (
                math.sqrt(abs(across / noise**2 - 1)),
                "these are differences between coordinates, the default of diff; "
                "time is axis 0 of the path.",
            ),
            (
                math.sqrt(float(norms.mean()) / noise**2 - 1),
                "this sums over the D coordinates; take the mean over them, too.",
            ),
            (
                math.sqrt(abs(ends / noise**2 - 1)),
                "last minus first is not a step; use all path[t + 1] - path[t].",
            ),
        ):
            if math.isclose(value, wrong, rel_tol=1e-4):
                raise Hint(hint)
        if not math.isclose(value, right, rel_tol=0.02):
            raise Hint(f"for our path it is {right:.3f}, got {value:.3f}.")
    return "Positions and noise are enough: no energy, no gradient, no step size."


def _neighbors(neighbor_ratio) -> str:
    g = torch.Generator().manual_seed(14)
    # So few that cdist is exact at 0; an odd number, so that there is one median.
    data = torch.rand(25, 3, 4, 4, generator=g)
    fresh = torch.rand(25, 3, 4, 4, generator=g)
    few = fresh[torch.arange(25) % 3]
    few = few + 0.02 * torch.randn(few.shape, generator=g)
    odd = torch.cat([few, 5 + fresh[:9]])[9:]  # some far away from all others

    for chains in (few, odd):
        value = number(neighbor_ratio(chains, data))
        right = float(_nearest(chains).median() / _nearest(data).median())
        if math.isclose(value, right, rel_tol=1e-3):
            continue
        cross = torch.cdist(chains.flatten(1), data.flatten(1)).amin(1)
        mean = _nearest(chains).mean() / _nearest(data).mean()
        pairs = _pairs(chains).median() / _pairs(data).median()
        rows = _nearest_rows(chains).median() / _nearest_rows(data).median()
        for wrong, hint in (
            (
                rows,
                "cdist compared rows of pixels; flatten each image, x.flatten(1).",
            ),
            (1 / right, "this is data over chains; collapse should give less than 1."),
            (right**2, "these are squared distances; take the root."),
            (pairs, "these are all pairs; take the smallest distance of each chain."),
            (
                cross.median() / _nearest(data).median(),
                "compare chains with chains; the nearest data tell of memory.",
            ),
            (mean, "a few chains far away move the mean; take the median."),
        ):
            if math.isclose(value, float(wrong), rel_tol=1e-3):
                raise Hint(hint)
        if math.isnan(value) or value == 0:
            raise Hint(
                "the nearest chain to a chain is itself; leave the diagonal out."
            )
        reject_near_miss(value, right, 1e-3)
        raise Hint(f"for our chains it is {right:.3f}, got {value:.3f}.")
    return "Chains in three clumps no longer pass for diverse."


def _nearest(x: torch.Tensor) -> torch.Tensor:
    """Distance of each item to the nearest other one, (N,)."""
    distance = torch.cdist(x.flatten(1), x.flatten(1))
    return distance.fill_diagonal_(math.inf).amin(1)


def _nearest_rows(x: torch.Tensor) -> torch.Tensor:
    """The same for the rows of pixels in a channel, if x is not flattened."""
    distance = torch.cdist(x, x)
    return distance.where(distance > 0, math.inf).amin(-1)


def _pairs(x: torch.Tensor) -> torch.Tensor:
    """All distances between two different items."""
    return torch.pdist(x.flatten(1))


EXERCISES = {
    "ex-14-ratio": Exercise(
        _ratio, "Begin with path.diff(dim=0), and average its square over everything."
    ),
    "ex-14-neighbors": Exercise(
        _neighbors, "Begin with torch.cdist on chains.flatten(1), then its diagonal."
    ),
}
