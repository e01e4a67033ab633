"""Read image files into tensors: the right pixels or a clear error (chapter 1).

Every image of the library enters through this file. A picture leaves it as float32 in
[0, 1], channels first; a mask leaves it as bool. Whatever cannot be read *faithfully*
is refused by an `ImageError` that names the file, the problem and a way out.

What is done to a picture, in this order:

1. decode (PNG, JPEG, BMP, TIFF, WebP, GIF, PNM), checksums included;
2. turn it upright as its EXIF tag says;
3. scale to [0, 1] by the range of the *format*: 255 for 8 bits, 65535 for 16 bits;
4. lay transparent pixels over white, as a page would show them;
5. resize by area: each new pixel is the mean over the area it covers;
6. gray to RGB by copying, RGB to gray by the luma of ITU-R BT.601.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ebmlib.data.resizing import (
    Size,
    check_size,
    describe_vanished,
    resize_area,
    resize_mask,
)

Images = Tensor | np.ndarray | str | Path | Sequence[str | Path]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
    *(".webp", ".gif", ".ppm", ".pgm", ".pnm"),
)
# Named one by one: Pillow's other readers may start outside programs (EPS).
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
GRAY_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N")
COLOR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
MAX_STRETCH = 4.0  # a square size may change the aspect ratio by this factor at most


class ImageError(ValueError):
    """A file, or an array, that cannot be turned into the right pixels."""


# ------------------------------------------------------------------------ files


def list_images(folder: str | Path) -> list[Path]:
    """Image files of one folder (not its subfolders), sorted by name.

    Hidden files are skipped, and so is everything without an image's suffix.

    Raises:
        ImageError: No such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder; pass a folder of images")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise ImageError(
            f"{folder}: no images here (looked for {', '.join(SUFFIXES)}); "
            "pass the folder that directly holds the image files"
        )
    return files


def read_image(
    path: str | Path, *, size: Size | None = None, channels: int = 3
) -> Tensor:
    """One image file as float32 (C, H, W) in [0, 1].

    Args:
        path: The file.
        size: Side of a square in pixels, or (height, width); None keeps the file's.
        channels: 1 (gray) or 3 (RGB).

    Raises:
        ImageError: The file is missing, empty, damaged, no image, too large, animated,
            or in a color space without a unique RGB (see `FORMATS`, `COLOR_MODES`).
    """
    pixels = _decode(path)  # (H, W, C)
    if size is not None:
        target = _check_stretch(pixels, size, path)
        pixels = resize_area(pixels, target)
    pixels = _set_channels(pixels, channels)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def read_mask(path: str | Path, size: Size | None = None) -> Tensor:
    """One mask file as bool (H, W), True = defective.

    A mask holds two levels: 0 is normal, the other one defective. A new pixel is
    defective when at least half of its area was; a defect region that vanishes by this
    rule is named in a warning.

    Raises:
        ImageError: As `read_image`; or the file holds more than two levels.
    """
    with _open(path) as image:
        if image.has_transparency_data:
            raise ImageError(
                f"{path}: a mask with transparent pixels has no clear meaning; "
                "save it as black and white, without alpha"
            )
    pixels = _decode(path)
    if not (pixels == pixels[..., :1]).all():
        raise ImageError(f"{path}: a mask is black and white; this image has colors")
    plane = pixels[..., 0]
    high = plane.max()
    if not ((plane == 0) | (plane == high)).all():
        raise ImageError(
            f"{path}: a mask has two levels, 0 for normal and 255 for defective; this "
            f"one has {len(np.unique(plane))}. Save it without smoothing, as PNG"
        )
    mask = plane > 0
    if size is None:
        return torch.from_numpy(mask)
    small, vanished = resize_mask(mask, _check_stretch(pixels, size, path))
    if vanished:
        warnings.warn(f"{path}: {describe_vanished(vanished)}", stacklevel=2)
    return torch.from_numpy(small)


