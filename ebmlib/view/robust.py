"""Weights that let pixels with a large error count little (chapter 12).

Registration and exposure both compare an image with the mean part. A defect is where
the two differ, and it should influence neither the shift nor the brightness.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES = 2048  # errors of an image from which their median is estimated


def cauchy_weights(error: Tensor, width: float) -> Tensor:
    """Weights in (0, 1] of errors `(N, P)`, those of the loss log(1 + e^2 / (c m)^2).

        w = 1 / (1 + (e / (c m))^2),   m = median of |e| of each image

    Above 4096 pixels m is the median over every k-th pixel, about 2048 in all.

    Args:
        error: `(N, P)`.
        width: c, positive. Errors below c times the median keep most of their weight.

    Source: Holland & Welsch, Communications in Statistics 6 (1977) 813-827.
    """
    step = max(1, error.shape[1] // SAMPLES)
    side = math.isqrt(error.shape[1])
    while math.gcd(step, side) > 1:  # not the same columns of every row
        step += 1
    median = error[:, ::step].abs().median(1, keepdim=True).values.clamp_min(1e-6)
    return (error / (width * median)).square_().add_(1).reciprocal_()


def weighted_sums(weights: Tensor, terms: Tensor) -> Tensor:
    """Sums over the pixels of w_np f_kp: `(N, K)`.

    Computed image by image, in the same order whatever the number of images, so that
    the last bits of an image's result do not depend on its batch. (Rows of a length
    that is no multiple of 16 numbers would start at addresses that differ in their
    alignment, and matrix products may add such rows in another order.)

    Args:
        weights: `(N, P)`.
        terms: f, `(K, P)`.
    """
    if extra := -weights.shape[1] % 16:
        weights, terms = F.pad(weights, (0, extra)), F.pad(terms, (0, extra))
    terms = terms.T.expand(len(weights), -1, -1)
    return torch.bmm(weights[:, None], terms)[:, 0]
