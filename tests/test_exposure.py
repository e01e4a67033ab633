"""Facts about exposure: what a lamp does to an image is undone, and nothing else."""

import torch

from ebmlib.data.exposure import Exposure


def images(n: int = 6):
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(n, 3, 16, 16, generator=generator)


def test_gain_and_offset_are_undone():
    x = images()
    exposure = Exposure.of(x)
    gain = torch.linspace(0.5, 1.2, 6)[:, None, None, None]
    assert torch.allclose(exposure(gain * x + 0.05), exposure(x), atol=1e-5)


def test_every_image_gets_the_mean_and_contrast_of_the_training_images():
    x = images()
    changed = Exposure.of(x)(0.7 * x)
    s, m = torch.std_mean(x, (1, 2, 3), correction=0)
    means = changed.mean((1, 2, 3))
    assert torch.allclose(means, m.mean().expand(6), atol=1e-5)
    assert torch.allclose(changed.std((1, 2, 3), correction=0), s.mean(), atol=1e-5)


def test_it_changes_nothing_the_second_time_and_keeps_the_hue():
    x = images()
    exposure = Exposure.of(x)
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
