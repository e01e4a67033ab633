"""The saved runs of the museum of broken runs, to be read where they are (chapter 14).

The file beside this one is written by tools/make_museum.py. It is part of the package,
so that the chapter needs neither the repository nor the minutes that the runs took.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ebmlib.checkpoint import read_checkpoint

FILE = Path(__file__).with_name("museum.safetensors")
KIND = "ebmlib.museum"


@dataclass(frozen=True)
class Exhibit:
    """One saved training run.

    Attributes:
        diagnosis: what is wrong with it, or "healthy".
        settings: what was changed from the healthy run, in words.
        facts: figures taken once, after the run: `data_spread`, `long_spread`, ...
        curves: name -> (K,), figures taken at the updates `curves["step"]`.
        pictures: name -> values in [0, 1]: points (N, 2) or images (N, 3, 32, 32),
            and for points the `density` (32, 32) of the model, top row first, on one
            scale for all runs.
    """

    diagnosis: str
    settings: str
    facts: dict[str, float]
    curves: dict[str, Tensor]
    pictures: dict[str, Tensor]


def load_museum() -> dict[str, Exhibit]:
    """All runs: "0" is healthy, "2" is room 2, "2 remedied" its cure, "ward a" a test.

    Raises:
        CheckpointError: the file is damaged.
    """
    tensors, header = read_checkpoint(FILE, KIND)
    museum = {}
    for name, about in header["exhibits"].items():
        curves, pictures = {}, {}
        for key, tensor in tensors.items():
            owner, kind, field = key.split("/")
            if owner == name and kind == "curve":
                curves[field] = tensor
            elif owner == name:
                pictures[field] = (tensor.float() + 0.5) / 256
        museum[name] = Exhibit(**about, curves=curves, pictures=pictures)
    return museum
