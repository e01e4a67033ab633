"""Changes of a category that a detector meets in use: light, place, files, mistakes.

Each function takes a `Category` and returns another one; the first is left as it is.
The same changes are applied to the library's detectors and to those of
`benchmarks/peers/`, so that the figures can be compared. Only contamination changes the
training images; all others change the test images alone, after a fit on unchanged ones.
"""

import dataclasses
import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from ebmlib.data import Category


def light(category: Category, factor: float) -> Category:
    """Test images whose gray values are multiplied by `factor` and clipped to [0, 1].

    Raises:
        ValueError: a factor that is not positive.
    """
    if not factor > 0:
        raise ValueError(f"factor must be positive, such as 1.1, got {factor}")
    return dataclasses.replace(category, test=(category.test * factor).clamp(0, 1))


def shift(category: Category, pixels: int) -> Category:
    """Test images and masks, moved right and down; the edge is repeated.

    Args:
        category: of any size above `pixels`.
        pixels: to the right and down; negative ones to the left and up.

    Raises:
        ValueError: the images are not larger than the shift.
    """
    height, width = category.test.shape[-2:]
    if abs(pixels) >= min(height, width):
        raise ValueError(
            f"images of {height}x{width} px cannot move by {pixels} px; "
            "choose a shift below their side"
        )
    masks = _shifted(category.masks[:, None].float(), pixels)[:, 0] > 0.5
    return dataclasses.replace(
        category, test=_shifted(category.test, pixels), masks=masks
    )


def _shifted(images: Tensor, pixels: int) -> Tensor:
    height, width = images.shape[-2:]
    side = abs(pixels)
    start = side - pixels
    padded = pad(images, (side,) * 4, mode="replicate")
    return padded[..., start : start + height, start : start + width].contiguous()


def jpeg(category: Category, quality: int) -> Category:
    """Test images that were written as JPEG and read again (8 bits, Pillow).

    Args:
        category: of 1 or 3 channels.
        quality: of Pillow, 1 to 95; color is stored at half the resolution.

    Raises:
        ValueError: another quality.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"quality must be between 1 and 95, got {quality}")
    test = torch.stack([_stored(image, quality) for image in category.test])
    return dataclasses.replace(category, test=test)


def _stored(image: Tensor, quality: int) -> Tensor:
    bytes_ = (image * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(bytes_[..., 0] if bytes_.shape[2] == 1 else bytes_)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    read = np.array(Image.open(file)).reshape(bytes_.shape)
    return torch.from_numpy(read).permute(2, 0, 1).float() / 255


def contaminate(category: Category, share: float) -> Category:
    """Training images of which some are defective, as after a mistake in sorting.

    The first defective test image of every kind, then the second one, and so on, take
    the places of training images that lie evenly among all. They leave the test.

    Args:
        category: with enough defective test images.
        share: of the training images that are replaced, in (0, 1).

    Raises:
        ValueError: another share, or no defective image would be left to test.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
    count = max(1, round(share * len(category.train)))
    defective = int(category.labels.sum())
    if count >= defective:
        raise ValueError(
            f"{count} of {len(category.train)} training images would be replaced, but "
            f"there are {defective} defective test images, and one must stay to be "
            "tested; choose a smaller share"
        )
    taken = _in_turn(category.kinds)[:count]
    places = [(2 * i + 1) * len(category.train) // (2 * count) for i in range(count)]
    train = category.train.clone()
    train[places] = category.test[taken]
    kept = [i for i in range(len(category.test)) if i not in set(taken)]
    return dataclasses.replace(
        category,
        train=train,
        test=category.test[kept],
        labels=category.labels[kept],
        masks=category.masks[kept],
        kinds=[category.kinds[i] for i in kept],
    )


def _in_turn(kinds: list[str]) -> list[int]:
    """Indices of defective images: the first of each kind, the second of each, ..."""
    seen: dict[str, int] = {}
    order = []
    for index, kind in enumerate(kinds):
        if kind != "good":
            seen[kind] = seen.get(kind, 0) + 1
            order.append((seen[kind], index))
    return [index for _, index in sorted(order)]


CHANGES: dict[str, Callable[[Category], Category]] = {
    "light+10": partial(light, factor=1.1),
    "light-10": partial(light, factor=0.9),
    "shift4": partial(shift, pixels=4),
    "jpeg75": partial(jpeg, quality=75),
    "contaminated": partial(contaminate, share=0.1),
}
