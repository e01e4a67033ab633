"""What in a folder of good photographs will hurt a detector, before it is fitted.

Every file is decoded once, and only a small gray picture of 64 px and a few numbers are
kept of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ebmlib.data.files import (
    SUFFIXES,
    ImageError,
    ImagePath,
    check_stretch,
    decode,
)
from ebmlib.data.resizing import Size, resize_planes
from ebmlib.data.threads import ordered_map
from ebmlib.progress import Progress, Show

SMALL = 64  # px of the pictures in which near-duplicates are looked for
FINE = 9  # px; what is smooth over this is no detail
ALIKE = 0.98  # correlation of details from which two photographs are near-duplicates
FLAT = 0.01  # standard deviation of gray in [0, 1] below which nothing is seen
CLIPPED = 0.2  # share of pure white or black pixels that is worth a word
FEW = 30  # photographs


class Look(NamedTuple):
    """What is kept of one photograph.

    Attributes:
        path: as it was given.
        size: (height, width).
        digest: equal for equal pixels.
        white: share of pixels that are pure white.
        black: share of pixels that are pure black.
        spread: standard deviation of gray in [0, 1].
        peak: the largest value of 16-bit data, see `ebmlib.data.files.Pixels`.
        small: gray, `(SMALL, SMALL)`.
    """

    path: str
    size: tuple[int, int]
    digest: bytes
    white: float
    black: float
    spread: float
    peak: int | None
    small: NDArray[np.float32]


@dataclass(frozen=True)
class Survey:
    """What was found in some photographs of good parts.

    Attributes:
        looks: one for each photograph that could be read.
        errors: `(path, problem)` of each that could not.
        duplicates: pairs of paths with equal pixels.
        near_duplicates: pairs of other paths whose details are alike.
    """

    looks: list[Look]
    errors: list[tuple[str, str]]
    duplicates: list[tuple[str, str]]
    near_duplicates: list[tuple[str, str]]

    @property
    def paths(self) -> list[str]:
        """The photographs that could be read."""
        return [look.path for look in self.looks]

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many photographs have each (height, width)."""
        return Counter(look.size for look in self.looks)

    @property
    def bits(self) -> int | None:
        """How many bits 16-bit files seem to use, if at most 14; else None."""
        peak = max((look.peak or 0 for look in self.looks), default=0)
        return next((b for b in (8, 10, 12, 14) if 0 < peak < 2**b), None)

    def warnings(self, bits: int | None = None) -> list[str]:
        """A sentence for each thing that will hurt.

        Args:
            bits: what the reader has said of 16-bit files.
        """
        found = []
        count = len(self.looks)
        if count < FEW:
            found.append(
                f"{count} photographs are few: the threshold will be uncertain, and "
                "rare good variants will be flagged. Take 100 or more"
            )
        if self.duplicates:
            found.append(
                f"{_pairs(self.duplicates)} the same pixels. A copy that is trained on "
                "and held out makes the threshold too low: delete copies"
            )
        if self.near_duplicates:
            found.append(
                f"{_pairs(self.near_duplicates)} almost the same pixels. Shots of one "
                "part do not tell how parts differ: keep one of each"
            )
        if len(self.sizes) > 1:
            listed = ", ".join(
                f"{n} of {w} x {h}" for (h, w), n in self.sizes.most_common(3)
            )
            found.append(
                f"the photographs have {len(self.sizes)} sizes ({listed} px, width x "
                "height). All are resized to one, which changes the scale of the part: "
                "take all with one camera setting"
            )
        for name in ("white", "black"):
            found += self._clipped(name)
        flat = [look.path for look in self.looks if look.spread < FLAT]
        if flat:
            found.append(
                f"{_some(flat)} nearly one even tone: lens cap, dead camera or empty "
                "place? Remove what shows no part"
            )
        if bits is None and self.bits is not None:
            peak = max(look.peak or 0 for look in self.looks)
            found.append(
                f"the 16-bit files hold no value above {peak} of 65535, as a camera of "
                f"{self.bits} bits writes them. They are read as almost black: give "
                f"--bits {self.bits}"
            )
        return found

    def _clipped(self, name: str) -> list[str]:
        shares = np.array([getattr(look, name) for look in self.looks])
        usual = float(np.median(shares)) if len(shares) else 0.0
        odd = [
            look.path
            for look, share in zip(self.looks, shares, strict=True)
            if share > usual + CLIPPED
        ]
        cause = "overexposed" if name == "white" else "underexposed"
        found = []
        if usual > CLIPPED:
            found.append(
                f"{usual:.0%} of the pixels of the median photograph are pure {name}: "
                "no defect can be seen there. Change the exposure unless that is the "
                "background"
            )
        if odd:
            found.append(
                f"{_some(odd)} far more pure {name} than the others: {cause}? "
                "Remove them, or take them anew"
            )
        return found