def stored_channels(paths: Sequence[str | Path]) -> int:
    """1 if every file is gray, else 3; reads the headers only."""
    for path in paths:
        with _open(path) as image:
            if image.mode in COLOR_MODES:
                return 3
    return 1


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an upright image file, from its header."""
    with _open(path) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: 90 or 270 deg
    return (width, height) if turned else (height, width)


def _open(path: str | Path) -> Image.Image:
    """An image file with its header read; every failure is an ImageError."""
    path = Path(path)
    start = _first_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            f"{path}: not an image, or damaged at its start: it begins with {start!r}. "
            f"Readable formats: {', '.join(FORMATS)}"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, too large to read "
            "safely; crop or shrink it first (or raise PIL.Image.MAX_IMAGE_PIXELS)"
        ) from None
    except Exception as error:  # Pillow's readers raise many types on damaged files
        raise _damaged(path, error) from None
    try:
        _check_kind(image, path)
    except Exception:
        image.close()
        raise
    return image


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    if not start:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again")
    return start


def _check_kind(image: Image.Image, path: Path) -> None:
    # MPO is a camera's JPEG that carries previews; its first frame is the photo.
    try:
        frames = getattr(image, "n_frames", 1)  # counts by seeking through the file
    except Exception as error:
        raise _damaged(path, error) from None
    if frames > 1 and image.format != "MPO":
        raise ImageError(
            f"{path}: {frames} frames (animated or several pages); "
            "save the frame you mean as a file of its own"
        )
    if image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits all the same
    ):
        _check_sixteen_bits(image, path)
    elif image.mode not in GRAY_MODES + COLOR_MODES:
        raise ImageError(
            f"{path}: color mode {image.mode} has no unique values in [0, 1] "
            "(CMYK and LAB depend on a color profile, 32-bit images on their range); "
            "convert it to 8-bit RGB or to 8- or 16-bit gray"
        )


def _check_sixteen_bits(image: Image.Image, path: Path) -> None:
    """Refuse what Pillow would hand out as 16-bit gray with another meaning."""
    tags = getattr(image, "tag_v2", {})  # of TIFF; 258: bits a sample, 262: 0 is black
    full = tags.get(258, (16,)) == (16,) and tags.get(262, 1) == 1
    if not full or image.has_transparency_data:
        raise ImageError(
            f"{path}: gray of 12 bits, or of 16 bits inverted or transparent; "
            "save it as plain 16-bit gray PNG"
        )


def _damaged(path: str | Path, error: Exception) -> ImageError:
    return ImageError(
        f"{path}: damaged or truncated ({error or type(error).__name__}); copy it again"
    )


def _verify(path: str | Path) -> None:
    """Compare the checksums of formats that have them (Pillow skips them otherwise)."""
    with _open(path) as image:
        try:
            image.verify()
        except Exception as error:
            raise _damaged(path, error) from None


def _decode(path: str | Path) -> np.ndarray:
    """Upright pixels of a file, float32 (H, W, 1 or 3) in [0, 1]."""
    _verify(path)
    with _open(path) as image:
        try:
            image.load()
            image = ImageOps.exif_transpose(image)
        except Exception as error:
            raise _damaged(path, error) from None
        if image.mode == "I" or image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.float32)[..., None] / 65535
        transparent = image.has_transparency_data
        if image.mode == "1" or (image.mode == "L" and not transparent):
            image = image.convert("L")
        elif image.mode == "LA":
            transparent = True
        else:
            image = image.convert("RGBA" if transparent else "RGB")
        pixels = np.asarray(image).astype(np.float32) / 255
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]  # (H, W, C)
    return _over_white(pixels) if transparent else pixels


def _over_white(pixels: np.ndarray) -> np.ndarray:
    """Lay (H, W, C + alpha) over a white page."""
    alpha = pixels[..., -1:]
    return pixels[..., :-1] * alpha + (1 - alpha)


def _check_stretch(pixels: np.ndarray, size: Size, path: str | Path) -> tuple[int, int]:
    """A single side makes a square; refuse it where that would distort too much."""
    target = check_size(size)
    height, width = pixels.shape[:2]
    stretch = max(height, width) / min(height, width)
    if isinstance(size, (int, np.integer)) and stretch > MAX_STRETCH:
        raise ImageError(
            f"{path}: {height} x {width} (height x width) squeezed into "
            f"{target[0]} x {target[1]} changes its shape {stretch:.0f}-fold; "
            "crop it first, or pass size=(height, width) if that is what you want"
        )
    return target


def _set_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, C) to the asked channel count: gray to RGB or RGB to gray."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB); got {channels!r}")
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    return (pixels @ LUMA)[..., None]


# ------------------------------------------------------------------------ streams


def batches(
    source: Images,
    *,
    size: Size | None = None,
    channels: int | None = None,
    batch_size: int = 32,
) -> Iterator[Tensor]:
    """Images from anywhere, a batch at a time; memory does not grow with their number.

    Args:
        source: One of
            a folder (its image files, sorted by name), one file, or a list of files;
            a tensor (N, C, H, W), float in [0, 1] or uint8;
            a NumPy array (N, H, W, C) or (N, H, W), uint8 or float in [0, 1].
        size: Side in pixels or (height, width), reached by area; None keeps the sizes,
            which must then be equal.
        channels: 1 or 3; None keeps those of an array, and for files takes 1 if every
            file is gray, else 3.
        batch_size: Images in a batch; the last one may hold fewer.

    Returns:
        Batches float32 (B, C, H, W) in [0, 1], in the order of the source.

    Raises:
        TypeError, ValueError: At once, for a wrong type or shape.
        ImageError: When its batch is due: a file that cannot be read, sizes that
            differ, values outside [0, 1] or not finite.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer; got {batch_size!r}")
    if channels not in (None, 1, 3):
        raise ValueError(
            f"channels must be 1 (gray), 3 (RGB) or None; got {channels!r}"
        )
    if size is not None:
        check_size(size)
    if isinstance(source, (Tensor, np.ndarray)):
        _check_array(source)
        return _array_batches(source, size, channels, batch_size)
    files = _files(source)
    return _file_batches(files, size, channels or stored_channels(files), batch_size)


