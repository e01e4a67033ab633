"""Photographs of solar cells that a package of the registry ships (chapter 1).

`pip install "ebmlib[photos]"` brings the package `elpv-dataset`: 2,624 photographs by
electroluminescence, 300 x 300 pixels, 8-bit gray, each with the probability that the
cell is defective, 0, 1/3, 2/3 or 1. Nobody has drawn masks. A cell glows where current
flows; a crack or a dead region stays dark.

The cells were cut from 44 solar modules, 18 monocrystalline and 26 polycrystalline, and
the files are numbered module by module. The package does not say where a module begins;
`MODULES` does. It was read off the files: the type of the cells changes at these
numbers only, so do sharpness, brightness and the pattern of the contacts, and the
blocks number 18 and 26, as published.

The images are licensed CC BY-NC-SA 4.0, the code of the package Apache-2.0. The
package asks to cite Buerhop-Lutz et al., A Benchmark for Visual Identification of
Defective Solar Cells in Electroluminescence Imagery, EU PVSEC 2018; Deitsch et al.,
Solar Energy 185, 2019; Deitsch et al., Machine Vision and Applications 32, 2021.
"""

import importlib.util
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from ebmlib.data.category import Category
from ebmlib.data.files import stored_channels
from ebmlib.data.images import ImageStream
from ebmlib.data.resizing import Size

__all__ = ["CATEGORIES", "ElpvError", "load_elpv"]

CATEGORIES = ("mono", "poly")
PACKAGE = "elpv_dataset"
INSTALL = 'pip install "ebmlib[photos]"'
EVERY = 4  # one module in so many is held out for the test, or one good cell

# Modules in the order of the file names: kind, cells of each, how many in a row.
ROWS_OF_MODULES = (
    *(("mono", 60, 1), ("poly", 60, 5), ("mono", 60, 3), ("poly", 60, 6)),
    *(("mono", 60, 5), ("mono", 54, 1), ("mono", 60, 6)),
    *(("poly", 60, 3), ("poly", 50, 1), ("poly", 60, 5)),
    *(("mono", 72, 1), ("poly", 60, 3), ("mono", 48, 1), ("poly", 60, 3)),
)
MODULES = tuple(
    (kind, cells) for kind, cells, times in ROWS_OF_MODULES for _ in range(times)
)


class ElpvError(ValueError):
    """The package of the photographs is missing, or is not the one that is known."""


class Cell(NamedTuple):
    """One photograph: its file, its module and what the experts said.

    `module` counts the modules of one kind from 1, in the order of the file names.
    """

    image: Path
    module: int
    probability: float


class Split(NamedTuple):
    """The cells of one kind as they are used, each list in the order of file names."""

    train: list[Cell]
    good: list[Cell]
    defective: list[Cell]
    notes: tuple[str, ...]


# ------------------------------------------------------------------------ loading


def load_elpv(
    name: str,
    size: Size = 128,
    *,
    split: str = "modules",
    channels: int | None = None,
) -> Category:
    """All cells of one kind, resized by area; there are no masks.

    Training images are cells with the defect probability 0. Test images are other cells
    with probability 0, called "good", and then all cells with probability 1, called
    "defective". Cells with 1/3 and 2/3, about which the experts were not sure, are left
    out, and `Category.notes` counts them. One of two rules, both set before any method
    was measured, says which cells of probability 0 are test images:

    - "modules": those of every fourth module of the kind (module 4, 8, ...). No module
      has normal cells on both sides. Defective cells of all modules are tested. Those
      of a module that was trained on look a little more normal than those of a new
      one, so this can only make them harder to find.
    - "cells": every fourth cell. That is a leak, to be measured and not to be
      reported: neighbors in one module are near copies. The training image that
      correlates most with a normal test image (at 75 px) is of the same module for
      86 % of them in "mono" and 62 % in "poly".

    "mono" has 313 defective cells, and 451 training and 137 good test images by modules
    or 441 and 147 by cells; 173 are left out. "poly" has 402, and 731 and 189 by
    modules or 690 and 230 by cells; 228 are left out.

    Args:
        name: "mono" or "poly", for monocrystalline and polycrystalline cells.
        size: Side of the square images in pixels, or (height, width).
        split: "modules" or "cells".
        channels: 1 or 3; None takes 1, as the files are gray.

    Raises:
        ElpvError: The package `elpv-dataset` is missing or not whole.
        ValueError: Another name or split.
        ImageError: A file cannot be read (see `ebmlib.data.files`).
    """
    found = split_of(name, split)
    cells = [*found.train, *found.good, *found.defective]
    paths = [cell.image for cell in cells]
    stream = ImageStream(paths, size=size, channels=channels or stored_channels(paths))
    images = stream.read().images
    train, test = images[: len(found.train)], images[len(found.train) :]
    kinds = ["good"] * len(found.good) + ["defective"] * len(found.defective)
    return Category(
        name=f"elpv/{name}",
        train=train.clone(),
        test=test.clone(),
        labels=torch.tensor([kind != "good" for kind in kinds]),
        masks=torch.zeros(len(test), *test.shape[2:], dtype=torch.bool),
        kinds=kinds,
        notes=found.notes,
    )


