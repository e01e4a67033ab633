import importlib
import subprocess
import sys

import pytest
import torch

from ebmlib.data import _torchvision
from ebmlib.data.augmentation import Augment


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 40, generator=seeded(5))


@pytest.fixture
def torchvision():
    try:
        return _torchvision.torchvision_functional()
    except ImportError:
        pytest.skip("torchvision is not installed")


def test_seed_decides_and_input_stays(torchvision, images):
    augment = Augment(flip=True, rotate=10, translate=0.1)
    before = images.clone()
    first = augment(images, seeded(1))
    assert torch.equal(first, augment(images, seeded(1)))
    assert not torch.equal(first, augment(images, seeded(2)))
    assert torch.equal(images, before)
    assert first.shape == images.shape and first.dtype == images.dtype
    assert first.min() >= 0 and first.max() <= 1


def test_no_change_is_the_identity(torchvision, images):
    same = Augment(brightness=0, contrast=0)(images, seeded())
    assert torch.allclose(same, images, atol=1e-6)


def test_flips_are_the_exact_mirror_images(torchvision, images):
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


def test_brightness_is_one_factor_per_image(torchvision, images):
    dim = 0.5 * images  # far from 1, so nothing is clipped
    ratio = Augment(brightness=0.2, contrast=0)(dim, seeded()) / dim
    per_image = ratio.flatten(1)
    assert (per_image.std(1) < 1e-4).all()
    assert per_image.min() >= 0.8 and per_image.max() <= 1.2
    assert per_image.mean(1).std() > 0.01


@pytest.mark.parametrize("border", ["reflect", "edge"])
@pytest.mark.parametrize("rotate", [5, 45, 180])
def test_moving_brings_in_no_black_border(torchvision, border, rotate):
    flat = torch.full((4, 1, 32, 32), 0.7)
    moved = Augment(
        rotate=rotate, translate=0.1, brightness=0, contrast=0, border=border
    )(flat, seeded())
    assert torch.allclose(moved, flat, atol=1e-4)


def test_gray_images_too(torchvision):
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


def test_importing_the_module_does_not_import_torchvision():
    code = (
        "import sys, ebmlib.data.augmentation as a; print('torchvision' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False"


def test_missing_torchvision_says_what_to_install(monkeypatch, images):
    def absent(name, *args, **kwargs):
        raise ModuleNotFoundError(name="torchvision")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match="pip install torchvision"):
        Augment()(images, seeded())