def images_to_tensor(
    source: Images, *, size: Size | None = None, channels: int | None = None
) -> Tensor:
    """All images of a source at once, float32 (N, C, H, W); arguments as `batches`."""
    return torch.cat(list(batches(source, size=size, channels=channels)))


def count_images(source: Images) -> int:
    """How many images `batches` will yield from a source."""
    if isinstance(source, (Tensor, np.ndarray)):
        _check_array(source)
        return len(source)
    return len(_files(source))


def _files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(source, (str, Path)):
        path = Path(source)
        return [path] if path.is_file() else list_images(path)
    if not isinstance(source, Sequence) or not all(
        isinstance(item, (str, Path)) for item in source
    ):
        raise TypeError(
            "images must be a folder, a list of files, a tensor (N, C, H, W) or an "
            f"array (N, H, W, C); got {type(source).__name__}. For a list of tensors "
            "or arrays of one size, use torch.stack or numpy.stack"
        )
    if not source:
        raise ImageError("no images: the list of files is empty")
    return [Path(item) for item in source]


def _file_batches(
    files: list[Path], size: Size | None, channels: int, batch_size: int
) -> Iterator[Tensor]:
    expected = None
    for start in range(0, len(files), batch_size):
        batch = []
        for path in files[start : start + batch_size]:
            image = read_image(path, size=size, channels=channels)
            expected = expected or image.shape
            if image.shape != expected:
                raise ImageError(
                    f"{path}: {image.shape[1]} x {image.shape[2]}, but {files[0].name} "
                    f"is {expected[1]} x {expected[2]} (height x width); "
                    "pass size=... to bring all to one size"
                )
            batch.append(image)
        yield torch.stack(batch)


