"""Read one image file into a tensor: the right pixels or a clear error (chapter 1).

A picture becomes float32 in [0, 1], channels first; a mask becomes bool. Whatever
cannot be read *faithfully* is refused by an `ImageError` that names the file, the
problem and a way out. Images that Pillow holds in memory are read by the same rules.

What is done to a picture, in this order:

1. decode (PNG, JPEG, BMP, TIFF, WebP, GIF, PNM), checksums included;
2. turn it upright as its EXIF tag says;
3. scale to [0, 1] by the range of the *format*: 255 for 8 bits, 65535 for 16 bits, or
   by 2^bits - 1 where `bits` says how many bits of 16 the camera uses. Of 16-bit color
   files only the upper 8 bits are read;
4. lay transparent pixels over white, as a page would show them;
5. resize by area: each new pixel is the mean over the area it covers;
6. gray to RGB by copying, RGB to gray by the luma of ITU-R BT.601.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from ebmlib.data.resizing import (
    Size,
    check_size,
    describe_vanished,
    is_whole,
    resize_mask,
    resize_planes,
)

ImagePath = str | os.PathLike[str]

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
ORIENTATION = 0x0112  # the EXIF tag, 1 (upright) to 8
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A file, or an array, that cannot be turned into the right pixels."""


@dataclass(frozen=True)
class Pixels:
    """The upright pixels of one image with the values that are stored.

    Attributes:
        stored: integers (H, W, C); a last channel beyond 1 or 3 is alpha.
        white: the stored value that means 1.
        peak: the largest value of 16-bit data, whose white may lie lower than 65535;
            None for 8 bits and where the file itself says what white is.
    """

    stored: np.ndarray
    white: int
    peak: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def transparent(self) -> bool:
        """Whether the last channel is alpha."""
        return self.stored.shape[2] in (2, 4)

    def planes(self) -> Iterator[np.ndarray]:
        """Gray, or red, green and blue: float32 (H, W) in [0, 1], over white."""
        alpha = self._scaled(-1) if self.transparent else None
        for channel in range(self.stored.shape[2] - self.transparent):
            plane = self._scaled(channel)
            yield plane if alpha is None else plane * alpha + (1 - alpha)

    def _scaled(self, channel: int) -> np.ndarray:
        plane = self.stored[..., channel].astype(np.float32, order="C")
        plane /= self.white
        return plane


# ------------------------------------------------------------------------ reading


