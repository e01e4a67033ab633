"""The largest region of a mask, its box and its area."""

import torch

from ebmlib.regions import Region, largest_region


def test_the_box_is_that_of_the_region_with_the_most_pixels():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[2:4, 20:22] = True
    mask[10:13, 5:9] = True
    mask[11, 6] = False  # a hole: not in the area
    assert largest_region(mask) == Region(x=5, y=10, width=4, height=3, area=11)


def test_pixels_that_touch_at_a_corner_are_one_region():
    assert largest_region(torch.eye(4) > 0) == Region(0, 0, 4, 4, 4)


def test_an_empty_mask_has_none():
    assert largest_region(torch.zeros(3, 3, dtype=torch.bool)) is None
