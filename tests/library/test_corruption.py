import inspect

import numpy as np
import pytest
import torch

from ebmlib.data import corruption, synthetic
from ebmlib.data.corruption import MIN_CHANGE

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
        assert torch.equal(masks, change > MIN_CHANGE)
        assert masks.flatten(1).sum(1).min() >= 3
        assert corrupted.min() >= 0 and corrupted.max() <= 1
        assert torch.isfinite(corrupted).all()


def test_a_change_of_eleven_gray_levels_is_masked_and_one_of_ten_is_not():
    assert 10 / 255 < MIN_CHANGE < 11 / 255


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
    images = 0.4 + 0.2 * torch.rand(8, 3, 32, 32, generator=seeded(1))
    for channel, moved in zip(
        images.unbind(1), corruption.bends(images, seeded(3))[0].unbind(1), strict=True
    ):  # interpolation stays between the smallest and the largest value
        assert moved.min() >= channel.min() and moved.max() <= channel.max()


def test_wear_lowers_the_contrast_inside_its_mask():
    images = torch.rand(16, 1, 64, 64, generator=seeded())
    worn, masks = corruption.worn_patches(images, seeded(1))
    for before, after, mask in zip(images[:, 0], worn[:, 0], masks, strict=True):
        assert after[mask].std() < before[mask].std()


@pytest.mark.parametrize(
    ("name", "corrupt"),
    list(zip(("paste", "scratch", "spot", "bend", "wear"), KINDS, strict=False)),
)
def test_one_kind_alone_is_the_function_of_that_kind(name, corrupt):
    """After the draw of the kind, one number an image, the draws are the same."""
    images, generator = torch.rand(16, 3, 64, 64, generator=seeded(1)), seeded(2)
    torch.rand(16, generator=generator)
    expected, expected_masks = corrupt(images, generator)
    found, masks = corruption.corrupt(images, seeded(2), 0.0, {name: 1.0})
    assert torch.equal(found, expected) and torch.equal(masks, expected_masks)


@pytest.mark.parametrize("second", [0.0, 1.0])
def test_a_second_corruption_adds_to_the_first(nuts, second):
    """With the same seed the first corruption is the same: the draws come after it."""
    many = nuts.repeat(8, 1, 1, 1)
    once, masks = corruption.corrupt(many, seeded(2), second=0.0)
    twice, more = corruption.corrupt(many, seeded(2), second=second)
    if second == 0:
        assert torch.equal(once, twice)
    else:
        assert more.float().mean() > 1.3 * masks.float().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probabilities": {"paste": 0.5, "bend": 0.4}}, "add up to 1"),
        ({"probabilities": {"paste": 1.5, "bend": -0.5}}, "lie in"),
        ({"probabilities": {"stain": 1.0}}, "unknown kinds .'stain'."),
        ({"second": 1.5}, "second is a probability"),
        ({"max_size": 0.1}, "max_size is a fraction"),
    ],
)
def test_wrong_options_are_named(nuts, options, message):
    with pytest.raises(ValueError, match=message):
        corruption.corrupt(nuts, seeded(), **options)


@pytest.mark.parametrize("bad", [(0.0, 0.2), (0.3, 0.2), (0.1, 1.2)])
def test_a_range_goes_from_its_smaller_end_to_its_larger(nuts, bad):
    with pytest.raises(ValueError, match=r"size is a range \(low, high\)"):
        corruption.bends(nuts, seeded(), size=bad)


def test_a_generator_is_asked_for(nuts):
    with pytest.raises(ValueError, match="manual_seed"):
        corruption.corrupt(nuts, None)


@pytest.mark.parametrize("corrupt", KINDS)
@pytest.mark.parametrize("shape", [(8, 3, 64, 64), (5, 1, 48, 80), (3, 3, 70, 41)])
def test_nothing_changes_outside_the_rectangle_that_is_computed(
    corrupt, shape, monkeypatch
):
    """Whole images in place of rectangles give the same, bit for bit."""
    images = torch.rand(shape, generator=seeded(7))
    inside = [corrupt(images, seeded(seed)) for seed in range(8)]

    def everything(center, half, size, side):
        pixels = np.arange(size, dtype=center.dtype)[None] + 0.5
        return [slice(0, size)] * len(center), pixels / side - center[:, None]

    monkeypatch.setattr(corruption, "_interval", everything)
    for seed, (expected, expected_masks) in enumerate(inside):
        whole, masks = corrupt(images, seeded(seed))
        assert torch.equal(whole, expected) and torch.equal(masks, expected_masks)


@pytest.mark.parametrize("corrupt", KINDS)
def test_precision_changes_only_the_rounding(nuts, corrupt):
    single, masks = corrupt(nuts, seeded(4))
    double, same = corrupt(nuts.double(), seeded(4))
    assert (single - double).abs().max() < 1e-3
    assert (masks != same).float().mean() < 1e-4


# Pixels in the masks of seed 0. The chapters' figures and results hang on the order in
# which numbers are drawn.
MASKED = {
    "cut_and_blend": 823,
    "scratches": 265,
    "noise_patches": 879,
    "bends": 1236,
    "worn_patches": 665,
    "corrupt": 642,
    "damage": 678,
}


@pytest.mark.parametrize("corrupt", KINDS)
def test_numbers_are_drawn_in_the_order_of_the_published_results(corrupt):
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    waves = [torch.sin(rows / a) * torch.cos(columns / b) for a, b in ((3, 5), (7, 4))]
    images = 0.5 + 0.4 * torch.stack(waves)[:, None].repeat(4, 3, 1, 1)
    generator = seeded()
    _, masks = corrupt(images, generator)
    assert abs(int(masks.sum()) - MASKED[corrupt.__name__]) <= 3  # rounding


@pytest.mark.parametrize("corrupt", KINDS)
def test_a_second_device_gets_the_same_corruptions(nuts, corrupt, second_device):
    expected, expected_masks = corrupt(nuts, seeded(5))
    second_device.reads = 0
    images, masks = corrupt(second_device(nuts), seeded(5))
    assert images.device == masks.device == second_device.device
    # One look at the masks for every round of redraws, of which there are few.
    assert second_device.reads <= corruption.MAX_REDRAWS + 1
    assert torch.allclose(images.cpu(), expected, atol=1e-6)
    assert torch.equal(masks.cpu(), expected_masks)
