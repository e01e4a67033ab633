"""What a folder in the layout of MVTec AD is, and whether one is whole (chapter 1).

The layout, for one category:

    train/good/NNN.png                 normal images, the only ones to learn from
    test/good/NNN.png                  normal images
    test/<kind>/NNN.png                defective images
    ground_truth/<kind>/NNN_mask.png   where the defect is; paired by *name*

Your own images may come without ground_truth/ altogether: then it can be measured
whether a detector finds the defects, not where. Masks may also be called NNN.png.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from ebmlib.data.files import (
    SUFFIXES,
    ImageError,
    decode,
    image_size,
    list_images,
    read_mask,
)
from ebmlib.data.mvtec_facts import OFFICIAL_COUNTS
from ebmlib.data.threads import ordered_map

# Names that somebody may give to the folder of normal test images by mistake.
NORMAL_WORDS = {
    *("good", "ok", "okay", "io", "normal", "nominal", "regular", "fine", "intact"),
    *("pass", "passed", "clean", "healthy", "perfect", "negative"),
    *("nodefect", "nodefects", "defectfree", "nondefective", "noanomaly"),
}


class LayoutError(ValueError):
    """A folder that is not one category in MVTec layout."""


class Sample(NamedTuple):
    """A test image, its kind ("good" or a defect) and the mask of a defect."""

    image: Path
    kind: str
    mask: Path | None


# ------------------------------------------------------------------------ pairing


def composed(name: str) -> str:
    """A file name in Unicode's composed form (NFC), in which names are compared.

    macOS stores names decomposed: the two forms of "é" look alike and are not equal.
    """
    return unicodedata.normalize("NFC", name)


def categories_in(root: str | Path) -> list[str]:
    """Names of the folders under `root` that hold train/good, sorted."""
    return sorted(
        path.name
        for path in Path(root).iterdir()
        if (path / "train" / "good").is_dir() and not path.name.startswith(".")
    )


def category_path(root: str | Path, category: str) -> Path:
    """The folder of a category, whichever Unicode form its name has on the disk."""
    direct = Path(root) / category
    if direct.exists() or not Path(root).is_dir():
        return direct
    equal = (p for p in Path(root).iterdir() if composed(p.name) == composed(category))
    return next(equal, direct)


def missing_training(folder: Path) -> str | None:
    """What is wrong where a category has no train/good, in words; None if it has."""
    if (folder / "train" / "good").is_dir():
        return None
    found = "nothing"
    if (folder / "train").is_dir():
        kinds = ", ".join(f"train/{name}" for name in _subfolders(folder / "train"))
        found = kinds or "no folder in train/"
    return (
        f"no folder {folder.name}/train/good, where the normal images to learn from "
        f"belong (found: {found})"
    )


def pair_masks(folder: Path) -> tuple[list[Sample], list[str]]:
    """Test images with their masks by name, and what does not pair up, in words.

    The mask of test/<kind>/NNN.png is ground_truth/<kind>/NNN_mask.png (or NNN.png),
    never "the n-th file of the folder": one missing mask would shift all that follow.
    Where a category of your own has no ground_truth/ at all, no mask is missed.
    """
    samples: list[Sample] = []
    problems: list[str] = []
    masked = (folder / "ground_truth").is_dir()
    if not masked and folder.name in OFFICIAL_COUNTS:
        problems.append(
            f"no folder ground_truth/, but {folder.name!r} is a category of MVTec AD, "
            "which has masks; give images of your own another category name"
        )
    kinds, truths = _subfolders(folder / "test"), _subfolders(folder / "ground_truth")
    if not kinds:
        loose = _images_in([folder / "test"])
        problems.append(
            "test/ holds images but no folders; put them in test/good and "
            "test/<kind of defect>"
            if loose
            else "test/ is missing or empty"
        )
    for kind in sorted(kinds, key=lambda name: (name != "good", name)):
        images = _images_in(kinds[kind])
        if not images:
            problems.append(f"test/{kind} holds no images")
        found, wrong = _pair_kind(
            kind, images, _images_in(truths.get(kind, [])), masked
        )
        samples += found
        problems += wrong
    for kind in sorted(set(truths) - set(kinds)):
        problems.append(f"ground_truth/{kind} has no folder test/{kind}")
    return samples, problems


def _pair_kind(
    kind: str, images: list[Path], masks: list[Path], masked: bool
) -> tuple[list[Sample], list[str]]:
    """The images of one kind of defect with their masks, and what is wrong."""
    samples, problems = [], []
    needed = masked and kind != "good"
    if needed and images and not masks:
        problems.append(
            f"test/{kind} holds {len(images)} images and ground_truth/{kind} no mask: "
            "every folder of test/ but test/good is a kind of defect and needs masks"
        )
        needed = False
    left, same = _by_stem(masks), _by_stem(images)
    for stem, twins in same.items():
        own = left.pop(f"{stem}_mask", []) + left.pop(stem, [])
        names = " and ".join(path.name for path in twins)
        if len(twins) > 1 and (own or needed):
            problems.append(
                f"test/{kind}: two images share a stem, {names}, so that a mask cannot "
                "be told to belong to one of them; rename one"
            )
        elif len(own) > 1:
            found = " and ".join(path.name for path in own)
            problems.append(
                f"ground_truth/{kind}: {found} are both masks of {names}; keep one"
            )
        elif needed and not own:
            problems.append(f"test/{kind}/{names} has no mask {stem}_mask")
        mask = own[0] if len(own) == len(twins) == 1 else None
        samples += [Sample(path, kind, mask) for path in twins]
    for mask in (mask for rest in left.values() for mask in rest):
        problems.append(f"ground_truth/{kind}/{mask.name} has no test image")
    return samples, problems


def _by_stem(paths: list[Path]) -> dict[str, list[Path]]:
    stems: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        stems[composed(path.stem)].append(path)
    return stems


def _subfolders(folder: Path) -> dict[str, list[Path]]:
    """Folders in a folder by their composed names (two may have the same one)."""
    found: dict[str, list[Path]] = defaultdict(list)
    paths = folder.iterdir() if folder.is_dir() else ()
    for path in sorted(paths, key=lambda path: path.name):
        if path.is_dir() and not path.name.startswith("."):
            found[composed(path.name)].append(path)
    return found


def _images_in(folders: Iterable[Path]) -> list[Path]:
    found = []
    for folder in folders:
        try:
            found += list_images(folder)
        except ImageError:
            continue
    return found


def layout_notes(folder: Path, samples: Sequence[Sample]) -> list[str]:
    """What can be read and may yet be not what was meant, in words."""
    notes = []
    for where, count in sorted(_unread(folder).items()):
        images = "1 image" if count == 1 else f"{count} images"
        notes.append(
            f"{images} in {where}/ not read: only those directly in train/good, "
            "test/<kind> and ground_truth/<kind> are"
        )
    kinds = {sample.kind for sample in samples}
    marked = {sample.kind for sample in samples if sample.mask}
    for kind in sorted(kinds - marked - {"good"}):
        word = "".join(letter for letter in kind.casefold() if letter.isalpha())
        if word in NORMAL_WORDS:
            notes.append(
                f"test/{kind} is taken as a kind of defect: normal test images belong "
                "in test/good"
            )
    if samples and "good" not in kinds:
        notes.append("no normal test images (test/good): AUROC cannot be measured")
    if kinds == {"good"}:
        notes.append("no defective test images: AUROC cannot be measured")
    return notes


def _unread(folder: Path) -> Counter[str]:
    """Number of images by folder that lie too high or too deep to be read."""
    found: Counter[str] = Counter()
    for part in ("train", "test", "ground_truth"):
        for path in (folder / part).rglob("*"):
            place = path.relative_to(folder)
            hidden = any(name.startswith(".") for name in place.parts)
            if path.suffix.lower() in SUFFIXES and not hidden and len(place.parts) != 3:
                found[place.parent.as_posix()] += path.is_file()
    return +found


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


def read_full_mask(sample: Sample, size: tuple[int, int] | None = None) -> torch.Tensor:
    """The mask of a sample, bool (H, W) at full size.

    Args:
        sample: With a mask.
        size: (height, width) of its image; None reads it from the image's header.

    Raises:
        ImageError: The mask cannot be read, has another size than its image, marks
            something in a good image, or nothing in a defective one.
    """
    if sample.mask is None:
        raise ValueError(f"{sample.image} has no mask")
    full = read_mask(sample.mask)
    side = image_size(sample.image) if size is None else size
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
        notes: What is not wrong and may not be meant: images that are not read, a
            folder of defects that is called "ok", what cannot be measured.
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
    Noted: images that lie where none is read, and what cannot be measured.

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
        _validate_category(category_path(root, name), name, report)
    missing = sorted(set(OFFICIAL_COUNTS) - set(names))
    if categories is None and missing and set(names) & set(OFFICIAL_COUNTS):
        report.notes.append(f"official categories not here: {', '.join(missing)}")
    return report


def _validate_category(folder: Path, name: str, report: Report) -> None:
    missing = missing_training(folder)
    if missing:
        report.problems.append(f"{name}: {missing}")
        return
    train = _images_in([folder / "train" / "good"])
    samples, pairing = pair_masks(folder)
    report.counts[name] = _count(folder, train, samples)
    found = [*pairing, *unexpected_training(folder)]
    if not train:
        found.append("train/good holds no images")
    wrong_counts = _missing_files(folder, name)
    sizes, broken = _read_all([*train, *(sample.image for sample in samples)])
    found += [*wrong_counts, *broken, *_other_sizes(sizes), *_bad_masks(samples, sizes)]
    report.problems += [f"{name}: {problem}" for problem in dict.fromkeys(found)]
    notes = layout_notes(folder, samples)
    if samples and not any(sample.mask for sample in samples):
        notes.append("no masks: localization cannot be measured")
    if wrong_counts:
        notes.append(
            f"{name!r} is a category of MVTec AD and is compared with it; give images "
            "of your own another category name"
        )
    report.notes += [f"{name}: {note}" for note in notes]
    _note_side(name, sizes.get(train[0]) if train else None, report)


def _count(folder: Path, train: list[Path], samples: list[Sample]) -> dict[str, int]:
    counts = {"train/good": len(train)}
    for sample in samples:
        counts[f"test/{sample.kind}"] = counts.get(f"test/{sample.kind}", 0) + 1
    for kind, folders in _subfolders(folder / "ground_truth").items():
        counts[f"ground_truth/{kind}"] = len(_images_in(folders))
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
        found = {path.stem for path in _images_in([folder / name])}
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


def _read_all(paths: list[Path]) -> tuple[dict[Path, tuple[int, int]], list[str]]:
    """(height, width) of every image, and what cannot be read, in words."""

    def read(path: Path) -> tuple[int, int] | str:
        try:
            return decode(path).size
        except ImageError as error:
            return str(error)

    sizes, problems = {}, []
    for path, result in zip(paths, ordered_map(read, paths), strict=True):
        if isinstance(result, str):
            problems.append(result)
        else:
            sizes[path] = result
    return sizes, problems


def _other_sizes(sizes: dict[Path, tuple[int, int]]) -> list[str]:
    """Images whose size is not that of the majority."""
    if not sizes:
        return []
    usual = Counter(sizes.values()).most_common(1)[0][0]
    return [
        f"{path}: {size[0]} x {size[1]}, but the others are {usual[0]} x {usual[1]}"
        for path, size in sizes.items()
        if size != usual
    ]


def _bad_masks(samples: list[Sample], sizes: dict[Path, tuple[int, int]]) -> list[str]:
    def read(sample: Sample) -> str | None:
        try:
            read_full_mask(sample, sizes.get(sample.image))
        except ImageError as error:
            return str(error)
        return None

    results = ordered_map(read, [sample for sample in samples if sample.mask])
    return [problem for problem in results if problem]


def _note_side(name: str, size: tuple[int, int] | None, report: Report) -> None:
    if name not in OFFICIAL_COUNTS or size is None:
        return
    side = OFFICIAL_COUNTS[name].side
    if size != (side, side):
        report.notes.append(
            f"{name}: images are {size[0]} x {size[1]}, official ones {side} x {side} "
            "(a resized copy)"
        )
