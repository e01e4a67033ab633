"""Mock exams: what can be asked of training images alone.

A third of a category's *training* images is held out. Half of it stays as it is, the
rest is damaged by `ebmlib.data.corruption.damage`, some of it faintly, with masks that
are filled and rounded as a person draws them. A detector learns from the other two
thirds and is marked on the held-out third. No test image is touched.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ebmlib.data import Category
from ebmlib.data.corruption import damage

MOST_HELD = 90  # training images that are held out
FAINTEST = 0.2  # share of its change that the faintest damage keeps


def mock_exam(train: Tensor, name: str, draws: int = 2, seed: int = 77) -> Category:
    """Two thirds to learn from; of the rest, half as it is, half damaged `draws` times.

    Args:
        train: normal images (N, C, H, W), all that the exam ever sees.
        name: of the category.
        draws: damaged copies of each image of the last sixth.
        seed: of the split and of the damage.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    count = min(len(train) // 3, MOST_HELD)
    held, kept = train[order[:count]], train[order[count:]]
    normal, other = held[: count // 2], held[count // 2 :].repeat(draws, 1, 1, 1)
    damaged, masks = [], []
    for image in other:
        changed, mask = damage(image[None], generator)
        share = FAINTEST + (1 - FAINTEST) * torch.rand((), generator=generator)
        damaged.append(torch.lerp(image[None], changed, share))
        masks.append(torch.from_numpy(as_drawn(mask[0].numpy())))
    test = torch.cat([normal, *damaged])
    empty = torch.zeros(len(normal), *masks[0].shape, dtype=torch.bool)
    labels = torch.arange(len(test)) >= len(normal)
    kinds = ["damaged" if label else "good" for label in labels]
    return Category(
        name, kept, test, labels, torch.cat([empty, torch.stack(masks)]), kinds
    )


def as_drawn(mask: np.ndarray) -> np.ndarray:
    """Gaps closed, holes filled, hairs shaved: what a person would mark."""
    radius = max(2, min(mask.shape) // 64)
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = rows**2 + columns**2 <= radius**2
    closed = ndimage.binary_closing(np.pad(mask, radius), disk)
    filled = ndimage.binary_fill_holes(closed)[radius:-radius, radius:-radius]
    shaved = ndimage.binary_opening(filled, disk[::2, ::2])
    return shaved if shaved.any() else filled