def split_of(name: str, split: str = "modules") -> Split:
    """Which cells are trained on and which are tested, before an image is read.

    Arguments and errors are those of `load_elpv`.
    """
    if name not in CATEGORIES:
        raise ValueError(
            f"unknown category 'elpv/{name}'; there are "
            + " and ".join(f"'elpv/{one}'" for one in CATEGORIES)
        )
    if split not in ("modules", "cells"):
        raise ValueError(f"split must be 'modules' or 'cells', got {split!r}")
    cells = [cell for kind, cell in read_cells(find_data()) if kind == name]
    sure = [cell for cell in cells if cell.probability == 0]
    if split == "modules":
        train = [cell for cell in sure if cell.module % EVERY]
        good = [cell for cell in sure if not cell.module % EVERY]
        modules = list(dict.fromkeys(cell.module for cell in good))
        listed = f"{', '.join(map(str, modules[:-1]))} and {modules[-1]}"
        rule = f"normal test images are those of the modules {listed} of the kind"
    else:
        train = [cell for at, cell in enumerate(sure, 1) if at % EVERY]
        good = sure[EVERY - 1 :: EVERY]
        rule = "normal test images share their modules with training images: a leak"
    left = Counter(round(3 * cell.probability) for cell in cells)
    notes = (
        f"left out: {left[1]} cells with the defect probability 1/3 and {left[2]} "
        "with 2/3",
        rule,
    )
    return Split(train, good, [c for c in cells if c.probability == 1], notes)


def write(folder: str | Path, name: str, split: str = "modules") -> dict[str, int]:
    """Copy the cells of one kind into the layout of MVTec AD, without masks.

    The folder gets its name when all cells are in it.

    Args:
        folder: that is made; it must not exist.
        name: as in `load_elpv`.
        split: as there.

    Returns:
        How many photographs each of "train/good", "test/good" and "test/defective" has.

    Raises:
        ElpvError: as `load_elpv`.
        ValueError: the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder}: exists already; name a new folder")
    found = split_of(name, split)
    parts = {
        "train/good": found.train,
        "test/good": found.good,
        "test/defective": found.defective,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.copying")
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    try:
        for part, cells in parts.items():
            (staging / part).mkdir(parents=True)
            for cell in cells:
                shutil.copyfile(cell.image, staging / part / cell.image.name)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {part: len(cells) for part, cells in parts.items()}


# ------------------------------------------------------------------------ the package


def find_data() -> Path:
    """The folder of labels.csv and images/ in the installed package.

    The package is found and not imported: nothing of its code runs.

    Raises:
        ElpvError: It is not installed, or holds no labels.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ElpvError(
            "the photographs of solar cells need the package elpv-dataset, which is "
            f"not installed; run: {INSTALL}"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    if not (folder / "labels.csv").is_file():
        raise _broken(f"{folder / 'labels.csv'} is missing")
    return folder


def read_cells(folder: Path) -> list[tuple[str, Cell]]:
    """(kind, cell) of every photograph in the order of the file names.

    Args:
        folder: that holds labels.csv, whose lines are "images/cell0001.png 1.0 mono".

    Raises:
        ElpvError: A line, a kind or a number of cells is not the known one, or a file
            is missing.
    """
    lines = (folder / "labels.csv").read_text(encoding="utf-8").split("\n")
    rows = sorted(line.split() for line in lines if line.strip())
    expected = sum(cells for _, cells in MODULES)
    if len(rows) != expected:
        raise _broken(f"labels.csv lists {len(rows)} cells, expected {expected}")
    present = {path.name for path in (folder / "images").glob("*.png")}
    kinds = [kind for kind, count in MODULES for _ in range(count)]
    cells = []
    for number, (row, kind, module) in enumerate(
        zip(rows, kinds, _module_numbers(), strict=True), 1
    ):
        probability = _probability(row[1:2])
        named = f"images/cell{number:04d}.png"
        if probability is None or row != [named, row[1], kind]:
            raise _broken(
                f"labels.csv says {' '.join(row)!r} where '{named} PROBABILITY {kind}' "
                "was expected, with a probability of 0, 1/3, 2/3 or 1"
            )
        path = folder / named
        if path.name not in present:
            raise _broken(f"{path} is missing")
        cells.append((kind, Cell(path, module, probability)))
    return cells


def _module_numbers() -> list[int]:
    """For every cell the number of its module among those of its kind, from 1."""
    seen: Counter[str] = Counter()
    numbers = []
    for kind, cells in MODULES:
        seen[kind] += 1
        numbers += [seen[kind]] * cells
    return numbers


def _probability(words: list[str]) -> float | None:
    """The multiple of 1/3 that a word is up to rounding; None if it is none."""
    try:
        thirds = 3 * float(words[0])
    except (IndexError, ValueError):
        return None
    near = round(thirds) if abs(thirds) < 10 else -1
    return near / 3 if 0 <= near <= 3 and abs(thirds - near) < 0.01 else None


def _broken(problem: str) -> ElpvError:
    return ElpvError(
        f"the package elpv-dataset is not whole, or is one that is not known: {problem}"
        f". Install it anew: pip uninstall elpv-dataset, then {INSTALL}"
    )
