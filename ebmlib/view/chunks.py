"""Work through many images a few at a time, so that memory stays small."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import starmap

import torch
from torch import Tensor

CHUNK = 32  # images at a time, at most; it bounds memory, not the result
NUMBERS = 2**23  # in the images of one chunk, at most: 42 RGB images of 256 px


def by_chunks(
    function: Callable[..., Tensor], *tensors: Tensor, numbers: int = 0
) -> Tensor:
    """`function(*tensors)`, computed a few rows at a time into one result.

    Args:
        function: makes k rows of every row of its arguments, for some whole k >= 1.
        *tensors: of equal length, at least 1.
        numbers: how many numbers a row needs, if more than in the first tensor.
    """
    n, count = len(tensors[0]), _rows(tensors[0], numbers)
    first = function(*(t[:count] for t in tensors))
    if n <= count:
        return first
    made = len(first) // count
    result = first.new_empty(made * n, *first.shape[1:])
    result[: len(first)] = first
    for start in range(count, n, count):
        part = function(*(t[start : start + count] for t in tensors))
        result[made * start : made * start + len(part)] = part
    return result


def mean_by_chunks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function(*tensors).mean(0)`, computed a few rows at a time."""
    count = _rows(tensors[0])
    parts = zip(*(t.split(count) for t in tensors), strict=True)
    sums = [part.sum(0) for part in starmap(function, parts)]
    return torch.stack(sums).sum(0) / len(tensors[0])


def _rows(tensor: Tensor, numbers: int = 0) -> int:
    """How many rows of a tensor make one chunk."""
    return max(1, min(CHUNK, NUMBERS // max(1, numbers, math.prod(tensor.shape[1:]))))
