"""Facts about registration: a known shift is found, and damage does not move it."""

import pytest
import torch
from torch.nn.functional import interpolate

from ebmlib.data import synthetic
from ebmlib.detector import EnergyDetector
from ebmlib.recipes import Contrast, Experts
from ebmlib.view import registration
from ebmlib.view.registration import Registration

SHIFTS = torch.tensor(
    [[0.0, 0.0], [1.5, -2.25], [-3.0, 0.5], [2.0, 3.0], [-0.5, -1.25]]
)


def scene(height: int = 64, width: int = 64) -> torch.Tensor:
    """A smooth random picture `(1, 3, H, W)`."""
    g = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=g)
    return interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def shifted(image: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """The picture, moved right and down by the shifts: (x, y) in px."""
    frame = Registration(torch.zeros(image.shape[-2:]), 9)
    poses = frame._poses(-shifts)
    return frame.align(image.expand(len(shifts), -1, -1, -1), poses)


@pytest.fixture(scope="module")
def frame():
    return Registration(scene()[0].mean(0), 4)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (256, 256)])
def test_a_known_shift_is_found_to_a_tenth_of_a_pixel(shape):
    image, middle = scene(*shape), torch.tensor([shape[1] - 1, shape[0] - 1]) / 2
    shifts = SHIFTS * shape[0] / 64
    frame = Registration(image[0].mean(0), float(shifts.abs().max()))
    poses = frame.pose(shifted(image, shifts))
    assert (poses[:, :2] - middle - shifts).abs().max() < 0.1 * shape[0] / 64
    assert (poses[:, 2] == 0).all()


def test_light_does_not_move_it(frame):
    images = shifted(scene(), SHIFTS)
    poses = frame.pose(images)
    gain = torch.linspace(0.4, 0.8, 5)[:, None, None, None]
    assert torch.allclose(frame.pose(gain * images + 0.1), poses, atol=1e-3)


def test_damage_hardly_moves_it(frame):
    images = shifted(scene(), SHIFTS)
    damaged = images.clone()
    damaged[:, :, 20:36, 24:40] = 0.0  # a sixteenth of the image
    assert (frame.pose(damaged) - frame.pose(images)).abs().max() < 0.15


def test_an_image_that_lies_right_is_left_alone(frame):
    pose = frame._poses(torch.zeros(1, 2))
    assert torch.allclose(frame.align(scene(), pose), scene(), atol=1e-5)
    maps = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(frame.inverse(maps, pose, (64, 64), 0.0), maps, atol=1e-5)


def test_the_inverse_undoes_the_shift_and_covers_the_image(frame):
    poses = frame._poses(SHIFTS)
    maps = shifted(scene(), SHIFTS).mean(1)
    back = frame.inverse(
        frame.align(maps[:, None], poses)[:, 0], poses, (64, 64), float("nan")
    )
    assert torch.isfinite(back).all()
    assert (back - maps)[:, 4:-4, 4:-4].abs().max() < 0.03  # twice bilinear


def test_fitting_makes_the_parts_equal_and_knows_how_far_they_lay():
    images = shifted(scene(), SHIFTS)
    frame = Registration.fit(images)
    before = images.var(0).mean()
    after = frame.align(images, frame.pose(images))[:, :, 6:-6, 6:-6].var(0).mean()
    assert after < 0.02 * before
    centered = SHIFTS - SHIFTS.mean(0)
    assert frame.max_shift == pytest.approx(centered.abs().max().item(), abs=0.2)


def test_the_longest_shift_is_that_of_the_furthest_training_image(nuts):
    frame = Registration.fit(nuts.train)
    free = Registration(frame.template, 4.0)  # further than any of them
    furthest = (free.pose(nuts.train)[:, :2] - 31.5).abs().max()
    assert frame.max_shift == pytest.approx(furthest.item(), abs=0.02)
    assert torch.allclose(frame.pose(nuts.train), free.pose(nuts.train), atol=0.02)


def test_no_part_is_moved_further_than_normal_ones():
    frame = Registration(scene()[0].mean(0), 1.0)
    poses = frame.pose(shifted(scene(), torch.tensor([[5.0, -5.0]])))
    assert (poses[0, :2] - 31.5).abs().max() <= 1.0


