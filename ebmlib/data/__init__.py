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
    **options: Any,
) -> Category:
    """Images of one category, drawn or read from disk.

    Args:
        category: "synthetic/<name>" draws the images from a seed (no files, no
            network); "mvtec/<name>" reads the folder <name> under `root`.
        size: Side of the square images in pixels; 64 for drawn images and 128 for
            real ones unless given. Real ones may also be (height, width).
        root: For "mvtec/...": the folder that holds the categories. Without it the
            environment variable MVTEC_ROOT is read.
        options: Passed on to `synthetic.make` or `mvtec.load_mvtec`.

    Raises:
        ValueError: Unknown source, no root for real images, or a size that is not a
            positive whole number of pixels.
    """
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
    if source == "mvtec" and name:
        from ebmlib.data.mvtec import load_mvtec  # also run as a program: python -m

        return load_mvtec(
            _mvtec_root(root), name, size=128 if size is None else size, **options
        )
    raise ValueError(
        f"unknown category {category!r}; write 'synthetic/nut' or 'mvtec/bottle', "
        "that is <source>/<name> with source 'synthetic' or 'mvtec'"
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