def list_images(folder: ImagePath) -> list[Path]:
    """Image files of one folder (not its subfolders), sorted by name.

    Hidden files are skipped, and so is everything without an image's suffix.

    Raises:
        ImageError: No such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.exists():
        raise ImageError(f"{folder}: no such file or folder{_path_hint(folder)}")
    if not folder.is_dir():
        raise ImageError(f"{folder}: a file; pass the folder that holds the images")
    files = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        ),
        key=lambda path: path.name,
    )
    if not files:
        raise ImageError(
            f"{folder}: no images here (looked for {', '.join(SUFFIXES)}); "
            "pass the folder that directly holds the image files"
        )
    return files


def read_image(
    path: ImagePath,
    *,
    size: Size | None = None,
    channels: int = 3,
    bits: int | None = None,
) -> Tensor:
    """One image file as float32 (C, H, W) in [0, 1].

    Args:
        path: The file.
        size: Side of a square in pixels, or (height, width); None keeps the file's.
        channels: 1 (gray) or 3 (RGB).
        bits: How many bits of a 16-bit file hold the image, 8 to 16; white is
            2^bits - 1. None means 16. Files of 8 bits are read as always.

    Raises:
        ImageError: The file is missing, empty, damaged, no image, too large, animated,
            in a color space without a unique RGB (see `FORMATS`, `COLOR_MODES`), or
            brighter than the white of `bits`.
    """
    check_bits(bits)
    check_channels(channels)
    return to_tensor(decode(path, bits=bits), size, channels, path)


def read_mask(path: ImagePath, size: Size | None = None) -> Tensor:
    """One mask file as bool (H, W), True = defective.

    A mask holds two levels: 0 is normal, the other one defective. A new pixel is
    defective when at least half of its area was; a defect region that vanishes by this
    rule is named in a warning.

    Raises:
        ImageError: As `read_image`; or the file holds more than two levels.
    """
    pixels = decode(path)
    if pixels.transparent:
        raise ImageError(
            f"{path}: a mask with transparent pixels has no clear meaning; "
            "save it as black and white, without alpha"
        )
    if not (pixels.stored == pixels.stored[..., :1]).all():
        raise ImageError(f"{path}: a mask is black and white; this image has colors")
    plane = pixels.stored[..., 0]
    high = plane.max()
    if not ((plane == 0) | (plane == high)).all():
        raise ImageError(
            f"{path}: a mask has two levels, 0 for normal and 255 for defective; this "
            f"one has {len(np.unique(plane))}. Save it without smoothing, as PNG"
        )
    mask = plane > 0
    if size is None:
        return torch.from_numpy(mask)
    small, vanished = resize_mask(mask, check_stretch(pixels.size, size, path))
    if vanished:
        warnings.warn(f"{path}: {describe_vanished(vanished)}", stacklevel=2)
    return torch.from_numpy(small)


def stored_channels(paths: Sequence[ImagePath]) -> int:
    """1 if every file is gray, else 3; reads the headers only.

    A file that cannot be opened counts as gray here; reading it raises the error.
    """
    for path in paths:
        try:
            with _opened(path) as image:
                if image.mode in COLOR_MODES:
                    return 3
        except ImageError:
            continue
    return 1


def image_size(path: ImagePath) -> tuple[int, int]:
    """(height, width) of an upright image file, the shape that `read_image` gives."""
    with _opened(path) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Some versions of Pillow give the upright size of a TIFF here, others the
            # stored one; these two tags always hold the stored one.
            width, height = image.tag_v2[256], image.tag_v2[257]
        turned = _orientation(image, path) >= 5  # by 90 or 270 degrees, or mirrored so
    return (width, height) if turned else (height, width)


# ------------------------------------------------------------------------ decoding


def decode(
    source: ImagePath | Image.Image, *, bits: int | None = None, name: str = "image"
) -> Pixels:
    """The upright pixels of a file, or of an image that Pillow holds.

    Args:
        source: A path, or an image of Pillow's; `name` stands for the latter in errors.
        bits: See `read_image`.
        name: Used when `source` is no path.

    Raises:
        ImageError: As `read_image`.
    """
    if isinstance(source, Image.Image):
        file = _unread_tiff(source)
        if file is None:
            _check_kind(source, name)
            return _pixels(source, bits, name)
        source = file
    with _opened(source) as image:
        if image.format != "PNG":
            return _pixels(image, bits, source)
        try:
            image.verify()  # the checksums, which Pillow skips otherwise; ends reading
        except Exception as error:
            raise _damaged(source, error) from None
    with _opened(source) as image:
        return _pixels(image, bits, source)


def _unread_tiff(image: Image.Image) -> Path | None:
    """The file of a TIFF that is not loaded yet; `_opened` says why Pillow may not."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tile:
        return Path(os.fsdecode(image.filename)) if image.filename else None
    return None


@contextlib.contextmanager
def _opened(path: ImagePath) -> Iterator[Image.Image]:
    """An image file with its header read; every failure is an ImageError."""
    path = Path(path)
    try:
        if path.is_dir():
            raise ImageError(f"{path}: cannot be read (a folder, not an image file)")
        file = path.open("rb")
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file{_path_hint(path)}") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    # Pillow gets the open file, not its name: of a file with a name it maps the pixels
    # of an uncompressed gray TIFF into memory, with height and width exchanged where
    # the orientation says that they are (seen in 13.0).
    with file, _identified(file, path) as image:
        yield image


