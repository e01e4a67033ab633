"""Pictures of a map: gray levels that can be measured, and an outline on the mask."""

import numpy as np
import pytest
import torch
from PIL import Image

from ebmlib import overlay as pictures


def test_gray_levels_are_proportional_to_the_map():
    values = torch.tensor([[-1.0, 0.0, 1.0], [2.0, 4.0, 1000.0]])
    gray = pictures.deep_map(values, threshold=2.0)
    assert gray.dtype == np.uint16
    assert gray.tolist() == [[0, 0, 8192], [16384, 32768, 65535]]


def test_a_threshold_of_zero_leaves_the_unit_one():
    assert pictures.deep_map(torch.ones(1, 1), 0.0).item() == 16384


@pytest.mark.parametrize("channels", [1, 3])
def test_a_quiet_photograph_stays_as_it_is_and_a_mask_is_outlined(channels):
    photograph = torch.full((channels, 16, 16), 0.4)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:10, 4:10] = True
    drawn = pictures.overlay(photograph, torch.zeros(16, 16), mask, 1.0)
    assert drawn.shape == (16, 16, 3) and drawn.dtype == np.uint8
    assert (drawn[0, 0] == 102).all() and (drawn[6, 6] == 102).all()
    assert drawn[4, 4].tolist() == drawn[9, 6].tolist() == [213, 94, 0]


def test_heat_is_stronger_where_the_map_is_larger():
    values = torch.tensor([[0.0, 1.0, 2.0, 50.0]])
    none = torch.zeros(1, 4, dtype=torch.bool)
    drawn = pictures.overlay(torch.zeros(3, 1, 4), values, none, 1.0).astype(int)
    sums = drawn.sum(2)[0].tolist()
    assert sums[0] == 0 < sums[1] < sums[2] == sums[3]


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    pictures.save_png(path, np.zeros((2, 2), np.uint16))
    before = path.read_bytes()
    assert Image.open(path).mode.startswith("I;16")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.os, "replace", full)
    with pytest.raises(OSError, match="space"):
        pictures.save_png(path, np.ones((2, 2), np.uint16))
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