def test_stripes_fix_one_axis_only():
    wave = torch.sin(torch.linspace(0, 12, 64)).expand(1, 1, 64, 64) / 2 + 0.5
    frame = Registration(wave[0, 0], 4)
    shift = frame.pose(shifted(wave, torch.tensor([[1.0, 3.0]])))[0, :2] - 31.5
    assert shift[0] == pytest.approx(1, abs=0.1) and abs(shift[1]) < 0.1


def test_an_even_image_stays_where_it_is(frame):
    poses = frame.pose(torch.full((2, 3, 64, 64), 0.4))
    assert torch.isfinite(poses).all() and (poses[:, :2] - 31.5).abs().max() <= 4


def test_an_image_without_contrast_is_not_shifted_at_all(frame):
    for level in (0.0, 0.4, 1.0):
        poses = frame.pose(torch.full((2, 3, 64, 64), level))
        assert torch.equal(poses, frame._poses(torch.zeros(2, 2)))
    blank = Registration.fit(torch.full((4, 3, 64, 64), 0.5))
    assert blank.max_shift == 0
    assert torch.isfinite(Registration(blank.template, 4).pose(scene())).all()


@pytest.mark.parametrize("shape", [(64, 64), (50, 77), (150, 131), (256, 256)])
def test_the_shift_is_a_fixed_point_of_the_plain_steps(shape, monkeypatch):
    """Few accelerated steps end where very many plain ones do."""
    images = shifted(scene(*shape), SHIFTS * min(shape) / 64)
    images = images + 0.05 * torch.rand(
        images.shape, generator=torch.Generator().manual_seed(3)
    )
    frame = Registration(scene(*shape)[0].mean(0), min(shape) / 16)
    few = frame.pose(images)
    monkeypatch.setattr(registration, "ROUNDS", 40)
    assert (frame.pose(images) - few).abs().max() < 2e-3 * min(shape) / 64


def test_a_registered_image_is_not_shifted_again(frame):
    images = shifted(scene(), SHIFTS)
    again = frame.pose(frame.align(images, frame.pose(images)))
    assert (again[:, :2] - 31.5).abs().max() < 0.05


def test_another_size_and_a_negative_shift_are_refused(frame):
    with pytest.raises(ValueError, match=r"registered to images of \(64, 64\) px"):
        frame.pose(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="max_shift must be >= 0"):
        Registration(torch.zeros(8, 8), -1)


@pytest.fixture(scope="module")
def nuts():
    return synthetic.make("nut", size=64, n_train=24, n_test=3, n_defective=5)


def fitted(data, **options) -> EnergyDetector:
    detector = EnergyDetector(
        Experts(steps=2, width=4), 64, holdout=0.2, device="cpu", **options
    )
    with pytest.warns(UserWarning, match="held-out"):
        return detector.fit(data.train)


@pytest.fixture(scope="module")
def unregistered(nuts):
    return fitted(nuts, register=False)


def test_the_experts_register_parts_that_lie_still_and_keep_it_in_their_file(
    nuts, unregistered, tmp_path
):
    detector = fitted(nuts)
    assert isinstance(detector.pipeline_.view.frame_, Registration)
    assert detector.pipeline_.view.frame_.max_shift > 0
    detector.save(tmp_path / "nut.safetensors")
    loaded = EnergyDetector.load(tmp_path / "nut.safetensors", device="cpu")
    assert loaded.settings() == detector.settings()
    assert torch.equal(loaded.anomaly_map(nuts.test), detector.anomaly_map(nuts.test))
    # A pixel further right: the same energy, and a map that follows.
    one = nuts.test[:1]
    moved = shifted(one, torch.tensor([[1.0, 0.0]]))
    gaps = [
        float((d.energy_score(moved) / d.energy_score(one) - 1).abs())
        for d in (detector, unregistered)
    ]
    assert gaps[0] < 0.1 * gaps[1]
    followed = detector.anomaly_map(moved)[:, 8:-8, 9:-7]
    assert torch.allclose(
        followed, detector.anomaly_map(one)[:, 8:-8, 8:-8], rtol=0.1, atol=0.05
    )


def test_registration_can_be_left_out_and_is_left_out_elsewhere(unregistered):
    assert unregistered.pipeline_.view.frame_ is None
    assert not Contrast.register
    weave = synthetic.make("weave", size=64, n_train=24, n_test=2, n_defective=5)
    assert fitted(weave).pipeline_.view.frame_ is None