def _identified(file: IO[bytes], path: Path) -> Image.Image:
    try:
        start = file.read(12)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    if not start:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again")
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            f"{path}: not an image, or damaged at its start: it begins with {start!r}. "
            f"Readable formats: {', '.join(FORMATS)}"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(path) from None
    except Exception as error:  # Pillow's readers raise many types on damaged files
        raise _damaged(path, error) from None
    limit = Image.MAX_IMAGE_PIXELS  # up to twice as many, Pillow itself only warns
    if limit is not None and image.width * image.height > limit:
        raise _too_large(path)
    _check_kind(image, path)
    return image


def _path_hint(path: Path) -> str:
    text = str(path)
    if text.startswith("~"):
        return "; write Path(...).expanduser() to reach the home folder"
    if any(sign in text for sign in "*?["):
        return "; a pattern is not expanded, pass a list such as sorted(folder.glob())"
    return ""


def _check_kind(image: Image.Image, name: object) -> None:
    # MPO is a camera's JPEG that carries previews; its first frame is the photo.
    try:
        frames = getattr(image, "n_frames", 1)  # counts by seeking through the file
    except Exception as error:
        raise _damaged(name, error) from None
    if frames > 1 and image.format != "MPO":
        raise ImageError(
            f"{name}: {frames} frames (animated or several pages); "
            "save the frame you mean as a file of its own"
        )
    if _is_deep_gray(image):
        _check_sixteen_bits(image, name)
    elif image.mode not in GRAY_MODES + COLOR_MODES:
        raise ImageError(
            f"{name}: color mode {image.mode} has no unique values in [0, 1] "
            "(CMYK and LAB depend on a color profile, 32-bit images on their range); "
            "convert it to 8-bit RGB or to 8- or 16-bit gray"
        )
    if 0 in image.size:
        raise ImageError(f"{name}: {image.height} x {image.width} pixels, so no image")


def _is_deep_gray(image: Image.Image) -> bool:
    """Gray of 16 bits; older versions of Pillow call that of PNG and PNM "I"."""
    return image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )


def _check_sixteen_bits(image: Image.Image, name: object) -> None:
    """Refuse what Pillow would hand out as 16-bit gray with another meaning."""
    tags = getattr(image, "tag_v2", {})  # of TIFF; 258: bits a sample, 262: 0 is black
    full = tags.get(258, (16,)) == (16,) and tags.get(262, 1) == 1
    if not full or image.has_transparency_data:
        raise ImageError(
            f"{name}: gray of 12 bits, or of 16 bits inverted or transparent; "
            "save it as plain 16-bit gray PNG (and pass bits=12 for 12-bit values)"
        )


def _damaged(name: object, error: Exception) -> ImageError:
    reason = str(error) or type(error).__name__
    return ImageError(f"{name}: damaged or truncated ({reason}); copy it again")


def _too_large(path: Path) -> ImageError:
    return ImageError(
        f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, too large to read "
        "safely; crop or shrink it first (or raise PIL.Image.MAX_IMAGE_PIXELS)"
    )


def _orientation(image: Image.Image, name: object) -> int:
    """The EXIF orientation, 1 to 8; 1 where the tag is missing or holds no such value.

    Pillow itself turns a TIFF when it loads it, and takes the tag away.
    """
    try:
        tag = image.getexif().get(ORIENTATION, 1)
    except Exception as error:
        raise _damaged(name, error) from None
    return next((value for value in _TURNS if value == tag), 1)


def _pixels(image: Image.Image, bits: int | None, name: object) -> Pixels:
    declared = _declared_white(image)
    deep_color = declared is None and _is_deep_color(image)
    rounded = image.format == "PPM"  # other 16-bit colors lose their lower bits
    try:
        image.load()
    except Exception as error:
        raise _damaged(name, error) from None
    orientation = _orientation(image, name)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if image.mode == "I" or image.mode.startswith("I;16"):
        stored = np.asarray(image)[..., None]
        if declared is not None:  # Pillow has scaled the values to 16 bits
            return Pixels(stored, 65535)
        peak = int(stored.max())
        return Pixels(stored, check_white(peak, bits, name), peak)
    image = _eight_bits(image)
    stored = np.asarray(image)
    stored = stored if stored.ndim == 3 else stored[..., None]
    if not deep_color:
        return Pixels(stored, 255)
    if bits not in (None, 16):
        raise ImageError(
            f"{name}: of 16-bit color only the upper 8 bits can be read, which leaves "
            f"too little of {bits}-bit values; save it as 8-bit color, or as 16-bit "
            "gray"
        )
    high = int(stored[..., :3].max())
    return Pixels(stored, 255, max(high * 257 - 128, 0) if rounded else high << 8 | 255)


