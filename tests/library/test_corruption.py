import inspect

import pytest
import torch

from ebmlib.data import corruption, synthetic
from ebmlib.data.corruption import VISIBLE

KINDS = [
    corruption.cut_and_blend,
    corruption.scratches,
    corruption.noise_patches,
    corruption.bends,
    corruption.worn_patches,
    corruption.corrupt,
    corruption.damage,
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def nuts():
    return synthetic.make("nut", size=64, n_train=16, n_test=0, n_defective=0).train


@pytest.mark.parametrize("corrupt", KINDS)
def test_mask_is_where_pixels_changed_visibly_and_never_empty(nuts, corrupt):
    for seed in range(4):
        corrupted, masks = corrupt(nuts, seeded(seed))
        change = (corrupted - nuts).abs().amax(1)
        assert masks.dtype == torch.bool and masks.shape == (16, 64, 64)
        assert torch.equal(masks, change > VISIBLE)
        assert masks.flatten(1).sum(1).min() >= 3
        assert corrupted.min() >= 0 and corrupted.max() <= 1
        assert torch.isfinite(corrupted).all()


def test_a_change_of_four_percent_of_the_range_shows_and_a_smaller_one_does_not():
    black, gray = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    gray[0, 1, 0] = torch.tensor([10.0, 11.0]) / 255  # 3.9 and 4.3 %, one channel
    assert corruption._changed(gray, black).tolist() == [[[False, True]]]


@pytest.mark.parametrize("corrupt", KINDS)
def test_most_of_the_image_stays_normal(nuts, corrupt):
    _, masks = corrupt(nuts.repeat(4, 1, 1, 1), seeded())
    assert masks.float().mean((1, 2)).max() < 0.4
    assert masks.float().mean() < 0.1


@pytest.mark.parametrize("corrupt", KINDS)
def test_same_seed_same_result_and_input_untouched(nuts, corrupt):
    before = nuts.clone()
    first, second = corrupt(nuts, seeded(1)), corrupt(nuts, seeded(1))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], corrupt(nuts, seeded(2))[0])
    assert torch.equal(nuts, before)
    assert first[0].data_ptr() != nuts.data_ptr()


@pytest.mark.parametrize("corrupt", KINDS)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_images_are_changed_too(corrupt, level):
    # A patch cut from a constant image equals it: the worst case for cut and blend.
    flat = torch.full((6, 1, 40, 56), level)
    corrupted, masks = corrupt(flat, seeded())
    assert masks.flatten(1).any(1).all()
    assert corrupted.min() >= 0 and corrupted.max() <= 1


@pytest.mark.parametrize("corrupt", KINDS)
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 1, 48, 80), (2, 5, 32, 32)])
def test_any_batch_size_channels_and_sides(corrupt, shape):
    images = torch.rand(shape, generator=seeded(3))
    corrupted, masks = corrupt(images, seeded())
    assert corrupted.shape == shape and masks.shape == (shape[0], *shape[2:])
    assert masks.flatten(1).any(1).all()


def test_double_precision_stays_double():
    corrupted, _ = corruption.corrupt(torch.rand(2, 3, 32, 32).double(), seeded())
    assert corrupted.dtype == torch.float64


def test_corrupted_area_is_a_share_of_the_image_at_every_size():
    areas = []
    for size in (64, 128):
        nuts = synthetic.make("nut", size=size, n_train=8, n_test=0, n_defective=0)
        _, masks = corruption.noise_patches(nuts.train.repeat(8, 1, 1, 1), seeded())
        areas.append(masks.float().mean().item())
    assert 0.6 < areas[0] / areas[1] < 1.6


def test_corruptions_do_not_share_code_with_the_test_defects():
    source = inspect.getsource(corruption)
    assert "import" in source and "_defects" not in source and "_drawing" not in source


@pytest.mark.parametrize("corrupt", KINDS)
def test_wrong_input_is_named(corrupt):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        corrupt(torch.rand(3, 32, 32), seeded())
    with pytest.raises(TypeError, match="uint8"):
        corrupt(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), seeded())
    with pytest.raises(ValueError, match="none of them 0"):
        corrupt(torch.zeros(0, 3, 32, 32), seeded())


@pytest.mark.parametrize("corrupt", [corruption.cut_and_blend, corruption.bends])
def test_an_oblong_image_does_not_stretch_a_corruption(corrupt):
    images = torch.rand(300, 1, 48, 144, generator=seeded())
    _, masks = corrupt(images, seeded(1))
    where = masks.float().mean(0)  # centers are spread over the whole image
    assert where[:, :48].mean() > 0.5 * where[:, 48:96].mean()
    heights = masks.any(2).sum(1).float()
    widths = masks.any(1).sum(1).float()
    assert 0.8 < widths.mean() / heights.mean() < 1.35  # a tall one may be cut off


def test_bending_moves_pixels_and_changes_no_color():
    images = torch.rand(8, 1, 32, 32, generator=seeded()).round()  # black and white
    bent, masks = corruption.bends(images, seeded(2))
    assert torch.equal(bent[~masks[:, None]].round(), images[~masks[:, None]])
    flat = torch.full((8, 3, 32, 32), 0.3)
    moved, _ = corruption._bend(flat, seeded(3))
    assert torch.allclose(moved, flat)  # nothing to see on an even ground


def test_wear_lowers_the_contrast_inside_its_mask():
    images = torch.rand(16, 1, 64, 64, generator=seeded())
    worn, masks = corruption.worn_patches(images, seeded(1))
    for before, after, mask in zip(images[:, 0], worn[:, 0], masks, strict=True):
        assert after[mask].std() < before[mask].std()


def test_shares_are_five_numbers_that_add_up_to_one(nuts):
    with pytest.raises(ValueError, match="shares"):
        corruption.corrupt(nuts, seeded(), shares=(0.5, 0.5))
    with pytest.raises(ValueError, match="shares"):
        corruption.corrupt(nuts, seeded(), shares=(0.5, 0.5, 0.5, 0, 0))
