"""What a folder in the layout of MVTec AD is, and whether one is whole (chapter 1).

The layout, for one category:

    train/good/NNN.png                 normal images, the only ones to learn from
    test/good/NNN.png                  normal images
    test/<kind>/NNN.png                defective images
    ground_truth/<kind>/NNN_mask.png   where the defect is; paired by *name*

Your own images may come without ground_truth/ altogether: then it can be measured
whether a detector finds the defects, not where. Masks may also be called NNN.png.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from ebmlib.data.images import (
    ImageError,
    image_size,
    list_images,
    read_image,
    read_mask,
)
from ebmlib.data.mvtec_facts import OFFICIAL_COUNTS


class LayoutError(ValueError):
    """A folder that is not one category in MVTec layout."""


class Sample(NamedTuple):
    """A test image, its kind ("good" or a defect) and the mask of a defect."""

    image: Path
    kind: str
    mask: Path | None


# ------------------------------------------------------------------------ pairing


def categories_in(root: str | Path) -> list[str]:
    """Names of the folders under `root` that hold train/good, sorted."""
    return sorted(
        path.name
        for path in Path(root).iterdir()
        if (path / "train" / "good").is_dir() and not path.name.startswith(".")
    )


def pair_masks(folder: Path) -> tuple[list[Sample], list[str]]:
    """Test images with their masks by name, and what does not pair up, in words.

    The mask of test/<kind>/NNN.png is ground_truth/<kind>/NNN_mask.png (or NNN.png),
    never "the n-th file of the folder": one missing mask would shift all that follow.
    Where a category of your own has no ground_truth/ at all, no mask is missed.
    """
    samples, problems = [], []
    masked = (folder / "ground_truth").is_dir() or folder.name in OFFICIAL_COUNTS
    kinds = _subfolders(folder / "test")
    if not kinds:
        problems.append("test/ is missing or empty")
    for kind in sorted(kinds, key=lambda name: (name != "good", name)):
        images = _images_or_none(folder / "test" / kind)
        if not images:
            problems.append(f"test/{kind} holds no images")
        masks = {
            path.stem: path for path in _images_or_none(folder / "ground_truth" / kind)
        }
        for image in images:
            mask = masks.pop(f"{image.stem}_mask", None) or masks.pop(image.stem, None)
            if mask is None and kind != "good" and masked:
                problems.append(
                    f"test/{kind}/{image.name} has no mask {image.stem}_mask"
                )
            samples.append(Sample(image, kind, mask))
        for mask in masks.values():
            problems.append(f"ground_truth/{kind}/{mask.name} has no test image")
    for kind in sorted(set(_subfolders(folder / "ground_truth")) - set(kinds)):
        problems.append(f"ground_truth/{kind} has no folder test/{kind}")
    return samples, problems


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _images_or_none(folder: Path) -> list[Path]:
    try:
        return list_images(folder)
    except ImageError:
        return []


def unexpected_training(folder: Path) -> list[str]:
    """Folders in train/ other than good/, in words."""
    extra = [name for name in _subfolders(folder / "train") if name != "good"]
    return [
        f"train/{name}: training images are normal ones, in train/good"
        for name in extra
    ]


def first_of(problems: list[str], limit: int = 5) -> list[str]:
    """The first few problems, and how many more there are."""
    more = len(problems) - limit
    return problems[:limit] + ([f"and {more} more"] if more > 0 else [])


def read_full_mask(sample: Sample) -> torch.Tensor:
    """The mask of a sample at full size; it must fit its image and its kind."""
    full = read_mask(sample.mask)
    side = image_size(sample.image)
    if tuple(full.shape) != side:
        raise ImageError(
            f"{sample.mask}: mask of {full.shape[0]} x {full.shape[1]} for an image of "
            f"{side[0]} x {side[1]} (height x width); they must be equal"
        )
    if bool(full.any()) == (sample.kind == "good"):
        state = "marks a defect" if sample.kind == "good" else "is all black"
        raise ImageError(f"{sample.mask}: the mask of a {sample.kind!r} image {state}")
    return full


# ------------------------------------------------------------------------ validation


@dataclass
class Report:
    """What `validate` found.

    Attributes:
        counts: For each category, images by folder, such as {"train/good": 209, ...}.
        problems: Each names a file or folder and what is wrong with it.
        notes: What differs from the official data set without being wrong.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        lines = [
            f"{category}: " + ", ".join(f"{n} {folder}" for folder, n in counts.items())
            for category, counts in self.counts.items()
        ]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"PROBLEM: {problem}" for problem in self.problems]
        return "\n".join(
            [*lines, "ok" if self.ok else f"{len(self.problems)} problems"]
        )