def _declared_white(image: Image.Image) -> int | None:
    """What a PNM file calls white, if that is neither 255 nor 65535."""
    given = _decoder_arguments(image)
    if image.format == "PPM" and given and isinstance(given[0], tuple):
        white = given[0][-1]
        return white if white not in (255, 65535) else None
    return None


def _is_deep_color(image: Image.Image) -> bool:
    """Whether a color file holds 16 bits a channel, of which Pillow hands out 8."""
    if image.mode not in COLOR_MODES:
        return False
    return any(
        ";16" in str(given) or (image.format == "PPM" and "65535" in str(given))
        for given in _decoder_arguments(image)
    )


def _decoder_arguments(image: Image.Image) -> list[Any]:
    """What the header says of the stored values, before the image is loaded."""
    return [tile[3] for tile in getattr(image, "tile", ())]


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray or RGB, with alpha if any pixel is transparent."""
    if image.mode == "LA" or (image.mode == "L" and not image.has_transparency_data):
        return image
    if image.mode == "1":
        return image.convert("L")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


# ------------------------------------------------------------------------ arguments


def check_bits(bits: int | None) -> None:
    """ValueError unless `bits` is None or a whole number from 8 to 16."""
    if bits is None:
        return
    if not is_whole(bits) or not 8 <= bits <= 16:
        raise ValueError(
            "bits must be a whole number from 8 to 16 (12 for a 12-bit camera) or "
            f"None; got {bits!r}"
        )


def check_white(peak: int, bits: int | None, name: object) -> int:
    """The value of white, 2^bits - 1; ImageError if the image goes beyond."""
    white = 65535 if bits is None else 2**bits - 1
    if peak > white:
        raise ImageError(
            f"{name}: holds the value {peak}, above the white of {bits} bits "
            f"({white}); pass a larger bits, or none for the full 16"
        )
    return white


def check_channels(channels: int) -> None:
    """ValueError unless 1 or 3."""
    if isinstance(channels, bool) or channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB); got {channels!r}")


def check_stretch(shape: tuple[int, int], size: Size, name: object) -> tuple[int, int]:
    """(height, width) to resize to; a single side may not distort the image too much.

    Raises:
        ImageError: The aspect ratio would change by more than `MAX_STRETCH`.
    """
    target = check_size(size)
    stretch = max(shape) / min(shape)
    if isinstance(size, (int, np.integer)) and stretch > MAX_STRETCH:
        raise ImageError(
            f"{name}: {shape[0]} x {shape[1]} (height x width) squeezed into "
            f"{target[0]} x {target[1]} changes its shape {stretch:.0f}-fold; "
            "crop it first, or pass size=(height, width) if that is what you want"
        )
    return target


def set_channels(planes: np.ndarray, channels: int) -> np.ndarray:
    """(1 or 3, H, W) with the asked channel count: gray to RGB or RGB to gray."""
    if planes.shape[0] == channels:
        return planes
    if channels == 3:
        return np.repeat(planes, 3, axis=0)
    return (np.ascontiguousarray(planes.transpose(1, 2, 0)) @ LUMA)[None]


def to_tensor(
    pixels: Pixels, size: Size | None, channels: int | None, name: object
) -> Tensor:
    """Pixels as float32 (C, H, W) in [0, 1]; None keeps size or channels."""
    target = pixels.size if size is None else check_stretch(pixels.size, size, name)
    planes = resize_planes(pixels.planes(), target)
    return torch.from_numpy(
        planes if channels is None else set_channels(planes, channels)
    )
