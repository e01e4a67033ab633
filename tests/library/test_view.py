"""Facts about views: maps are in place at every size, and a view is fitted anew."""

import itertools
import json
import logging
import math

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from ebmlib.data.resizing import resize_area
from ebmlib.estimator import NotFittedError
from ebmlib.view import Seen, View
from ebmlib.view.exposure import Exposure, MatchedExposure
from ebmlib.view.geometry import area_resize, block_mean, view_size
from ebmlib.view.pose import PartFrame
from ebmlib.view.registration import Registration
from ebmlib.view.tiling import Tiling

SIZES = [
    *((n, n) for n in (64, 72, 96, 100, 128, 150, 200, 250, 256, 300, 333)),
    *((n, n) for n in (400, 448, 500, 512, 600)),
    *((300, 500), (500, 120), (64, 600), (90, 128)),
]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def shifted_scenes(n: int, height: int, width: int) -> torch.Tensor:
    """One smooth random picture, `n` times, each a few px off: `(n, 3, H, W)`."""
    coarse = noise(1, 3, 10, 10)
    scene = interpolate(coarse, (height + 8, width + 8), mode="bicubic").clamp(0, 1)
    generator = torch.Generator().manual_seed(1)
    at = torch.randint(0, 9, (n, 2), generator=generator).tolist()
    cut = [scene[0, :, y : y + height, x : x + width] for y, x in at]
    return torch.stack(cut) + 0.01 * noise(n, 3, height, width, seed=2)


def bars(n: int, height: int, width: int) -> torch.Tensor:
    """A bar with one thick end in any direction on an even ground: `(n, 1, H, W)`."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    length = 0.6 * min(height, width)
    images = []
    for k in range(n):
        angle, place = 2 * math.pi * k / n, 3 * math.sin(k)
        right, down = x - width / 2 - place, y - height / 2 + place
        along = math.cos(angle) * right + math.sin(angle) * down
        across = math.cos(angle) * down - math.sin(angle) * right
        thick = torch.where(along < -length / 4, length / 6, length / 12)
        inside = (along.abs() < length / 2) & (across.abs() < thick)
        images.append(torch.where(inside, 0.2 + 0.3 * (along > 0), 0.8))
    return torch.stack(images)[:, None] + 0.01 * noise(n, 1, height, width)


def center_of_mass(maps: torch.Tensor) -> torch.Tensor:
    """Row and column of the center of mass of maps `(N, H, W)`: `(N, 2)`."""
    y, x = (torch.arange(n, dtype=torch.float32) for n in maps.shape[1:])
    mass = maps.sum((1, 2))
    rows, columns = maps.sum(2) @ y / mass, maps.sum(1) @ x / mass
    return torch.stack([rows, columns], dim=1)


def dots(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with one bright pixel each, `(N, 1, H, W)`, and its row and column."""
    shares = itertools.product((0.21, 0.5, 0.63, 0.8), repeat=2)
    at = torch.tensor([(int(a * height), int(b * width)) for a, b in shares])
    images = torch.zeros(len(at), 1, height, width)
    images[torch.arange(len(at)), 0, at[:, 0], at[:, 1]] = 1
    return images, at


def plain(height: int, width: int, **options) -> View:
    """A view that only changes the size."""
    options = {"aligned": False, "normalize_exposure": False, **options}
    return View(**options).fit(torch.zeros(1, 1, height, width))


# ------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("size", SIZES)
def test_a_dot_comes_back_to_its_place(size):
    """Within half a pixel of the view; a map of patches within half a patch."""
    images, at = dots(*size)
    view = plain(*size)
    seen = view(images).images
    height, width = view.size_
    assert height % 16 == width % 16 == 0 and height * width <= 2**15
    scale = torch.tensor(view.scale_)
    back = view.inverse(seen[:, 0])
    assert back.shape == (len(at), *size)
    assert ((center_of_mass(back) - at).abs() < 0.5 * scale).all()
    finer = interpolate(seen, scale_factor=2, mode="bilinear")[:, 0]
    assert ((center_of_mass(view.inverse(finer)) - at).abs() < 0.5 * scale).all()
    patches = avg_pool2d(seen, 8)[:, 0]
    assert ((center_of_mass(view.inverse(patches)) - at).abs() < 4 * scale).all()


