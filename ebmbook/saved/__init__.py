"""Detectors that come with the book, trained longer than a chapter may take.

Chapters 9, 10, 11 and 15 load one, because a chapter must run in a minute. Nothing
about them is special: `COMMAND` trains the same detector again, bit for bit on the same
kind of processor, from the drawn data alone.
"""

from __future__ import annotations

from pathlib import Path

from ebmlib.detector import EnergyDetector

FOLDER = Path(__file__).parent
COMMAND = "python tools/train_saved_detector.py"
SEED, SIZE, STEPS = 0, 64, 4000


def saved_detector(category: str = "synthetic/nut") -> EnergyDetector:
    """The detector of a drawn category, on the CPU.

    Raises:
        ValueError: there is none for this category.
    """
    path = FOLDER / f"{category.replace('/', '_')}.safetensors"
    if not path.exists():
        known = sorted(
            p.stem.replace("_", "/", 1) for p in FOLDER.glob("*.safetensors")
        )
        raise ValueError(
            f"no saved detector for {category!r}, only for {known}; train one: "
            "EnergyDetector(image_size=64).fit(images)"
        )
    return EnergyDetector.load(path, device="cpu")