def validate(root: str | Path, categories: Sequence[str] | str | None = None) -> Report:
    """Read every file of some categories and name what is wrong.

    Checked: official counts (where the category is official), missing files, images and
    masks that cannot be read, sizes that differ within a category, masks that do not
    pair up with an image, fit its size or mark anything. Never raises for bad *data*.

    Args:
        root: The folder that holds the categories.
        categories: One name or several; None takes all that are there.

    Raises:
        LayoutError: `root` is no folder, or holds no category at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder; root must hold the categories")
    if isinstance(categories, str):
        categories = [categories]
    names = list(categories) if categories is not None else categories_in(root)
    if not names:
        raise LayoutError(f"{root}: no category here (a folder with train/good in it)")
    report = Report()
    for name in names:
        _validate_category(root / name, name, report)
    missing = sorted(set(OFFICIAL_COUNTS) - set(names))
    if categories is None and missing and set(names) & set(OFFICIAL_COUNTS):
        report.notes.append(f"official categories not here: {', '.join(missing)}")
    return report


def _validate_category(folder: Path, name: str, report: Report) -> None:
    if not (folder / "train" / "good").is_dir():
        report.problems.append(f"{name}: no folder {name}/train/good")
        return
    train = _images_or_none(folder / "train" / "good")
    samples, pairing = pair_masks(folder)
    report.counts[name] = _count(folder, train, samples)
    found = [*pairing, *unexpected_training(folder)]
    found += _missing_files(folder, name)
    found += _bad_images([*train, *(sample.image for sample in samples)])
    found += _bad_masks(samples)
    report.problems += [f"{name}: {problem}" for problem in found]
    if samples and not any(sample.mask for sample in samples):
        report.notes.append(f"{name}: no masks, so nobody can measure localization")
    _note_side(name, train, report)


def _count(folder: Path, train: list[Path], samples: list[Sample]) -> dict[str, int]:
    counts = {"train/good": len(train)}
    for sample in samples:
        counts[f"test/{sample.kind}"] = counts.get(f"test/{sample.kind}", 0) + 1
    for kind in _subfolders(folder / "ground_truth"):
        counts[f"ground_truth/{kind}"] = len(
            _images_or_none(folder / "ground_truth" / kind)
        )
    return counts


def official_folders(category: str) -> dict[str, int]:
    """Official number of files by folder, such as {"train/good": 209, ...}."""
    official = OFFICIAL_COUNTS[category]
    folders = {"train/good": official.train, "test/good": official.good}
    for kind, number in official.defects.items():
        folders[f"test/{kind}"] = folders[f"ground_truth/{kind}"] = number
    return folders


def _missing_files(folder: Path, category: str) -> list[str]:
    """Differences from the official counts; official files are numbered from 000."""
    if category not in OFFICIAL_COUNTS:
        return []
    problems = []
    for name, expected in official_folders(category).items():
        found = {path.stem for path in _images_or_none(folder / name)}
        ending = "_mask" if name.startswith("ground_truth") else ""
        wanted = [f"{number:03d}{ending}" for number in range(expected)]
        missing = [stem for stem in wanted if stem not in found]
        if len(found) < expected:
            named = ", ".join(first_of(missing, 10))
            problems.append(
                f"{name}: {len(found)} files of {expected}; missing: {named}"
            )
        elif len(found) > expected:
            extra = ", ".join(first_of(sorted(found - set(wanted)), 10))
            problems.append(
                f"{name}: {len(found)} files, {expected} expected; extra: {extra}"
            )
    return problems


def _bad_images(paths: list[Path]) -> list[str]:
    """Images that cannot be read, or whose size is not that of the majority."""
    problems, sizes = [], {}
    for path in paths:
        try:
            sizes[path] = tuple(read_image(path).shape[1:])
        except ImageError as error:
            problems.append(str(error))
    if sizes:
        usual = max(set(sizes.values()), key=list(sizes.values()).count)
        problems += [
            f"{path}: {size[0]} x {size[1]}, but the others are {usual[0]} x {usual[1]}"
            for path, size in sizes.items()
            if size != usual
        ]
    return problems


def _bad_masks(samples: list[Sample]) -> list[str]:
    problems = []
    for sample in samples:
        if sample.mask is not None:
            try:
                read_full_mask(sample)
            except ImageError as error:
                problems.append(str(error))
    return problems


def _note_side(name: str, train: list[Path], report: Report) -> None:
    if name not in OFFICIAL_COUNTS or not train:
        return
    try:
        height, width = image_size(train[0])
    except ImageError:
        return
    side = OFFICIAL_COUNTS[name].side
    if (height, width) != (side, side):
        report.notes.append(
            f"{name}: images are {height} x {width}, official ones {side} x {side} "
            "(a resized copy)"
        )
