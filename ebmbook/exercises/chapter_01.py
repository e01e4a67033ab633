"""Judges of the exercises of chapter 1, data and trivial baselines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmbook.exercises import Exercise, Hint


def _surprise(surprise) -> str:
    g = torch.Generator().manual_seed(1)
    x, mean = torch.rand(2, 5, 3, 4, 6, generator=g, dtype=torch.float64)
    mean = mean[0]  # (C, H, W)
    std = 0.05 + 0.2 * torch.rand(3, 4, 6, generator=g, dtype=torch.float64)
    energy = 0.5 * ((x - mean) / std).square().sum((1, 2, 3))  # (B,)
    log_std = float(std.log().sum())
    constant = 0.5 * std.numel() * math.log(2 * math.pi)
    right = energy + log_std + constant

    value = torch.as_tensor(surprise(x, mean, std), dtype=torch.float64)
    if value.shape != right.shape:
        raise Hint(
            f"one number per image, shape {tuple(right.shape)}, not "
            f"{tuple(value.shape)}: sum over channels and pixels, keep the first axis."
        )

    def is_close(other: Tensor) -> bool:
        return torch.allclose(value, other, rtol=1e-5)

    if is_close(-right):
        raise Hint("the sign: this is log p, and the surprise is -log p.")
    if is_close(right / std.numel()):
        raise Hint("this is the mean over pixels; a logarithm of a product is a sum.")
    if is_close(energy):
        raise Hint("this is the energy alone; add log Z.")
    if is_close(energy - log_std - constant):
        raise Hint("log Z has the wrong sign: -log p = E + log Z.")
    if is_close(energy + log_std):
        raise Hint("log Z also holds half a log(2 pi) for every pixel.")
    if is_close(energy + log_std + 2 * constant):
        raise Hint("it is *half* a log(2 pi) for every pixel.")
    if is_close(energy + log_std + constant / std.numel()):
        raise Hint("half a log(2 pi) for *every* pixel, not once.")
    if is_close(energy + constant):
        raise Hint("log Z also holds log std of every pixel.")
    if is_close(energy + 2 * log_std + constant):
        raise Hint("the logarithm of the variance counts half: log std, not log std^2.")
    if is_close(right + energy):
        raise Hint("the factor 1/2 of the energy is missing.")
    if not is_close(right):
        raise Hint(
            f"for the first image it should be {right[0]:.2f}, its energy being "
            f"{energy[0]:.2f}; got {value[0]:.2f}."
        )
    return "An energy and its log Z make a density; here both are known."


def _duplicates(duplicates) -> str:
    g = torch.Generator().manual_seed(2)
    tolerance = 0.02
    train = 0.2 + 0.6 * torch.rand(5, 1, 8, 8, generator=g)
    fresh = train[2].flatten()[torch.randperm(64, generator=g)].view(1, 8, 8)
    jitter = 0.015 * (2 * torch.rand(1, 8, 8, generator=g) - 1)
    damaged = train[4].clone()
    damaged[0, 3, 3] += 0.15
    dark = torch.zeros(1, 8, 8)
    bright = torch.ones(1, 8, 8)
    copy, same_place, compressed = train[3], train[1], train[0] + jitter
    test = torch.stack(
        [copy, same_place, compressed, fresh, damaged, dark, bright]
    )  # (7, 1, 8, 8)
    right = torch.tensor([True, True, True, False, False, False, False])

    value = torch.as_tensor(duplicates(test, train, tolerance))
    if value.shape == (len(test), len(train)):
        raise Hint("this compares all pairs; reduce over the training images with any.")
    if value.shape != right.shape:
        raise Hint(
            f"one answer for each of the {len(test)} test images, against all "
            f"{len(train)} training images; got the shape {tuple(value.shape)}."
        )
    if not ((value == 0) | (value == 1)).all():
        raise Hint("answer yes or no for every image: compare with the tolerance.")
    value = value.bool()
    if torch.equal(value, ~right):
        raise Hint("the other way round: True is a copy.")
    if value[5] or value[6]:
        raise Hint("take the absolute difference: darker and brighter both differ.")
    if value[3]:
        raise Hint(
            "equal brightness, or some equal pixels, are no copy; compare pixel by "
            "pixel, and let the largest difference decide."
        )
    if value[4]:
        raise Hint(
            "a part with one damaged pixel passed as a copy; take the largest "
            "difference, not the mean."
        )
    if not value[0]:
        raise Hint(
            "test image 0 is a copy of training image 3; one match with any "
            "training image is enough."
        )
    if not value[2]:
        if torch.as_tensor(duplicates(test, train, 1.0))[2]:
            raise Hint(
                "let the largest difference of a pair decide, not the length or the "
                "sum of all its differences."
            )
        raise Hint("a copy that was saved again is off by a little; use the tolerance.")
    if not torch.equal(value, right):
        raise Hint(f"the answer should be {right.tolist()}, got {value.tolist()}.")
    if torch.as_tensor(duplicates(test, train, 0.005))[2]:
        raise Hint(
            "test image 2 is off by 0.015, and passed at a tolerance of 0.005: use the "
            "tolerance that you are given."
        )
    return "Run it before any training, on every data set you did not draw yourself."


EXERCISES = {
    "ex-01-surprise": Exercise(
        _surprise, "Begin with z = (x - mean) / std, of shape (B, C, H, W)."
    ),
    "ex-01-duplicates": Exercise(
        _duplicates, "Begin with test[:, None] - train[None], (M, N, C, H, W)."
    ),
}
