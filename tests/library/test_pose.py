"""Facts about the poses of parts: invariance, inverse, and the three cases."""

import functools
import math

import pytest
import torch

from ebmlib.data import synthetic
from ebmlib.detector import EnergyDetector
from ebmlib.recipes import Experts
from ebmlib.view.pose import (
    PartFrame,
    choose_layout,
    explained_by_position,
    without_shading,
)


@functools.cache
def make(name: str):
    return synthetic.make(name, size=96, n_train=24, n_test=1, n_defective=1)


@functools.cache
def layout_of(name: str):
    return choose_layout(make(name).train)


@pytest.fixture(scope="module")
def bolts():
    return make("bolt")


@pytest.fixture(scope="module")
def frame(bolts):
    return PartFrame.fit(bolts.train)


def test_the_explained_share_is_one_for_copies_and_zero_for_noise():
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 16, 16, generator=g)
    assert explained_by_position(image.expand(8, -1, -1, -1)) == pytest.approx(1)
    noise = torch.rand(400, 1, 16, 16, generator=g)
    assert abs(explained_by_position(noise)) < 0.01
    # Half of the variance is the position's, up to the scaling of each image.
    half = image[:, :1] + torch.rand(400, 1, 16, 16, generator=g)
    signal, grain = image[:, :1].var(), 1 / 12
    expected = float(signal / (signal + grain))
    assert explained_by_position(half) == pytest.approx(expected, abs=0.03)
    with pytest.raises(ValueError, match="at least two images"):
        explained_by_position(noise[:1])


def test_exposure_does_not_change_the_explained_share(bolts):
    changed = (
        bolts.train * torch.linspace(0.6, 1, len(bolts.train))[:, None, None, None]
    )
    first, second = map(explained_by_position, (bolts.train, changed))
    assert first == pytest.approx(second, abs=1e-3)


@pytest.mark.parametrize("name", ["nut", "bolt", "weave"])
def test_light_that_all_images_share_is_no_position(name):
    images, row = make(name).train, torch.linspace(-1, 1, 96)
    usual = layout_of(name)
    vignette = 1 - 0.1 * (row[:, None] ** 2 + row**2)
    for light in (1 - 0.15 * (row + 1), vignette):
        layout = choose_layout(images * light)
        assert layout.explained == pytest.approx(usual.explained, abs=0.03)
        assert layout.aligned == usual.aligned
        assert (layout.frame is None) == (usual.frame is None)


def test_shading_is_what_a_quadratic_surface_can_say():
    right = torch.linspace(0, 1, 24)
    down = right[:, None]
    surface = 0.2 + 0.3 * down - 0.5 * right
    surface = surface + 0.7 * down**2 + right * down - right**2
    assert without_shading(surface.expand(2, 3, 24, 24)).abs().max() < 1e-5
    grain = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    rest = without_shading(grain)
    assert torch.allclose(without_shading(grain + surface), rest, atol=1e-5)
    assert torch.allclose(without_shading(rest), rest, atol=1e-5)
    assert rest.mean((2, 3)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "aligned", "framed"),
    [("nut", True, False), ("bolt", True, True), ("weave", False, False)],
)
def test_the_three_cases_are_told_from_training_images(name, aligned, framed):
    layout = layout_of(name)
    assert (layout.aligned, layout.frame is not None) == (aligned, framed)
    if framed:
        assert layout.explained_in_frame > layout.explained + 0.3


def test_a_turned_image_gives_the_same_aligned_part(bolts, frame):
    images = bolts.train[:8]
    straight = frame.align(images, frame.pose(images))
    for quarters in (1, 2, 3):  # exact rotations, no resampling
        turned = torch.rot90(images, quarters, dims=(2, 3))
        again = frame.align(turned, frame.pose(turned))
        assert (again - straight).abs().mean() < 0.01
        assert (again - straight).abs().max() < 0.35  # bilinear, at an edge


