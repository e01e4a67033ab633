"""A category of few images in MVTec layout."""

from pathlib import Path

from ebmlib.data import synthetic


def felt(root: Path) -> Path:
    """Write mvtec/felt below the root, 32 px, 24 of them to train on; its folder."""
    few = {"size": 32, "n_train": 24, "n_test": 4, "n_defective": 1}
    return synthetic.write(root, "weave", **few).rename(root / "felt")
