"""Facts about cosine features: where their cells lie, and what they measure."""

import json

import numpy as np
import pytest
import torch
from scipy import fft

from ebmlib.energy import build_energy, energy_spec
from ebmlib.features import CosineFeatures, cosine_filters
from ebmlib.networks import PatchEnergy, opponent


def pictures(count, channels=3, size=(32, 40), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, *size, generator=generator)


def test_cosine_filters_are_the_discrete_cosine_transform():
    patch = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    filters = cosine_filters(8, 5)[:, 0]  # (25, 8, 8)
    ours = (filters * patch).sum((1, 2)).view(5, 5)
    theirs = fft.dctn(patch.numpy(), norm="ortho")[:5, :5]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    gram = filters.flatten(1) @ filters.flatten(1).T
    torch.testing.assert_close(gram, torch.eye(25), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(64, 80), (71, 83)])
@pytest.mark.parametrize(("stride", "side"), [(4, 10), (8, 20), (8, 8), (5, 7)])
def test_a_cell_is_centered_in_its_square_of_pixels(stride, side, size):
    # The mean of a ramp over a patch is the ramp at the center of the patch.
    rows = torch.arange(size[0])[:, None].expand(size).float()
    columns = torch.arange(size[1])[None].expand(size).float()
    features = CosineFeatures(1, stride, side, frequencies=1)
    means = features(torch.stack((rows, columns))[:, None])[:, 0] / side
    assert means.shape[1:] == features.grid(size) == tuple(n // stride for n in size)
    inside = slice(3, -3)  # further out, patches reach over the border
    for axis, mean in enumerate(means):
        centers = (torch.arange(mean.shape[axis]) + 0.5) * stride - 0.5
        found = mean[inside, inside].mean(1 - axis)
        assert torch.allclose(found, centers[inside], atol=1e-3)


@pytest.mark.parametrize("size", [(32, 40), (33, 47), (16, 16), (31, 100)])
@pytest.mark.parametrize("stride", [4, 8])
def test_the_grid_is_that_of_a_patch_energy_at_every_size(stride, size):
    x = pictures(1, size=size)
    with torch.no_grad():
        cells = PatchEnergy(3, width=8, stride=stride).energy_map(x)
    assert CosineFeatures(3, stride)(x).shape[2:] == cells.shape[1:]


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (30, 19)])
@pytest.mark.parametrize(("stride", "side"), [(4, 10), (3, 4), (8, 8)])
def test_patches_that_are_not_centered_start_in_the_corner_and_cover_the_image(
    stride, side, size
):
    x = pictures(1, 1, size)
    features = CosineFeatures(1, stride, side, frequencies=side, centered=False)
    found = features(x)
    assert found.shape[2:] == features.grid(size)
    first = fft.dctn(x[0, 0, :side, :side].numpy(), norm="ortho")
    np.testing.assert_allclose(found[0, :, 0, 0].view(side, side), first, atol=1e-4)
    for pixels, cells in zip(size, features.grid(size), strict=True):
        assert pixels <= (cells - 1) * stride + side < pixels + stride


def test_a_small_patch_has_no_more_coefficients_than_pixels():
    small = CosineFeatures(1, stride=4, side=4)
    assert small.config()["frequencies"] == 4
    assert small(pictures(1, 1)).shape[1] == small.count == 16


def test_colors_without_gain_keep_every_length():
    x = pictures(2)
    assert torch.allclose(opponent(x, gain=1).square().sum(1), x.square().sum(1))


@pytest.mark.parametrize("rotate", [True, False])
def test_all_coefficients_together_keep_the_length_of_every_patch(rotate):
    x = pictures(2, size=(16, 24))
    features = CosineFeatures(3, 4, 4, 4, opponent_colors=rotate)
    found = features(x).square().sum(1)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4)  # (B, C, h, w, 4, 4)
    assert torch.allclose(found, patches.square().sum((1, 4, 5)), rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rotate", [True, False])
def test_without_brightness_a_gray_offset_is_not_seen(channels, rotate):
    x = pictures(2, channels) / 2
    features = CosineFeatures(
        channels, opponent_colors=rotate, brightness=False, frequencies=3
    )
    assert features(x).shape[1] == features.count
    assert torch.allclose(features(x + 0.3), features(x), atol=1e-4)


def test_config_builds_a_twin():
    options = {"opponent_colors": False, "brightness": False, "centered": False}
    for features in (CosineFeatures(), CosineFeatures(1, 5, 9, 3, **options)):
        spec = json.loads(json.dumps(energy_spec(features)))
        twin = build_energy(**spec)
        x = pictures(1, features.channels)
        assert torch.equal(twin(x), features(x))
        assert twin.config() == features.config() and not twin.state_dict()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CosineFeatures(stride=8, side=7), "leave no gap.* 8 px; got 7"),
        (lambda: CosineFeatures(stride=8, side=11), "centered in a cell of 8 px"),
        (lambda: CosineFeatures(frequencies=0), "frequencies must be .* got 0"),
        (lambda: CosineFeatures(stride=0), "stride must be .* got 0"),
        (lambda: CosineFeatures(frequencies=1, brightness=False), ">= 2"),
        (lambda: CosineFeatures(3)(pictures(1, 1)), r"images \(B, 3, H, W\)"),
        (lambda: CosineFeatures(3)(pictures(1)[0]), r"images \(B, 3, H, W\)"),
        (lambda: CosineFeatures(3)(pictures(1, size=(7, 9))), "8 px a side.*7 x 9"),
    ],
)
def test_mistakes_get_a_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
