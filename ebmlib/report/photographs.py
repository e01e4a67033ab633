"""Which photographs a report is about: a folder with labels, or one without."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ebmlib.data.files import SUFFIXES, ImageError, ImagePath, list_images
from ebmlib.data.mvtec_layout import (
    LayoutError,
    Sample,
    first_of,
    layout_notes,
    pair_masks,
    read_full_mask,
)
from ebmlib.data.resizing import Size, check_size, describe_vanished, resize_mask
from ebmlib.data.threads import ordered_map

GOOD = "good"  # the kind of a normal photograph
Photos = ImagePath | Sequence[ImagePath]


@dataclass(frozen=True)
class Photographs:
    """The files of a report, and what is known of them.

    Attributes:
        title: the name of the folder, or of what was given.
        samples: path, kind and mask of every file. Without labels every kind is "".
        names: how the report calls the files: their paths below the folder.
        notes: what was noticed and may not be meant, in words.
    """

    title: str
    samples: list[Sample]
    names: list[str]
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """The files, in the order of the report."""
        return [sample.image for sample in self.samples]

    @property
    def labeled(self) -> bool:
        """Whether it is known which photographs are good."""
        return any(sample.kind for sample in self.samples)

    @property
    def has_masks(self) -> bool:
        """Whether any defect is marked."""
        return any(sample.mask for sample in self.samples)

    def read_masks(self, size: Size) -> tuple[Tensor, tuple[str, ...]]:
        """Masks bool `(N, H, W)` at one size, and a note for what vanished.

        Raises:
            ImageError: a mask cannot be read, or does not fit its photograph.
        """

        def read(index: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
            return resize_mask(read_full_mask(self.samples[index]).numpy(), size)

        masks = torch.zeros(len(self.samples), *check_size(size), dtype=torch.bool)
        given = [index for index, sample in enumerate(self.samples) if sample.mask]
        notes = []
        found = ordered_map(read, given)
        for index, (small, vanished) in zip(given, found, strict=True):
            masks[index] = torch.from_numpy(small)
            if vanished:
                notes.append(f"{self.names[index]}: {describe_vanished(vanished)}")
        return masks, tuple(notes)


def find_photographs(source: Photos) -> Photographs:
    """The photographs of a folder or of a list of files.

    A folder is read in one of three ways. In MVTec layout (`test/good`, `test/<kind>`,
    `ground_truth/<kind>`), whether the folder above test/ or test/ itself is given, the
    photographs have labels, and masks where there are some. A folder of folders is read
    as one folder for each kind; "good" holds the normal ones. A flat folder, or a list,
    has no labels.

    Raises:
        TypeError: neither a folder nor a list of paths.
        ImageError: no such folder, or no photographs in it.
        ValueError: photographs and masks do not pair up.
    """
    if isinstance(source, (str, os.PathLike)):
        return _of_folder(Path(source))
    whole = isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray))
    if not whole or not all(isinstance(item, (str, os.PathLike)) for item in source):
        raise TypeError(
            "photos must be a folder or a list of image files, as the report shows "
            f"them again; got {type(source).__name__}"
        )
    if not source:
        raise ImageError("no photographs: the list is empty")
    paths = [Path(item) for item in source]
    return Photographs("a list of files", _unlabeled(paths), _short(paths))


def _of_folder(folder: Path) -> Photographs:
    if not folder.is_dir():
        list_images(folder)  # which says what is wrong
    title = folder.resolve().name
    loose, below = _has_images(folder), _kinds(folder)
    if not loose and (folder / "test").is_dir() and _kinds(folder / "test"):
        return _of_category(folder, title)
    if not loose and below:
        if folder.resolve().name == "test":
            category = folder.resolve().parent
            return _of_category(category, f"{category.name}/test")
        return _of_kinds(folder, below, title)
    paths = list_images(folder)
    notes: tuple[str, ...] = ()
    if below:
        notes = (
            f"{len(below)} folders in {title}/ were not read, as there are images "
            "beside them",
        )
    return Photographs(title, _unlabeled(paths), _short(paths), notes)


def _of_category(folder: Path, title: str) -> Photographs:
    samples, problems = pair_masks(folder)
    if problems:
        raise LayoutError(f"{folder}: " + "; ".join(first_of(problems)))
    paths = [sample.image for sample in samples]
    notes = tuple(first_of(layout_notes(folder, samples)))
    return Photographs(title, samples, _short(paths, folder / "test"), notes)


def _of_kinds(folder: Path, kinds: list[str], title: str) -> Photographs:
    samples = [
        Sample(path, kind, None)
        for kind in kinds
        for path in list_images(folder / kind)
    ]
    notes = []
    if GOOD not in kinds:
        notes.append(
            'no folder is called "good": all photographs are taken as defective, and '
            "no false alarm can be counted"
        )
    elif kinds == [GOOD]:
        notes.append("all photographs are good: no missed defect can be counted")
    paths = [sample.image for sample in samples]
    return Photographs(title, samples, _short(paths, folder), tuple(notes))


def _unlabeled(paths: list[Path]) -> list[Sample]:
    return [Sample(path, "", None) for path in paths]


def _kinds(folder: Path) -> list[str]:
    """Names of the folders that hold images, "good" first."""
    names = [
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and _has_images(path)
    ]
    return sorted(names, key=lambda name: (name != GOOD, name))


def _has_images(folder: Path) -> bool:
    return any(
        path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
        for path in folder.iterdir()
    )


def _short(paths: list[Path], below: Path | None = None) -> list[str]:
    """Paths below a folder, with forward slashes; else below what all share."""
    if below is None:
        parents = {path.resolve().parent for path in paths}
        below = Path(os.path.commonpath(parents))
    return [
        path.resolve().relative_to(below.resolve()).as_posix()
        if path.resolve().is_relative_to(below.resolve())
        else path.name
        for path in paths
    ]
