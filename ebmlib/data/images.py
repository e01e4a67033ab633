"""Images from any source, as float32 (N, C, H, W) in [0, 1] (chapter 1).

    images_to_tensor(source)            all at once
    for batch in batches(source):       a batch at a time, in constant memory
    for batch in ImageStream(source):   with names and the sizes before resizing

How one file is read stands in `ebmlib.data.files`, which layouts of arrays and tensors
are understood in `ebmlib.data.arrays`.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ebmlib.data.arrays import (
    Array,
    fit_batch,
    image_stack,
    single_image,
    unit_range,
)
from ebmlib.data.files import (
    COLOR_MODES,
    ImageError as ImageError,
    ImagePath,
    check_bits,
    check_channels,
    decode,
    image_size as image_size,
    list_images as list_images,
    read_image as read_image,
    read_mask as read_mask,
    stored_channels as stored_channels,
    to_tensor,
)
from ebmlib.data.resizing import Size, check_size, is_whole
from ebmlib.data.threads import ordered_map

OneImage = ImagePath | Image.Image | Tensor | np.ndarray
Images = OneImage | Sequence[OneImage] | Dataset[Any] | DataLoader[Any]

LEAST_CONTRAST = 1 / 512  # of the range of an image: half a gray level of 8 bits


class ImageBatch(NamedTuple):
    """Some images of a source.

    Attributes:
        images: float32 (B, C, H, W) in [0, 1].
        names: the path of a file; "image 7" for what has none, counted from 0.
        sizes: (height, width) of each image before it was resized.
    """

    images: Tensor
    names: list[str]
    sizes: list[tuple[int, int]]


Pieces = Generator[ImageBatch, None, None]


class ImageStream:
    """Batches of images with their names and sizes; memory does not grow with N.

    Files are decoded by a few threads, a few files ahead. Every loop over the stream
    reads the source anew.

    Args:
        source: One of
            a folder (its image files, sorted by name), or one image file;
            a tensor (N, C, H, W) or (C, H, W) or (H, W), uint8, uint16 or float in
            [0, 1];
            a NumPy array (N, H, W, C) or (N, H, W) or (H, W, C) or (H, W), the same
            types;
            an image of Pillow's;
            a list or tuple of single images of these kinds: paths, tensors, arrays,
            Pillow images;
            a `torch.utils.data.Dataset` whose items are an image or begin with one;
            a `DataLoader` whose batches are a tensor (B, C, H, W) or begin with one.
        size: Side in pixels or (height, width), reached by area; None keeps the sizes,
            which must then be equal.
        channels: 1 or 3; None keeps those of the source, and takes 3 where it holds
            both gray and color.
        bits: How many bits of 16-bit images are used, 8 to 16; white is 2^bits - 1, and
            a value above it is an error. None means 16, with a warning if all 16-bit
            images together use at most a quarter of the range. Images of 8 bits and
            floats are not affected.
        on_error: "raise", or "skip" to leave out images that cannot be read and list
            them in `errors`.
        batch_size: Images in a batch; the last one may hold fewer.

    Attributes:
        count: Images in the source, broken ones included; None if only reading tells.
        errors: (name, problem) of each image that the last loop has skipped.
        sixteen_bit: Whether the last loop has met 16-bit images whose white only `bits`
            can tell.

    Raises:
        TypeError, ValueError: At once, for a wrong type, shape or option.
        ImageError: At once, for a source without images; while reading, for a file that
            cannot be read, sizes that differ, values outside [0, 1] or not finite; and
            if every image was skipped.
    """

    def __init__(
        self,
        source: Images,
        *,
        size: Size | None = None,
        channels: int | None = None,
        bits: int | None = None,
        on_error: str = "raise",
        batch_size: int = 32,
    ) -> None:
        if not is_whole(batch_size) or batch_size < 1:
            raise ValueError(
                f"batch_size must be a positive integer; got {batch_size!r}"
            )
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip"; got {on_error!r}')
        if channels is not None:
            check_channels(channels)
        check_bits(bits)
        if size is not None:
            check_size(size)
        self.size, self.channels, self.bits = size, channels, bits
        self.on_error, self.batch_size = on_error, int(batch_size)
        self.errors: list[tuple[str, str]] = []
        self.count: int | None = None
        self._peak: int | None = None
        self._pieces = self._choose(source)

    @property
    def sixteen_bit(self) -> bool:
        """Whether 16-bit images were met; see the class."""
        return self._peak is not None

    def __iter__(self) -> Iterator[ImageBatch]:
        self.errors, self._peak = [], None
        waiting: list[ImageBatch] = []
        first: ImageBatch | None = None
        with contextlib.closing(self._pieces()) as pieces:
            for piece in pieces:
                first = first or piece
                _check_alike(piece, first)
                waiting.append(piece)
                while sum(len(part.names) for part in waiting) >= self.batch_size:
                    batch, waiting = _split(waiting, self.batch_size)
                    yield batch
        if first is None:
            raise ImageError(self._nothing())
        if waiting:
            yield _split(waiting, self.batch_size)[0]
        if self._peak is not None and self.bits is None:
            _warn_if_dark(self._peak)

    def read(self) -> ImageBatch:
        """All images as one batch."""
        parts: list[Tensor] = []
        names: list[str] = []
        sizes: list[tuple[int, int]] = []
        whole: Tensor | None = None
        for batch in self:
            if self.count is None or len(batch.names) == self.count:
                parts.append(batch.images)
            else:  # fill one tensor instead of joining a list: half the memory
                if whole is None:
                    shape = (self.count, *batch.images.shape[1:])
                    whole = batch.images.new_empty(shape)
                whole[len(names) : len(names) + len(batch.names)] = batch.images
            names += batch.names
            sizes += batch.sizes
        if whole is not None:
            parts = [whole[: len(names)]]
        images = parts[0] if len(parts) == 1 else torch.cat(parts)
        return ImageBatch(images, names, sizes)

    # -------------------------------------------------------------------- sources

    def _choose(self, source: Any) -> Callable[[], Pieces]:
        """A function that reads the source, a piece at a time."""
        if isinstance(source, (Tensor, np.ndarray)):
            stack = image_stack(source)
            self.count = len(stack)
            return lambda: self._from_stack(stack, self.channels)
        if isinstance(source, Image.Image):
            source = [source]
        if isinstance(source, (str, os.PathLike)):
            if not os.fspath(source):
                raise ImageError('no images: the path is empty ("")')
            source = [source] if os.path.isfile(source) else list_images(source)
        if isinstance(source, DataLoader):
            return lambda: self._from_loader(source)
        if isinstance(source, IterableDataset):
            return lambda: self._from_items(source)
        if isinstance(source, Dataset):
            return self._choose_dataset(source)
        if not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray)):
            raise TypeError(_unknown(source))
        return self._choose_list(source)

    def _choose_dataset(self, data: Any) -> Callable[[], Pieces]:
        if not hasattr(data, "__len__"):
            raise TypeError(
                f"the Dataset {type(data).__name__} has no length; give it __len__, or "
                "pass a DataLoader"
            )
        self.count = len(data)
        if not self.count:
            raise ImageError("no images: the Dataset is empty")
        return lambda: self._from_items(self._items_of(data))

    def _choose_list(self, items: Sequence[OneImage]) -> Callable[[], Pieces]:
        if not items:
            raise ImageError("no images: the list is empty")
        for index, item in enumerate(items):
            _check_item(item, f"item {index} of the list")
        self.count = len(items)
        channels = self.channels or _common_channels(items)
        if all(isinstance(item, (str, os.PathLike)) for item in items):
            return lambda: self._from_files(items, channels)
        return lambda: self._from_items(items, channels)

    # -------------------------------------------------------------------- reading

    def _from_stack(
        self,
        stack: Array,
        channels: int | None,
        first: int = 0,
        step: int | None = None,
    ) -> Pieces:
        step = step or self.batch_size
        for start in range(0, len(stack), step):
            part = stack[start : start + step]
            at = first + start
            try:
                images, peak = unit_range(part, self.bits, at)
                images = fit_batch(images, self.size, channels, at)
            except ImageError as error:
                if len(part) > 1 and self.on_error == "skip":
                    yield from self._from_stack(part, channels, at, step=1)
                else:
                    self._skip(f"image {at}", error)
                continue
            self._note(peak)
            names = [f"image {at + index}" for index in range(len(part))]
            size = int(part.shape[2]), int(part.shape[3])
            yield ImageBatch(images, names, [size] * len(part))

    def _from_files(self, paths: Sequence[Any], channels: int | None) -> Pieces:
        def read(path: ImagePath) -> tuple[ImageBatch, int | None] | ImageError:
            try:
                return self._read_one(path, str(path), 0, channels)
            except ImageError as error:
                return error

        with contextlib.closing(ordered_map(read, paths)) as results:
            for path, result in zip(paths, results, strict=True):
                if isinstance(result, ImageError):
                    self._skip(str(path), result)
                else:
                    self._note(result[1])
                    yield result[0]

    def _items_of(self, data: Any) -> Iterator[Any]:
        """The items of a Dataset by number; what it cannot read may be skipped."""
        for index in range(len(data)):
            try:
                item = data[index]
            except (OSError, ValueError, SyntaxError) as error:  # those of Pillow
                if self.on_error == "raise":
                    raise
                item = ImageError(f"{type(error).__name__}: {error}")
            yield item

    def _from_items(
        self, items: Any, channels: int | None = None, first: int = 0
    ) -> Pieces:
        """Single images, or tuples that begin with one."""
        channels = channels or self.channels
        for index, item in enumerate(items, start=first):
            if isinstance(item, (tuple, list)) and item:
                item = item[0]
            path = isinstance(item, (str, os.PathLike))
            name = str(item) if path else f"image {index}"
            try:
                if isinstance(item, ImageError):
                    raise item
                piece, peak = self._read_one(item, name, index, channels)
            except ImageError as error:
                self._skip(name, error)
                continue
            self._note(peak)
            if piece.images.shape[1] == 3:
                channels = 3  # gray images that follow become RGB
            yield piece

    def _from_loader(self, loader: Any) -> Pieces:
        if loader.batch_size is None and loader.batch_sampler is None:
            yield from self._from_items(loader)  # not batched: items of the Dataset
            return
        joined = loader.collate_fn is default_collate
        channels, at = self.channels, 0
        for batch in loader:
            begins = isinstance(batch, tuple) or (joined and isinstance(batch, list))
            images = batch[0] if begins and batch else batch
            if isinstance(images, (Tensor, np.ndarray)) and images.ndim == 4:
                pieces = self._from_stack(image_stack(images), channels, at)
                at += len(images)
            elif joined or isinstance(images, dict):
                raise _bad_batch(images)
            else:  # one image, or a list of them
                items = images if isinstance(images, (list, tuple)) else [images]
                pieces = self._from_items(items, channels, at)
                at += len(items)
            for piece in pieces:
                if piece.images.shape[1] == 3:
                    channels = 3
                yield piece

    def _read_one(
        self, item: Any, name: str, index: int, channels: int | None
    ) -> tuple[ImageBatch, int | None]:
        """One image with its peak (see `ebmlib.data.files.Pixels`)."""
        _check_item(item, name)
        if isinstance(item, (Tensor, np.ndarray)):
            stack = single_image(item, name)
            size = int(stack.shape[2]), int(stack.shape[3])
            images, peak = unit_range(stack, self.bits, index)
            images = fit_batch(images, self.size, channels, index)
        else:
            pixels = decode(item, bits=self.bits, name=name)
            size, peak = pixels.size, pixels.peak
            images = to_tensor(pixels, self.size, channels, name)[None]
        return ImageBatch(images, [name], [size]), peak

    def _note(self, peak: int | None) -> None:
        if peak is not None:
            self._peak = max(peak, self._peak or 0)

    def _skip(self, name: str, error: ImageError) -> None:
        if self.on_error == "raise":
            raise error
        self.errors.append((name, str(error).removeprefix(f"{name}: ")))

    def _nothing(self) -> str:
        if not self.errors:
            return "no images: the source has given none"
        name, problem = self.errors[0]
        return (
            f"no images: none of {len(self.errors)} could be read. First: {name}: "
            f"{problem}"
        )


def _check_item(item: Any, name: str) -> None:
    if isinstance(item, (Tensor, np.ndarray)):
        single_image(item, name)
    elif not isinstance(item, (str, os.PathLike, Image.Image)):
        hint = ""
        if isinstance(item, dict):
            hint = "; let the items be images, or tuples that begin with one"
        raise TypeError(
            f"{name}: an image must be a path, a tensor, an array or a Pillow image; "
            f"got {type(item).__name__}{hint}"
        )


def _common_channels(items: Sequence[OneImage]) -> int | None:
    """1 if all are gray, 3 if some are color; None for other numbers of channels."""
    counts = set()
    for item in items:
        if isinstance(item, (Tensor, np.ndarray)):
            counts.add(int(single_image(item, "item").shape[1]))
        elif isinstance(item, Image.Image):
            counts.add(3 if item.mode in COLOR_MODES else 1)
    paths = [item for item in items if isinstance(item, (str, os.PathLike))]
    if paths:
        counts.add(3 if 3 in counts else stored_channels(paths))
    return max(counts) if counts <= {1, 3} else None


def _check_alike(piece: ImageBatch, first: ImageBatch) -> None:
    got, expected = piece.images.shape[1:], first.images.shape[1:]
    if got[0] != expected[0]:
        raise ImageError(
            f"{piece.names[0]}: {got[0]} channels, but {first.names[0]} has "
            f"{expected[0]}; pass channels=1 or 3 to bring all to one number"
        )
    if got != expected:
        raise ImageError(
            f"{piece.names[0]}: {got[1]} x {got[2]}, but {first.names[0]} is "
            f"{expected[1]} x {expected[2]} (height x width); pass size=... to bring "
            "all to one size"
        )


def _split(
    pieces: list[ImageBatch], batch_size: int
) -> tuple[ImageBatch, list[ImageBatch]]:
    """The first `batch_size` images of some pieces, and the rest."""
    images = pieces[0].images
    if len(pieces) > 1:
        images = torch.cat([piece.images for piece in pieces])
    names = [name for piece in pieces for name in piece.names]
    sizes = [size for piece in pieces for size in piece.sizes]
    cut = slice(batch_size), slice(batch_size, None)
    head, tail = (ImageBatch(images[part], names[part], sizes[part]) for part in cut)
    return head, [tail] if tail.names else []


def _bad_batch(images: Any) -> Exception:
    if isinstance(images, (Tensor, np.ndarray)):
        return ValueError(
            "a batch of a DataLoader must be images (B, C, H, W), alone or before the "
            f"labels; got {tuple(images.shape)}. Let the Dataset give images "
            "(C, H, W), gray ones with C = 1"
        )
    return TypeError(
        "a batch of a DataLoader must be a tensor (B, C, H, W), or a tuple or list "
        f"that begins with one; got {type(images).__name__}"
    )


def _unknown(source: Any) -> str:
    hint = ""
    if hasattr(source, "__iter__") and not isinstance(source, (bytes, bytearray, dict)):
        hint = ". Pass a list instead: list(images), or sorted(images) for paths"
    return (
        "images must be a folder, a file, a tensor (N, C, H, W), an array "
        "(N, H, W, C), a Pillow image, a list of images, a Dataset or a DataLoader; "
        f"got {type(source).__name__}{hint}"
    )


def _warn_if_dark(peak: int) -> None:
    """Say so if 16-bit images use a quarter of their range at most."""
    likely = next((bits for bits in (8, 10, 12, 14) if peak < 2**bits), None)
    if likely is not None and peak > 0:
        warnings.warn(
            f"the 16-bit images hold no value above {peak} of 65535 "
            f"({peak / 65535:.1%}), as {likely}-bit data in 16-bit files would. Pass "
            f"bits={likely} to make {2**likely - 1} white, or bits=16 if the images "
            "are meant to be as dark as that",
            stacklevel=3,
        )


# ------------------------------------------------------------------------ functions


def batches(
    source: Images,
    *,
    size: Size | None = None,
    channels: int | None = None,
    bits: int | None = None,
    batch_size: int = 32,
) -> Iterator[Tensor]:
    """The images of a source as float32 (B, C, H, W) in [0, 1], a batch at a time.

    Arguments and errors are those of `ImageStream`.
    """
    stream = ImageStream(
        source, size=size, channels=channels, bits=bits, batch_size=batch_size
    )
    return (batch.images for batch in stream)


def images_to_tensor(
    source: Images,
    *,
    size: Size | None = None,
    channels: int | None = None,
    bits: int | None = None,
) -> Tensor:
    """All images of a source, float32 (N, C, H, W); arguments as `ImageStream`."""
    stream = ImageStream(source, size=size, channels=channels, bits=bits)
    return stream.read().images


def check_contrast(images: Tensor) -> None:
    """ValueError if none of the training images (N, C, H, W) holds any contrast.

    An image holds contrast when a channel spans more than 1/512, half a gray level of
    8 bits. A sheet whose noise has a standard deviation of 0.01 passes.
    """
    low, high = images.amin((2, 3)), images.amax((2, 3))  # (N, C)
    if bool(((high - low) > LEAST_CONTRAST).any()):
        return
    darkest, brightest = f"{float(low.min()):.3g}", f"{float(high.max()):.3g}"
    levels = f"all {darkest}"
    if darkest != brightest:
        levels = f"each is one even tone, {darkest} to {brightest}"
    raise ValueError(
        f"the training images hold no contrast ({levels}): nothing can be learned from "
        "them. Check the folder, the lens cap and the exposure"
    )