@pytest.mark.parametrize("size", [(96, 96), (150, 150), (200, 320)])
def test_maps_come_back_at_the_size_of_the_photograph_too(size):
    images, at = dots(*size)
    view = plain(*size)
    large = [3 * side for side in size]
    back = view.inverse(view(images).images[:, 0], size=large)
    assert back.shape[1:] == tuple(large)
    place = (center_of_mass(back) + 0.5) / 3 - 0.5
    assert ((place - at).abs() < 0.5 * torch.tensor(view.scale_)).all()


@pytest.mark.parametrize("size", [(96, 96), (150, 150), (200, 300)])
def test_a_dot_comes_back_through_a_registration(size):
    scenes = shifted_scenes(16, *size)
    view = View(aligned=True, normalize_exposure=False).fit(scenes)
    assert isinstance(view.frame_, Registration) and view.frame_.max_shift > 2
    poses = view(scenes).poses
    images, at = dots(*size)
    seen = area_resize(view.frame_.align(images, poses), view.size_)
    gap = center_of_mass(view.inverse(seen[:, 0], poses)) - at
    assert gap.abs().max() < 1
    large = view.inverse(seen[:, 0], poses, size=[2 * side for side in size])
    assert ((center_of_mass(large) + 0.5) / 2 - 0.5 - at).abs().max() < 1


@pytest.mark.parametrize("size", [(96, 96), (150, 150), (200, 300)])
def test_a_dot_comes_back_through_a_part_frame(size):
    parts = bars(16, *size)
    view = View(normalize_exposure=False).fit(parts)
    assert isinstance(view.frame_, PartFrame) and view.aligned_
    poses = view(parts).poses
    at = poses[:, [1, 0]].round().long() + torch.tensor([2, -3])  # on the bar
    images = torch.zeros(16, 1, *size)
    images[torch.arange(16), 0, at[:, 0], at[:, 1]] = 1
    seen = area_resize(view.frame_.align(images, poses), view.size_)
    gap = center_of_mass(view.inverse(seen[:, 0], poses)) - at
    assert gap.abs().max() < 1
    ones = torch.ones(16, *view.size_)
    back = view.inverse(ones, poses, outside=-1.0)
    outside = back.eq(-1)
    assert outside[:, 0, 0].all() and not outside[torch.arange(16), *at.T].any()
    assert torch.allclose(back[~outside], torch.ones(1))


def test_sizes_that_fit_pass_untouched_and_256_px_are_halved():
    for size in ((64, 64), (128, 128), (48, 80), (16, 16), (176, 176)):
        images = noise(2, 3, *size)
        view = View(aligned=False, normalize_exposure=False).fit(images)
        assert view.size_ == size and view.scale_ == (1.0, 1.0)
        assert torch.equal(view(images).images, images)
    images = noise(2, 3, 256, 256)
    view = View(aligned=False, normalize_exposure=False).fit(images)
    expected = interpolate(images, (128, 128), mode="area")
    assert view.size_ == (128, 128)
    assert (view(images).images - expected).abs().max() < 1e-6


def test_every_size_has_a_view_of_the_right_shape():
    sides = (8, 15, 16, 17, 24, 40, 63, 100, 181, 182, 255, 256, 300, 512, 777, 4000)
    for most in (256, 2**12, 2**15):
        for size in itertools.product(sides, repeat=2):
            h, w = view_size(size, most)
            assert h % 16 == w % 16 == 0 and min(h, w) >= 16 and h * w <= most
            scale = min(1, math.sqrt(most / math.prod(size)))
            if min(size) * scale >= 32:  # nearly the shape and pixels of the image
                for new, old in zip((h, w), size, strict=True):
                    assert 0.65 < new / (scale * old) < 1.35
            if h * w * 4 < min(most, math.prod(size)):  # nothing is thrown away
                assert min(size) * scale < 32