def _check_array(images: Tensor | np.ndarray) -> None:
    """Type and shape only: reading the values would load a memory-mapped array."""
    shape, dtype = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    if "float" not in dtype and dtype != "uint8":
        raise TypeError(
            f"images must be uint8 (0 to 255) or float (0 to 1); got {dtype}. "
            "Convert with .astype / .to after scaling"
        )
    if isinstance(images, Tensor):
        layout = "(N, C, H, W)"
        last = len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3)
        good = len(shape) == 4 and not last
        hint = (
            "use images.permute(0, 3, 1, 2)" if last else "add axes with images[None]"
        )
    else:
        layout = "(N, H, W) or (N, H, W, C) with C = 1 or 3"
        good = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
        hint = "for channels first, pass torch.from_numpy(images)"
        if len(shape) == 4 and shape[3] == 4 and shape[1] not in (1, 3):
            hint = "drop the alpha channel with images[..., :3]"
    if not good:
        kind = "a tensor" if isinstance(images, Tensor) else "an array"
        raise ValueError(f"{kind} of images must be {layout}; got {shape}: {hint}")
    if 0 in shape:
        raise ImageError(f"no images: the shape is {shape}")


def _array_batches(
    images: Tensor | np.ndarray,
    size: Size | None,
    channels: int | None,
    batch_size: int,
) -> Iterator[Tensor]:
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        if isinstance(batch, Tensor):
            batch = batch.detach().cpu()
        else:
            kept = np.uint8 if batch.dtype == np.uint8 else np.float32
            batch = torch.from_numpy(np.array(batch, dtype=kept))  # a writable copy
            batch = batch[..., None] if batch.ndim == 3 else batch
            batch = batch.permute(0, 3, 1, 2)  # (B, C, H, W)
        batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
        _check_values(batch, start)
        yield _fit(batch.clamp(0, 1), size, channels)


def _check_values(batch: Tensor, start: int) -> None:
    """Finite and in [0, 1], up to rounding."""
    finite = batch.isfinite().flatten(1).all(1)
    if not finite.all():
        index = start + int((~finite).nonzero()[0])
        raise ImageError(f"image {index} holds values that are NaN or infinite")
    low, high = float(batch.min()), float(batch.max())
    if low < -1e-5 or high > 1 + 1e-5:
        if low >= 0 and high <= 255:
            fix = "values up to 255: divide by 255, or pass uint8"
        else:
            fix = "pass images as they are, neither standardized nor centered"
        raise ImageError(
            f"float images must lie in [0, 1]; images {start} to "
            f"{start + len(batch) - 1} range from {low:.3g} to {high:.3g}: {fix}"
        )


def _fit(batch: Tensor, size: Size | None, channels: int | None) -> Tensor:
    """Bring a batch (B, C, H, W) to a size and a channel count."""
    same_size = size is None or tuple(batch.shape[2:]) == check_size(size)
    if same_size and channels in (None, batch.shape[1]):
        return batch.contiguous()
    if channels is not None and batch.shape[1] not in (1, 3):
        raise ValueError(
            f"images have {batch.shape[1]} channels, not {channels}; only gray (1) and "
            "RGB (3) convert into each other"
        )
    fitted = []
    for pixels in batch.permute(0, 2, 3, 1).numpy():  # (H, W, C)
        if not same_size:
            pixels = resize_area(pixels, _check_stretch(pixels, size, "images"))
        pixels = pixels if channels is None else _set_channels(pixels, channels)
        fitted.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return torch.stack(fitted)


def check_contrast(images: Tensor) -> None:
    """ValueError if none of the training images (N, C, H, W) holds any contrast."""
    low, high = images.amin((2, 3)), images.amax((2, 3))
    if not bool(((high - low) > 1 / 512).any()):
        raise ValueError("the training images hold no contrast")
