"""Arrays and tensors of images in the usual layouts, as float32 in [0, 1] (chapter 1).

Tensors hold channels first, NumPy arrays channels last. A layout that could mean two
things is refused with the expression that says which is meant.
"""

import numpy as np
import torch
from torch import Tensor

from ebmlib.data.files import (
    ImageError,
    check_stretch,
    check_white,
    set_channels,
)
from ebmlib.data.resizing import Size, check_size, resize_planes

Array = Tensor | np.ndarray


def image_stack(images: Array) -> Array:
    """A view (N, C, H, W) of one or several images; values are not read.

    Two axes are one gray image (H, W). Three axes are one image, (C, H, W) as a tensor
    and (H, W, C) as an array, with C = 1 or 3; an array may also hold gray images
    (N, H, W). Four axes are (N, C, H, W) as a tensor and (N, H, W, C) as an array.

    Raises:
        TypeError: Neither uint8, uint16 nor float.
        ValueError: Another shape, or one that could be read in two ways.
        ImageError: No images at all.
    """
    _check_type(images)
    shape = tuple(images.shape)
    hint = _wrong_tensor(shape) if isinstance(images, Tensor) else _wrong_array(shape)
    if hint:
        if isinstance(images, Tensor):
            kind = "a tensor of images must be (N, C, H, W), (C, H, W) or (H, W)"
        else:
            kind = "an array of images must be (N, H, W, C) with C = 1 or 3, or gray"
        raise ValueError(f"{kind}; got {shape}: {hint}")
    if 0 in shape:
        raise ImageError(f"no images: the shape is {shape}")
    if len(shape) == 2:
        return images[None, None]
    if isinstance(images, Tensor):
        return images if len(shape) == 4 else images[None]
    if len(shape) == 3:
        images = images[None] if shape[2] in (1, 3) else images[..., None]
    return images.transpose(0, 3, 1, 2)


def _check_type(images: Array) -> None:
    if isinstance(images, Tensor):
        good = images.is_floating_point() or images.dtype in (torch.uint8, torch.uint16)
    else:
        kind, width = images.dtype.kind, images.dtype.itemsize
        good = kind == "f" or (kind == "u" and width <= 2)
    if not good:
        dtype = str(images.dtype).removeprefix("torch.")
        raise TypeError(
            "images must be uint8 (0 to 255), uint16 (0 to 65535) or float (0 to 1); "
            f"got {dtype}. Convert with .astype / .to after scaling"
        )


def _wrong_tensor(shape: tuple[int, ...]) -> str:
    """How to mend the shape of a tensor, or nothing if it is right."""
    if len(shape) == 4:
        if shape[1] not in (1, 3) and shape[3] in (1, 3):
            return "for channels last, pass images.permute(0, 3, 1, 2)"
        return ""
    if len(shape) == 3:
        if shape[0] in (1, 3):
            return ""
        if shape[2] in (1, 3):
            return "for one image with channels last, pass images.permute(2, 0, 1)"
        return (
            "for gray images pass images[:, None], for one image of "
            f"{shape[0]} channels images[None]"
        )
    return "" if len(shape) == 2 else f"it has {len(shape)} axes"


def _wrong_array(shape: tuple[int, ...]) -> str:
    """How to mend the shape of an array, or nothing if it is right."""
    if len(shape) == 4:
        if shape[3] in (1, 3):
            return ""
        if shape[1] in (1, 3):
            return "for channels first, pass torch.from_numpy(images)"
        if shape[3] == 4:
            return "drop the alpha channel with images[..., :3]"
        return "the last axis must hold the channels"
    if len(shape) == 3:
        if shape[2] in (2, 4):
            return (
                f"for one image with an alpha channel pass images[..., :{shape[2] - 1}]"
                f", for gray images {shape[2]} pixels wide images[..., None]"
            )
        if shape[0] == 3 and shape[2] not in (1, 3):
            return (
                "for three gray images pass images[..., None], for one image with "
                "channels first images.transpose(1, 2, 0)[None]"
            )
        return ""
    return "" if len(shape) == 2 else f"it has {len(shape)} axes"