@pytest.mark.parametrize(
    ("old", "new"),
    [((30, 20), (16, 16)), ((100, 90), (96, 80)), ((9, 12), (16, 32)), ((64, 48),) * 2],
)
def test_averaging_by_area_is_that_of_the_image_reader(old, new):
    images = noise(2, 3, *old)
    found = area_resize(images, new)
    for image, small in zip(images, found, strict=True):
        expected = resize_area(image.permute(1, 2, 0).numpy(), new)
        assert (small.permute(1, 2, 0) - torch.from_numpy(expected)).abs().max() < 1e-5
    assert torch.allclose(found.mean((2, 3)), images.mean((2, 3)), atol=1e-5)


@pytest.mark.parametrize("block", [(1, 1), (2, 2), (3, 5)])
def test_block_means_are_those_of_pooling(block):
    x = noise(2, 3, 17, 22)
    assert torch.allclose(block_mean(x, *block), avg_pool2d(x, block), atol=1e-6)


# ---------------------------------------------------------------------------- tiles


@pytest.mark.parametrize("size", [(64, 64), (100, 150), (64, 333), (97, 64)])
def test_tiles_cover_the_image_with_overlap_and_join_to_it(size):
    tiling = Tiling(size, (64, 64))
    for offsets, side in zip(tiling.offsets, size, strict=True):
        assert offsets[0] == 0 and offsets[-1] == side - 64
        gaps = [b - a for a, b in itertools.pairwise(offsets)]
        assert all(0 < gap <= 48 for gap in gaps)
    images = noise(3, 1, *size)
    tiles = tiling.cut(images)
    assert tiles.shape == (3 * len(tiling), 1, 64, 64)
    maps = tiles[:, 0].unflatten(0, (3, len(tiling)))
    assert (tiling.join(maps) - images[:, 0]).abs().max() < 1e-6
    assert (tiling.join(torch.ones_like(maps)) - 1).abs().max() < 1e-6
    coarse = torch.ones(3, len(tiling), 8, 8)  # one value a patch
    assert (tiling.join(coarse) - 1).abs().max() < 1e-6


def test_weights_of_tiles_fall_smoothly_to_zero_at_their_edges():
    """A step between two tiles becomes a slope: no seam is left in the map."""
    tiling = Tiling((64, 160), (64, 64))
    maps = torch.arange(len(tiling)).float()[None, :, None, None].expand(1, -1, 64, 64)
    joined = tiling.join(maps)[0, 32]
    assert joined.diff().abs().max() < 0.15 and (joined.diff() >= -1e-6).all()


def test_a_view_of_tiles_keeps_every_pixel_and_joins_maps_in_place():
    size = (100, 150)
    images, at = dots(*size)
    view = View(tile=(48, 64), normalize_exposure=False).fit(images)
    assert view.aligned_ is False and view.layout_ is None and view.frame_ is None
    assert view.size_ == (48, 64) and view.scale_ == (1.0, 1.0)
    seen = view(images)
    assert seen.images.shape == (len(at) * view.tiles_, 1, 48, 64)
    assert (view.inverse(seen.images[:, 0]) - images[:, 0]).abs().max() < 1e-6
    patches = avg_pool2d(seen.images, 8)[:, 0]
    assert (center_of_mass(view.inverse(patches)) - at).abs().max() < 4
    with pytest.raises(ValueError, match="whole images"):
        view.inverse(seen.images[:-1, 0])


def test_tiles_are_cut_from_registered_images_if_position_counts():
    scenes = shifted_scenes(8, 96, 96)
    whole = View(aligned=True).fit(scenes)
    view = View(aligned=True, tile=64).fit(scenes)
    assert isinstance(view.frame_, Registration) and view.tiles_ == 4
    seen = view(scenes)
    tiles = seen.images.unflatten(0, (8, 4))
    assert torch.equal(tiles[:, 0], whole(scenes).images[:, :, :64, :64])
    maps = view.inverse(torch.ones(32, 8, 8), seen.poses)
    assert torch.allclose(maps, torch.ones(8, 96, 96))


