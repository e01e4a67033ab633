import pytest
import torch

from ebmlib.data.augmentation import Augment
from ebmlib.torchvision_import import torchvision_module


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def functional():
    try:
        return torchvision_module("transforms.v2.functional", "a test")
    except ImportError:
        pytest.skip("torchvision is not installed")


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 40, generator=seeded(5))


def test_seed_decides_and_input_stays(images):
    augment = Augment(flip=True, rotate=10, translate=0.1)
    before = images.clone()
    first = augment(images, seeded(1))
    assert torch.equal(first, augment(images, seeded(1)))
    assert not torch.equal(first, augment(images, seeded(2)))
    assert torch.equal(images, before)
    assert first.shape == images.shape and first.dtype == images.dtype
    assert first.min() >= 0 and first.max() <= 1


def test_no_change_is_the_identity(images):
    same = Augment(brightness=0, contrast=0)(images, seeded())
    assert torch.allclose(same, images, atol=1e-6)


def test_flips_are_the_exact_mirror_images(images):
    flipped = Augment(flip=True, brightness=0, contrast=0)
    seen = set()
    for seed in range(4):
        for before, after in zip(images, flipped(images, seeded(seed)), strict=True):
            mirrors = {
                "none": before,
                "left-right": before.flip(2),
                "top-bottom": before.flip(1),
                "both": before.flip(1, 2),
            }
            same = [
                k for k, m in mirrors.items() if torch.allclose(after, m, atol=1e-6)
            ]
            assert len(same) == 1
            seen.update(same)
    assert len(seen) == 4


def test_brightness_is_one_factor_per_image(images):
    dim = 0.5 * images  # far from 1, so nothing is clipped
    ratio = Augment(brightness=0.2, contrast=0)(dim, seeded()) / dim
    per_image = ratio.flatten(1)
    assert (per_image.std(1) < 1e-4).all()
    assert per_image.min() >= 0.8 and per_image.max() <= 1.2
    assert per_image.mean(1).std() > 0.01


@pytest.mark.parametrize("border", ["reflect", "edge"])
@pytest.mark.parametrize("rotate", [5, 45, 180])
def test_moving_brings_in_no_black_border(border, rotate):
    flat = torch.full((4, 1, 32, 32), 0.7)
    moved = Augment(
        rotate=rotate, translate=0.1, brightness=0, contrast=0, border=border
    )(flat, seeded())
    assert torch.allclose(moved, flat, atol=1e-4)


def test_gray_images_too():
    assert Augment(rotate=5)(torch.rand(2, 1, 32, 32), seeded()).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    "bad",
    [{"rotate": -1}, {"translate": 0.6}, {"brightness": 1}, {"border": "wrap"}],
)
def test_parameters_out_of_range(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Augment(**bad)


def test_wrong_shape(images):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        Augment()(images[0], seeded())


def parameters(seed, count):
    """Per image, in [-1, 1): angle, shift right and down, contrast, brightness."""
    draws = torch.rand(8, count, generator=seeded(seed))
    return (2 * draws[3:] - 1).T.tolist()


@pytest.mark.parametrize("size", [(48, 48), (40, 56)])
def test_geometry_agrees_with_torchvision(functional, size):
    """Where no border is in reach: torchvision fills what lies outside with zeros."""
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    wave = 0.5 + 0.4 * torch.sin(rows / 4) * torch.cos(columns / 5)
    images = torch.stack([wave, wave.flip(0), 0.3 + 0.5 * wave]).repeat(5, 1, 1, 1)
    augment = Augment(rotate=30, translate=0.05, brightness=0, contrast=0)
    middle = (..., *(slice(side // 2 - 8, side // 2 + 8) for side in size))
    for image, ours, (angle, right, down, _, _) in zip(
        images, augment(images, seeded(3)), parameters(3, 5), strict=True
    ):
        moved = functional.affine(
            image,
            angle=30 * angle,
            translate=[0.05 * right * size[1], 0.05 * down * size[0]],
            scale=1.0,
            shear=[0.0, 0.0],
            interpolation=functional.InterpolationMode.BILINEAR,
        )
        # torchvision shifts by whole pixels of a rounded center: half a pixel at most
        assert (ours - moved)[middle].abs().max() < 0.06
        assert (ours - image)[middle].abs().max() > 0.1


def test_light_agrees_with_torchvision(functional, images):
    ours = Augment(brightness=0.2, contrast=0.3)(images, seeded(4))
    for image, changed, (*_, contrast, light) in zip(
        images, ours, parameters(4, len(images)), strict=True
    ):
        theirs = functional.adjust_contrast(image, 1 + 0.3 * contrast)
        theirs = functional.adjust_brightness(theirs, 1 + 0.2 * light)
        assert torch.allclose(changed, theirs, atol=2e-4)  # 0.2989 or 0.299 R


def test_kept_images_stay_exactly_as_they_are(images):
    many = images.repeat(50, 1, 1, 1)
    same = Augment(rotate=9, keep=0.4)(many, seeded()).eq(many).flatten(1).all(1)
    assert 0.3 < same.float().mean() < 0.5
    assert torch.equal(Augment(rotate=9, keep=1.0)(many, seeded()), many)


@pytest.mark.parametrize("keep", [0.0, 0.4])
def test_a_second_device_gets_the_same_changes(images, keep, second_device):
    augment = Augment(flip=True, rotate=9, translate=0.05, keep=keep)
    expected = augment(images, seeded(3))
    there = second_device(images)
    second_device.reads = 0
    found = augment(there, seeded(3))
    assert found.device == second_device.device
    assert second_device.reads == 0
    assert torch.allclose(found.cpu(), expected, atol=1e-6)


def test_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        Augment()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), seeded())
