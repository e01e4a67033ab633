"""A folder of any length goes through a detector in the same memory."""

import numpy as np
import pytest
import torch
from children import ask
from PIL import Image

from ebmlib.benchmark import peak_memory_mb
from ebmlib.detector import EnergyDetector
from ebmlib.recipes import Contrast

SIZE = 32


def peaks(detector, folders):
    """Peak memory in MB after each folder went through the detector; its images."""
    torch.set_num_threads(1)
    loaded, found = EnergyDetector.load(detector, device="cpu"), []
    for folder in folders:
        count = sum(len(part.scores) for part in loaded.stream(folder))
        found.append((count, peak_memory_mb()))
    return found


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """The images of the larger folder take 49 MB, their maps 16 MB."""
    generator = torch.Generator().manual_seed(0)
    normals = torch.rand(10, 3, SIZE, SIZE, generator=generator)
    recipe = Contrast(steps=1, width=2)  # a small network: only its memory is measured
    detector = EnergyDetector(recipe, SIZE, false_alarm_rate=0.4, device="cpu")
    detector.fit(normals).save(tmp_path / "detector.safetensors")
    picture = Image.fromarray(np.full((SIZE, SIZE, 3), 128, np.uint8))
    folders = [tmp_path / "64", tmp_path / "4000"]
    for folder in folders:
        folder.mkdir()
        picture.save(folder / "0.png")
        for i in range(1, int(folder.name)):
            (folder / f"{i}.png").hardlink_to(folder / "0.png")
    few, many = ask(peaks, tmp_path / "detector.safetensors", folders)
    if few[1] is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert (few[0], many[0]) == (64, 4_000)
    assert many[1] < few[1] + 14, (few, many)