def test_a_tile_must_fit():
    with pytest.raises(ValueError, match="larger than what it is cut from"):
        View(tile=64).fit(noise(4, 3, 48, 96))


# ------------------------------------------------------------------- fitting, state


# ------------------------------------------------------------------------ doubled


@pytest.mark.parametrize("size", [(32, 32), (64, 90), (100, 72), (128, 128)])
def test_a_dot_comes_back_to_its_place_through_a_doubled_view(size):
    """Within half a pixel of the image; a map of patches within half a patch."""
    images, at = dots(*size)
    view = plain(*size, double_below=2**14, max_pixels=2**16)
    assert view.doubled_
    seen = view(images).images
    height, width = view.size_
    assert seen.shape[2:] == (height, width) and height % 32 == width % 32 == 0
    assert view.scale_ == (size[0] / height, size[1] / width)
    assert max(view.scale_) < 0.7
    back = view.inverse(seen[:, 0])
    assert back.shape == (len(at), *size)
    assert ((center_of_mass(back) - at).abs() < 0.5).all()
    patches = avg_pool2d(seen, 8)[:, 0]
    gap = (center_of_mass(view.inverse(patches)) - at).abs()
    assert (gap < 4 * torch.tensor(view.scale_)).all()


def test_a_dot_comes_back_through_a_doubled_registration():
    scenes = shifted_scenes(16, 64, 80)
    view = View(
        aligned=True, normalize_exposure=False, max_pixels=2**16, double_below=2**14
    ).fit(scenes)
    assert isinstance(view.frame_, Registration) and view.doubled_
    poses = view(scenes).poses
    images, at = dots(64, 80)
    seen = interpolate(view.frame_.align(images, poses), scale_factor=2)
    assert tuple(seen.shape[2:]) == view.size_
    gap = center_of_mass(view.inverse(seen[:, 0], poses)) - at
    assert gap.abs().max() < 1


def test_a_doubled_view_is_the_plain_one_enlarged_and_keeps_its_range():
    view = plain(48, 64, double_below=2**12).fit(noise(3, 3, 48, 64))
    seen = view(noise(3, 3, 48, 64)).images
    assert float(seen.min()) >= 0 and float(seen.max()) <= 1
    smooth = interpolate(noise(3, 3, 7, 9), (48, 64), mode="bilinear")
    assert (avg_pool2d(view(smooth).images, 2) - smooth).abs().mean() < 0.005
    flat = torch.full((1, 3, 48, 64), 0.3)
    assert torch.allclose(view(flat).images, torch.full((1, 3, 96, 128), 0.3))


def test_views_are_doubled_up_to_the_number_of_pixels_that_was_given():
    for size, below, doubled in (
        ((64, 64), 2**12, True),
        ((64, 64), 2**12 - 1, False),
        ((64, 80), 2**12, False),
        ((64, 64), 0, False),
        ((256, 256), 2**13, False),  # averaged to 128 x 128 px first
    ):
        view = plain(*size, double_below=below)
        assert view.doubled_ is doubled
        assert view.size_[0] * view.size_[1] <= view.max_pixels
    tiled = plain(64, 64, double_below=2**12, tile=32)
    assert not tiled.doubled_ and tiled.size_ == (32, 32)


def test_exposure_is_that_of_doubled_views():
    images = shifted_scenes(12, 48, 64)
    for aligned in (True, False):
        view = View(aligned=aligned, double_below=2**12).fit(images)
        seen = view(images)
        assert seen.images.shape[2:] == view.size_ and view.doubled_
        darker = view(0.9 * images)
        assert (darker.images - seen.images).abs().mean() < 0.02


def test_the_state_of_a_doubled_view_is_exact_and_an_older_one_is_not_doubled():
    images = shifted_scenes(12, 48, 64)
    view = View(aligned=True, double_below=2**12).fit(images)
    config = json.loads(json.dumps(view.config()))
    assert config["doubled"] is True and config["parameters"]["double_below"] == 2**12
    loaded = View.from_state(config, view.state_dict())
    assert loaded.doubled_ and loaded.scale_ == view.scale_
    assert loaded.config() == view.config() and repr(loaded) == repr(view)
    seen, again = view(images), loaded(images)
    assert torch.equal(seen.images, again.images)
    maps = seen.images.mean(1)
    assert torch.equal(
        view.inverse(maps, seen.poses), loaded.inverse(maps, again.poses)
    )
    view = View(aligned=True).fit(images)
    config = view.config()
    del config["doubled"], config["parameters"]["double_below"]
    older = View.from_state(config, view.state_dict())
    assert not older.doubled_ and torch.equal(older(images).images, view(images).images)