def test_parts_point_the_same_way(bolts, frame):
    straight = frame.align(bolts.train, frame.pose(bolts.train)).mean(1)
    ground = straight.flatten(1).median(1).values[:, None, None]
    part = (straight - ground).abs() > 0.15  # (N, h, w)
    left, *_, right = part.chunk(5, dim=2)
    rows_left, rows_right = left.any(2).sum(1), right.any(2).sum(1)
    assert (rows_left > rows_right).all() or (rows_left < rows_right).all()


def test_a_part_of_even_shape_is_told_from_its_mirror_image_by_its_gray():
    """Its outline says nothing of the way round; the mean part does."""
    part = torch.full((1, 3, 96, 96), 0.2)
    part[..., 40:56, 20:48], part[..., 40:56, 48:76] = 0.5, 0.9
    other = torch.rot90(part, 2, dims=(2, 3))
    images = torch.cat([part, part, part, other])
    frame = PartFrame.fit(images)
    straight = frame.align(images, frame.pose(images))
    assert (straight[0] - straight[3]).abs().mean() < 0.02


def test_the_inverse_undoes_the_alignment(bolts, frame):
    images = bolts.train[:6]
    poses = frame.pose(images)
    row = torch.linspace(-1, 1, 96)
    maps = torch.sin(2 * row)[:, None] * torch.cos(row)  # smooth, so bilinear is exact
    maps = maps.expand(6, -1, -1)
    straight = frame.align(maps[:, None], poses)[:, 0]
    back = frame.inverse(straight, poses, (96, 96), outside=math.nan)
    inside = torch.isfinite(back)
    assert 0.2 < inside.float().mean() < 0.7
    part = frame.inverse(torch.ones_like(straight), poses, (96, 96), outside=0.0)
    assert torch.equal(part > 0, inside)
    deep = -torch.nn.functional.max_pool2d(-part[:, None], 5, 1, 2)[:, 0] > 0
    assert (back - maps)[deep].abs().max() < 0.02


def test_an_image_without_a_part_is_looked_at_in_the_middle(frame):
    poses = frame.pose(torch.full((2, 3, 96, 96), 0.7))
    assert torch.equal(poses[:, :2], torch.full((2, 2), 47.5))
    straight = frame.align(torch.full((2, 3, 96, 96), 0.7), poses)
    assert torch.allclose(straight, torch.full_like(straight, 0.7))


def test_a_template_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="template"):
        PartFrame(torch.zeros(3, 16, 16))


def test_the_detector_rotates_parts_and_maps_back(bolts, tmp_path):
    detector = EnergyDetector(Experts(steps=2, width=4), 96, holdout=0.2, device="cpu")
    with pytest.warns(UserWarning, match="held-out"):
        detector.fit(bolts.train)
    view = detector.pipeline_.view
    assert view.aligned_ is True and isinstance(view.frame_, PartFrame)
    detector.save(tmp_path / "bolt.safetensors")
    loaded = EnergyDetector.load(tmp_path / "bolt.safetensors", device="cpu")
    images = bolts.test
    assert torch.equal(loaded.anomaly_map(images), detector.anomaly_map(images))
    assert torch.equal(loaded.anomaly_score(images), detector.anomaly_score(images))
    # A turned photograph of the same part: the same energies, and a turned map.
    turned = torch.rot90(images, 1, dims=(2, 3))
    before, after = detector.energy_score(images), detector.energy_score(turned)
    assert torch.allclose(before, after, rtol=0.02)
    maps, again = detector.anomaly_map(images), detector.anomaly_map(turned)
    spread = maps.std()
    assert (torch.rot90(maps, 1, dims=(1, 2)) - again).abs().mean() < 0.2 * spread


def test_aligned_is_true_false_or_auto():
    with pytest.raises(ValueError, match="aligned"):
        EnergyDetector(aligned="maybe")