def single_image(image: Array, name: str) -> Array:
    """A view (1, C, H, W) of one image: (C, H, W) tensor, (H, W, C) array, or (H, W).

    Raises:
        TypeError, ValueError, ImageError: As `image_stack`, naming the image.
    """
    shape = tuple(image.shape)
    try:
        _check_type(image)
        if image.ndim == 4:
            raise ValueError(
                f"an item must be one image, not a batch {shape}; join batches with "
                "torch.cat or numpy.concatenate"
            )
        if isinstance(image, Tensor) and image.ndim == 3 and shape[2] not in (1, 3):
            image = image[None]  # one image, whatever the number of its channels
        stack = image_stack(image)
        if len(stack) != 1:
            raise ValueError(
                "an item must be one image, (H, W) or (H, W, C) with C = 1 or 3; got "
                f"{shape}: for channels first, pass torch.from_numpy"
            )
    except (TypeError, ValueError) as error:  # ImageError among them
        raise type(error)(f"{name}: {error}") from None
    return stack


def unit_range(
    stack: Array, bits: int | None, first: int = 0
) -> tuple[Tensor, int | None]:
    """Images (N, C, H, W) as float32 on the CPU in [0, 1], and the peak of uint16.

    uint8 is divided by 255, uint16 by 2^bits - 1 (65535 without `bits`); float must lie
    in [0, 1] up to rounding, which is clipped.

    Args:
        stack: What `image_stack` gave, or a part of it.
        bits: See `ebmlib.data.files.read_image`; without effect on uint8 and float.
        first: Number of the first image, for errors.

    Raises:
        ImageError: Values that are not finite, outside [0, 1], or above white.
    """
    if isinstance(stack, Tensor):
        deep, shallow = stack.dtype == torch.uint16, stack.dtype == torch.uint8
        images = stack.detach().cpu().float()  # a copy, unless it is float32 already
    else:
        whole = stack.dtype.kind == "u"
        deep, shallow = (whole and stack.dtype.itemsize == n for n in (2, 1))
        images = torch.from_numpy(np.array(stack, dtype=np.float32, order="C"))
    if shallow:
        return images.div_(255), None
    if deep:
        for index, image in enumerate(images, start=first):
            check_white(int(image.max()), bits, f"image {index}")
        peak = int(images.max())
        return images.div_(2 ** (bits or 16) - 1), peak
    _check_values(images, first)
    return images.clamp(0, 1), None


def _check_values(batch: Tensor, first: int) -> None:
    """Finite and in [0, 1], up to rounding."""
    finite = batch.isfinite().flatten(1).all(1)
    if not finite.all():
        index = first + int((~finite).nonzero()[0])
        raise ImageError(f"image {index}: holds values that are NaN or infinite")
    low, high = float(batch.min()), float(batch.max())
    if low < -1e-5 or high > 1 + 1e-5:
        if low >= 0 and high <= 255:
            fix = "divide by 255, or pass uint8"
        else:
            fix = "pass images as they are, neither standardized nor centered"
        which = f"image {first}"
        if len(batch) > 1:
            which = f"images {first} to {first + len(batch) - 1}"
        raise ImageError(
            f"{which}: values from {low:.3g} to {high:.3g}, but float images must lie "
            f"in [0, 1]; {fix}"
        )


def fit_batch(
    batch: Tensor, size: Size | None, channels: int | None, first: int = 0
) -> Tensor:
    """A float32 batch (B, C, H, W) at a size and with a channel count.

    Raises:
        ValueError: Neither 1 nor 3 channels, and another number asked for.
        ImageError: A square size would distort the images too much.
    """
    height, width = batch.shape[2:]
    same_size = size is None or (height, width) == check_size(size)
    if same_size and channels in (None, batch.shape[1]):
        return batch.contiguous()
    if channels is not None and batch.shape[1] not in (1, 3):
        raise ValueError(
            f"images have {batch.shape[1]} channels, not {channels}; only gray (1) and "
            "RGB (3) convert into each other"
        )
    fitted = []
    for index, planes in enumerate(batch.numpy(), start=first):  # (C, H, W)
        if size is not None and not same_size:
            target = check_stretch((height, width), size, f"image {index}")
            planes = resize_planes(planes, target)
        planes = planes if channels is None else set_channels(planes, channels)
        fitted.append(torch.from_numpy(planes))
    return torch.stack(fitted)