def fitted_three() -> list[tuple[View, torch.Tensor]]:
    """A registered, a rotated and an unframed view, and images for each."""
    kinds = []
    for images in (shifted_scenes(12, 80, 64), bars(12, 64, 64), noise(12, 3, 40, 40)):
        kinds.append((View().fit(images), images[:5]))
    return kinds


@pytest.fixture(scope="module")
def three():
    return fitted_three()


def test_the_three_layouts_are_found(three):
    frames = [type(view.frame_) for view, _ in three]
    assert frames == [Registration, PartFrame, type(None)]
    assert [view.aligned_ for view, _ in three] == [True, True, False]
    exposures = [type(view.exposure_) for view, _ in three]
    assert exposures == [MatchedExposure, Exposure, Exposure]


def test_fitting_again_equals_a_new_view_bit_for_bit(three):
    used = View()
    for _, images in three:
        used.fit(images)
        fresh = View().fit(images)
        assert used.config() == fresh.config()
        assert used.state_dict().keys() == fresh.state_dict().keys()
        for name, tensor in fresh.state_dict().items():
            assert torch.equal(used.state_dict()[name], tensor)
        assert torch.equal(used(images).images, fresh(images).images)
        assert used.get_params() == View().get_params()  # what was given stays


def test_a_fit_that_fails_leaves_the_view_as_it_was(three, monkeypatch):
    images = three[0][1]
    view = View(aligned=True).fit(images)
    before = dict(vars(view))
    monkeypatch.setattr(MatchedExposure, "fit", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        view.fit(images.flip(3))
    assert vars(view) == before
    new = View(aligned=True)
    with pytest.raises(ZeroDivisionError):
        new.fit(images)
    assert vars(new) == vars(View(aligned=True))
    with pytest.raises(NotFittedError):
        new(images)


def test_state_goes_through_json_and_tensors_exactly(three):
    tiled = View(tile=(32, 48), max_pixels=2**12).fit(noise(3, 1, 50, 64))
    for view, images in [*three, (tiled, noise(3, 1, 50, 64))]:
        config = json.loads(json.dumps(view.config()))
        loaded = View.from_state(config, view.state_dict())
        assert loaded.config() == view.config() and repr(loaded) == repr(view)
        seen, again = view(images), loaded(images)
        assert torch.equal(seen.images, again.images)
        maps = seen.images.mean(1)
        first = view.inverse(maps, seen.poses)
        assert torch.equal(first, loaded.inverse(maps, again.poses))
        if view.layout_ is not None:
            assert loaded.layout_.explained == view.layout_.explained
            assert (loaded.layout_.frame is None) == (view.layout_.frame is None)


@pytest.mark.parametrize(
    "change",
    [
        {"frame": {"kind": "Other"}},
        {"frame": {"kind": "Registration"}},
        {"exposure": {"kind": "Exposure"}},
        {"parameters": None},
        {"parameters": {"tile": 7}},
        {"image_shape": [3, 4]},
        {"size": None},
        {"layout": [1, 2, 3]},
    ],
)
def test_a_damaged_state_is_refused(three, change):
    view, _ = three[0]
    with pytest.raises(ValueError, match="not the state of a View"):
        View.from_state(view.config() | change, view.state_dict())
    with pytest.raises(ValueError, match="not the state of a View"):
        View.from_state(view.config(), {})


def test_an_unfitted_view_says_so():
    view = View()
    for call in (
        lambda: view(noise(1, 3, 16, 16)),
        lambda: view.inverse(noise(1, 16, 16)),
        view.config,
        view.state_dict,
    ):
        with pytest.raises(NotFittedError, match="call fit"):
            call()


def test_other_parameters_wait_for_the_next_fit():
    images = noise(4, 3, 48, 48)
    view = View(tile=32, aligned=False).fit(images)
    before, config = view(images).images, view.config()
    view.set_params(tile=None, max_pixels=256)
    assert torch.equal(view(images).images, before)
    loaded = View.from_state(view.config(), view.state_dict())
    assert torch.equal(loaded(images).images, before)
    assert view.fit(images).size_ == (16, 16) and config["size"] == [32, 32]


def test_it_prints_what_was_given():
    assert repr(View()) == "View()"
    text = "View(aligned=False, max_pixels=16384, tile=(64, 128))"
    assert repr(View(aligned=False, max_pixels=2**14, tile=(64, 128))) == text


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"aligned": "maybe"}, "aligned"),
        ({"aligned": None}, "aligned"),
        ({"register": "yes"}, "register"),
        ({"normalize_exposure": 1}, "normalize_exposure"),
        ({"max_pixels": 255}, "max_pixels"),
        ({"max_pixels": 1e4}, "max_pixels"),
        ({"double_below": -1}, "from 0 to a quarter of max_pixels, 8192; got -1"),
        ({"double_below": 2**13 + 1}, "from 0 to a quarter"),
        ({"double_below": 100, "max_pixels": 256}, "max_pixels, 64; got 100"),
        ({"double_below": 64.0}, "double_below must be a whole number"),
        ({"double_below": True}, "double_below must be a whole number"),
        ({"tile": 100}, "multiples of 16"),
        ({"tile": 0}, "multiples of 16"),
        ({"tile": (32, 32, 32)}, "multiples of 16"),
        ({"tile": 64.0}, "multiples of 16"),
        ({"tile": 192}, "max_pixels"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, match):
    with pytest.raises(ValueError, match=match):
        View(**options)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.zeros(4, 3, 16), "N, C, H, W"),
        (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), "uint8"),
        (torch.zeros(0, 3, 16, 16), "N, C, H, W"),
        (torch.zeros(4, 3, 4, 64), "at least 8 px"),
        (torch.zeros(1, 3, 16, 16), "at least two images"),
    ],
)
def test_wrong_training_images_are_refused(images, match):
    with pytest.raises(ValueError, match=match):
        View().fit(images)


