"""The data of the book: one call, `load`, for drawn and for real images (chapter 1)."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ebmlib.data.category import Category

__all__ = ["Category", "load"]


def load(
    category: str = "synthetic/nut",
    *,
    size: int | tuple[int, int] | None = None,
    root: str | Path | None = None,
    need_masks: bool = False,
    **options: Any,
) -> Category:
    """Images of one category, drawn or read from disk.

    Args:
        category: "synthetic/<name>" draws the images from a seed (no files, no
            network); "elpv/mono" and "elpv/poly" read the photographs of solar cells
            that `pip install "ebmlib[photos]"` brings, without masks;
            "mvtec/<name>" reads the folder <name> under `root`.
        size: Side of the square images in pixels; 64 for drawn images and 128 for
            real ones unless given. Real ones may also be (height, width).
        root: For "mvtec/...": the folder that holds the categories. Without it the
            environment variable MVTEC_ROOT is read.
        need_masks: Refuse a category where nobody has marked where the defects are.
        options: Passed on to `synthetic.make`, `elpv.load_elpv` or
            `mvtec.load_mvtec`.

    Raises:
        ValueError: Unknown source, no root for real images, the package of the
            photographs is missing, no masks where they are needed, or a size that is
            not a positive whole number of pixels.
    """
    found = _load(category, size, root, options)
    if need_masks and not found.has_masks:
        raise ValueError(
            f"{category} has no masks, which are needed here to measure where a defect "
            "is: choose a category with masks, such as 'synthetic/nut' or "
            "'mvtec/bottle'"
        )
    return found


def _load(
    category: str,
    size: int | tuple[int, int] | None,
    root: str | Path | None,
    options: dict[str, Any],
) -> Category:
    if size is not None:
        from ebmlib.data.resizing import check_size  # imports SciPy, only if needed

        check_size(size)
    source, _, name = category.partition("/")
    if source == "synthetic" and name:
        from ebmlib.data import synthetic  # its drawing code is only needed here

        side = 64 if size is None else size
        if not isinstance(side, (int, np.integer)):
            raise ValueError(f"drawn images are square: size must be one side, {side}")
        return synthetic.make(name, size=int(side), **options)
    if source == "elpv" and name:
        from ebmlib.data.elpv import load_elpv  # reads files only when asked to

        return load_elpv(name, size=128 if size is None else size, **options)
    if source == "mvtec" and name:
        from ebmlib.data.mvtec import load_mvtec  # also run as a program: python -m

        return load_mvtec(
            _mvtec_root(root), name, size=128 if size is None else size, **options
        )
    raise ValueError(
        f"unknown category {category!r}; write 'synthetic/nut', 'elpv/mono' or "
        "'mvtec/bottle', that is <source>/<name> with source 'synthetic', 'elpv' or "
        "'mvtec'"
    )


def _mvtec_root(root: str | Path | None) -> Path:
    chosen = root if root is not None else os.environ.get("MVTEC_ROOT")
    if not chosen:
        raise ValueError(
            "real images need the folder that holds the MVTec categories: pass "
            "root=... or set the environment variable MVTEC_ROOT (to download: "
            "python -m ebmlib.data.mvtec download bottle --root FOLDER)"
        )
    return Path(chosen)
