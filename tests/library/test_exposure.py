"""Facts about exposure: what a lamp does to an image is undone, and nothing else."""

import numpy as np
import pytest
import torch

from ebmlib.view.exposure import Exposure, MatchedExposure


def images(n: int = 6):
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(n, 3, 16, 16, generator=generator)


def test_gain_and_offset_are_undone():
    x = images()
    exposure = Exposure.fit(x)
    gain = torch.linspace(0.5, 1.2, 6)[:, None, None, None]
    assert torch.allclose(exposure(gain * x + 0.05), exposure(x), atol=1e-5)


def test_every_image_gets_the_mean_and_contrast_of_the_training_images():
    x = images()
    changed = Exposure.fit(x)(0.7 * x)
    s, m = torch.std_mean(x, (1, 2, 3), correction=0)
    means = changed.mean((1, 2, 3))
    assert torch.allclose(means, m.mean().expand(6), atol=1e-5)
    assert torch.allclose(changed.std((1, 2, 3), correction=0), s.mean(), atol=1e-5)


def test_it_changes_nothing_the_second_time_and_keeps_the_hue():
    x = images()
    exposure = Exposure.fit(x)
    once = exposure(x)
    assert torch.allclose(exposure(once), once, atol=1e-5)
    red_green = x[:, 0] - x[:, 1]
    ratio = (once[:, 0] - once[:, 1]) / red_green  # one number for an image
    spread = ratio.flatten(1).std(1) / ratio.flatten(1).mean(1)
    assert spread.max() < 1e-2


def test_an_image_without_contrast_stays_even_and_in_range():
    x = torch.full((1, 1, 8, 8), 0.9)
    changed = Exposure(0.4, 0.2)(x)
    assert torch.allclose(changed, torch.full_like(x, 0.4), atol=1e-5)
    wild = Exposure(0.9, 0.5)(images())
    assert wild.min() >= 0 and wild.max() <= 1


def part() -> torch.Tensor:
    """One smooth part, 6 times under another lamp, with a little grain."""
    generator = torch.Generator().manual_seed(2)
    row = torch.linspace(0, 3, 24)
    smooth = 0.5 + 0.2 * torch.sin(row)[:, None] * torch.cos(2 * row)
    grain = 0.01 * torch.randn(6, 3, 24, 24, generator=generator)
    gain = torch.linspace(0.8, 1.1, 6)[:, None, None, None]
    return gain * (smooth + grain) - 0.02


def test_matched_light_is_undone_too():
    x = part()
    matched = MatchedExposure.fit(x)
    gain = torch.linspace(0.6, 1.1, 6)[:, None, None, None]
    assert torch.allclose(matched(gain * x + 0.05), matched(x), atol=1e-5)
    assert torch.allclose(matched(matched(x)), matched(x), atol=1e-3)


def test_damage_does_not_change_the_light_of_the_rest():
    x = part()
    damaged = x.clone()
    damaged[:, :, 2:10, 2:12] = 0.02  # a seventh of the image, dark
    rest = torch.ones(24, 24, dtype=torch.bool)
    rest[2:10, 2:12] = False
    gaps = {
        kind: (kind.fit(x)(damaged) - kind.fit(x)(x))[:, :, rest].abs().mean().item()
        for kind in (Exposure, MatchedExposure)
    }
    assert gaps[MatchedExposure] < 0.003 < 10 * 0.003 < gaps[Exposure]


@pytest.mark.parametrize("shape", [(24, 24), (96, 96), (128, 176)])
def test_some_rows_and_columns_in_single_precision_are_enough(shape):
    """The formula with every pixel, exact medians, double precision, to convergence."""
    generator = torch.Generator().manual_seed(5)
    row, column = (torch.linspace(0, 3, n) for n in shape)
    mean = 0.5 + 0.2 * torch.sin(row)[:, None] * torch.cos(2 * column)
    grain = 0.03 * torch.randn(6, 3, *shape, generator=generator)
    gain = torch.linspace(0.7, 1.1, 6)[:, None, None, None]
    images = (gain * (mean + grain)).clamp(0, 1)
    images[:, :, : shape[0] // 3, : shape[1] // 3] = 0.03
    template = mean.expand(3, -1, -1)
    found = MatchedExposure(template)(images)

    x, t = images.double().flatten(1).numpy(), template.double().flatten().numpy()
    a, b = np.ones((6, 1)), np.zeros((6, 1))
    for _ in range(50):
        e = np.abs(a * x + b - t)
        w = 1 / (1 + (e / (2 * np.median(e, axis=1, keepdims=True))) ** 2)
        mx, mt = (
            (w * v).sum(1, keepdims=True) / w.sum(1, keepdims=True) for v in (x, t)
        )
        sx, st = (
            (w * (v - m) ** 2).sum(1, keepdims=True) for v, m in ((x, mx), (t, mt))
        )
        a = np.sqrt(st / sx)
        b = mt - a * mx
    expected = np.clip(a * x + b, 0, 1).reshape(images.shape)
    assert np.abs(found.numpy() - expected).mean(axis=(1, 2, 3)).max() < 1e-3


def test_an_even_image_gets_no_invented_contrast():
    matched = MatchedExposure.fit(part())
    changed = matched(torch.full((1, 3, 24, 24), 0.9))
    assert torch.isfinite(changed).all()
    assert changed.std() < 1e-5
    with pytest.raises(ValueError, match="template must be a float tensor"):
        MatchedExposure(torch.zeros(24, 24))
    with pytest.raises(ValueError, match="the mean part is"):
        matched(torch.zeros(1, 3, 24, 25))
    for level in (0.0, 0.5, 1.0):  # training images without contrast
        even = torch.full((4, 3, 8, 8), level)
        assert torch.isfinite(MatchedExposure.fit(even)(even)).all()
        assert torch.isfinite(MatchedExposure.fit(even)(images()[:, :, :8, :8])).all()
        assert torch.isfinite(Exposure.fit(even)(even)).all()