def test_other_shapes_than_those_of_fit_are_refused(three):
    view, images = three[0]
    with pytest.raises(ValueError, match=r"fitted to images \(N, 3, 80, 64\)"):
        view(images[..., 1:])
    seen = view(images)
    with pytest.raises(ValueError, match="sides that divide"):
        view.inverse(torch.zeros(5, 7, 8), seen.poses)
    with pytest.raises(ValueError, match="needs the poses"):
        view.inverse(torch.zeros(5, 10, 8))
    with pytest.raises(ValueError, match="do not fit 5 poses"):
        view.inverse(torch.zeros(4, 10, 8), seen.poses)
    unframed, others = three[2]
    with pytest.raises(ValueError, match="needs no poses"):
        unframed.inverse(unframed(others).images[:, 0], seen.poses)


def test_the_log_says_when_the_view_has_fewer_pixels(caplog):
    with caplog.at_level(logging.INFO, logger="ebmlib"):
        plain(128, 128)
        plain(256, 256, tile=128)
        assert not caplog.records
        assert plain(300, 300).scale_ == (300 / 176, 300 / 176)
    assert "300 x 300 px averaged to 176 x 176 px" in caplog.text


# ------------------------------------------------------- batches, devices, memory


def test_one_image_is_seen_as_in_a_batch(three):
    tiled = View(tile=32, aligned=True).fit(shifted_scenes(8, 50, 66))
    for view, images in [*three, (tiled, shifted_scenes(5, 50, 66))]:
        seen = view(images)
        alone = [view(image[None]) for image in images]
        singles = torch.cat([one.images for one in alone])
        assert (singles - seen.images).abs().max() < 1e-6
        maps = seen.images.mean(1)
        back = view.inverse(maps, seen.poses)
        parts = [
            view.inverse(part, one.poses)
            for part, one in zip(maps.split(view.tiles_), alone, strict=True)
        ]
        assert (torch.cat(parts) - back).abs().max() < 1e-6


