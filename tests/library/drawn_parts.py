"""Photographs of drawn parts and the commands on them, for the tests of commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from ebmlib.commands import main

QUICK = ["--recipe", "fields", "--features", "cosine", "--size", "32"]


def ebmlib(*words: object, code: int = 0) -> Result:
    """Run the command line here; `code` is the exit code that it must have."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    if done.exit_code != code:
        raise AssertionError(f"exit code {done.exit_code}: {done.output}") from (
            done.exception
        )
    return done


def told(*words: object, code: int = 0) -> dict[str, Any]:
    """What the command line says as JSON, after the lines of its progress."""
    text = ebmlib(*words, code=code).output
    return json.loads(text[text.index("{\n") :])


def part(seed: int, side: int = 48, defect: bool = False) -> np.ndarray:
    """A ring with a texture of its own, and perhaps a hole in it: uint8, gray."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    ring = np.abs(np.hypot(x, y) - 0.3) < 0.1
    values = 60 + 100 * ring + 6 * rng.standard_normal(ring.shape)
    if defect:
        values[np.hypot(x - 0.3, y) < 0.12] = 250
    return np.clip(values, 1, 254).astype(np.uint8)


def photographs(folder: Path, count: int, first: int = 0, **options: object) -> Path:
    """A folder of so many parts, 000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = Image.fromarray(part(first + index, **options))
        picture.save(folder / f"{first + index:03}.png")
    return folder