def survey(
    paths: Sequence[ImagePath],
    size: Size,
    bits: int | None = None,
    *,
    skip_errors: bool = False,
    progress: Show = "auto",
) -> Survey:
    """Look at every photograph once.

    Args:
        paths: image files.
        size: to which they will be resized.
        bits: of the camera, see `ebmlib.data.files.read_image`.
        skip_errors: list what cannot be read instead of raising.
        progress: as in `ebmlib.progress.Progress`.

    Raises:
        ImageError: a file that cannot be read; none that can.
    """

    def look(path: ImagePath) -> Look | ImageError:
        try:
            return _look(path, size, bits)
        except ImageError as error:
            return error

    looks: list[Look] = []
    errors: list[tuple[str, str]] = []
    with Progress(len(paths), progress, label="looking") as bar:
        for done, (path, found) in enumerate(
            zip(paths, ordered_map(look, paths), strict=True), 1
        ):
            if isinstance(found, Look):
                looks.append(found)
            elif skip_errors:
                errors.append((str(path), str(found).removeprefix(f"{path}: ")))
            else:
                raise found
            bar.update(done)
    if not looks:
        raise ImageError(f"none of the {len(paths)} files could be read")
    same, alike = _pairs_of(looks)
    return Survey(looks, errors, same, alike)


def in_subfolders(folder: str | Path) -> int:
    """Image files in the subfolders of a folder, which are not read with it."""
    return sum(
        path.suffix.lower() in SUFFIXES
        for path in Path(folder).glob("*/**/*")
        if not path.name.startswith(".")
    )


def _look(path: ImagePath, size: Size, bits: int | None) -> Look:
    pixels = decode(path, bits=bits)
    check_stretch(pixels.size, size, path)
    planes = np.stack(list(pixels.planes()))
    gray = planes.mean(0)
    digest = hashlib.blake2b(pixels.stored.tobytes(), digest_size=16)
    digest.update(repr(pixels.stored.shape).encode())
    return Look(
        str(path),
        pixels.size,
        digest.digest(),
        float((planes >= 1).all(0).mean()),
        float((planes <= 0).all(0).mean()),
        float(gray.std()),
        pixels.peak,
        resize_planes([gray], (SMALL, SMALL))[0],
    )


def _pairs_of(
    looks: list[Look],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Each photograph with the first earlier one that is the same, or alike.

    Good parts are all alike, so the mean of all details is taken away first; what is
    left of two different parts correlates by up to 0.97 in MVTec AD.
    """
    details = np.stack([look.small for look in looks])
    details -= ndimage.uniform_filter(details, (0, FINE, FINE), mode="nearest")
    details /= details.std((1, 2), keepdims=True).clip(1e-4)
    details -= details.mean(0)
    flat = details.reshape(len(looks), -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-6)
    same, alike = [], []
    first: dict[bytes, str] = {}
    for index, look in enumerate(looks):
        if look.digest in first:
            same.append((first[look.digest], look.path))
            continue
        first[look.digest] = look.path
        if index:
            likeness = flat[:index] @ flat[index]
            nearest = int(likeness.argmax())
            if likeness[nearest] > ALIKE:
                alike.append((looks[nearest].path, look.path))
    return same, alike


def _pairs(pairs: list[tuple[str, str]]) -> str:
    one, other = (Path(path).name for path in pairs[0])
    if len(pairs) == 1:
        return f"{one} and {other} hold"
    return f"{len(pairs)} pairs of photographs, such as {one} and {other}, hold"


def _some(paths: list[str]) -> str:
    verb = "hold" if len(paths) > 1 else "holds"
    names = ", ".join(Path(path).name for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{names}{more} {verb}"