def test_many_images_are_seen_as_a_few_at_a_time(three):
    for view, images in three:
        many = images.repeat(14, 1, 1, 1)  # 70: more than a chunk, and not a multiple
        seen, few = view(many), view(images)
        assert torch.equal(seen.images[-5:], few.images)
        back = view.inverse(seen.images[:, 0], seen.poses)
        assert torch.equal(back[-5:], view.inverse(few.images[:, 0], few.poses))


def test_it_works_where_nothing_is_differentiated(three):
    for view, images in three:
        expected = view(images)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                seen = view(images)
                back = view.inverse(seen.images[:, 0], seen.poses)
            assert torch.equal(seen.images, expected.images)
            assert back.shape == (5, *images.shape[2:])
        with torch.inference_mode():
            inside = View().fit(images)
        assert inside.config() == View().fit(images).config()
        assert torch.equal(view(images.requires_grad_()).images, expected.images)
        assert not view(images).images.requires_grad
        images.requires_grad_(False)


def test_views_are_made_where_the_images_lie(three, second_device):
    """Fitted here, used there: the same numbers, and no wait but for regions."""
    tiled = View(tile=32, aligned=True).fit(shifted_scenes(8, 50, 66))
    second_device.float64 = False
    for view, images in [*three, (tiled, shifted_scenes(5, 50, 66))]:
        expected = view(images)
        back = view.inverse(expected.images[:, 0], expected.poses)
        second_device.reads = 0
        seen = view(second_device(images))
        maps = view.inverse(seen.images[:, 0], seen.poses)
        assert second_device.reads <= 3 * isinstance(view.frame_, PartFrame)
        assert isinstance(seen, Seen)
        assert seen.images.device == maps.device == second_device.device
        assert torch.allclose(seen.images.cpu(), expected.images, atol=1e-5)
        assert torch.allclose(maps.cpu(), back, atol=1e-5)


def test_a_view_is_fitted_on_a_device_without_float64_too(three, second_device):
    second_device.float64 = False
    for _, images in three:
        there, here = View().fit(second_device(images)), View().fit(images)
        a, b = there(images), here(images)  # and used here
        assert a.images.device.type == "cpu" and type(there.frame_) is type(here.frame_)
        assert torch.allclose(a.images, b.images, atol=1e-4)
        for tensor in there.state_dict().values():
            assert tensor.device == second_device.device


class Largest(TorchDispatchMode):
    """Notes the elements of every new tensor."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or PyTorch imports its compiler, which takes seconds

    def __init__(self):
        super().__init__()
        self.made: list[tuple[int, torch.dtype]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {
            x.untyped_storage().data_ptr()
            for x in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(x, torch.Tensor)
        }
        for x in torch.utils._pytree.tree_leaves(result):
            if not isinstance(x, torch.Tensor):
                continue
            if x.untyped_storage().data_ptr() not in known:
                self.made.append((x.numel(), x.dtype))
        return result


@pytest.mark.parametrize("make", [shifted_scenes, bars])
def test_fit_makes_one_tensor_of_the_size_of_the_training_set_at_most(make):
    """The views themselves; all else is made for a few images at a time."""
    images = make(160, 80, 80)
    with Largest() as mode:
        View().fit(images)
    large = [n for n, _ in mode.made if 3 * n > images.numel()]
    assert len(large) <= 1
    assert all(t != torch.float64 for n, t in mode.made if n > 1000)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_images_without_contrast_give_finite_views(three, level):
    for view, images in three:
        even = torch.full_like(images, level)
        seen = view(even)
        assert torch.isfinite(seen.images).all()
        if isinstance(view.frame_, Registration):  # it stays in its place
            middle = torch.tensor([31.5, 39.5, 0.0])
            assert torch.equal(seen.poses, middle.expand(5, 3))
        fitted = View(aligned=True).fit(even)
        assert torch.isfinite(fitted(images).images).all()
