"""Facts about thresholds: exact ranks, and guarantees that hold in simulation."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch

from ebmlib.calibration import (
    conformal_p_values,
    conformal_threshold,
    pixel_threshold,
)


def test_threshold_keeps_the_false_alarm_rate_on_exchangeable_normals():
    """Split conformal prediction: P(new score > threshold) <= rate, on average."""
    generator = torch.Generator().manual_seed(0)
    alarms = []
    for _ in range(3000):
        scores = torch.randn(40, generator=generator)
        alarms.append(float(scores[0] > conformal_threshold(scores[1:], 0.1)))
    assert np.mean(alarms) < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 3000)
    assert np.mean(alarms) > 0.07


def test_ranks_are_those_of_exact_arithmetic():
    """The rank is ceil((n + 1)(1 - rate)) of the decimal rate, without float errors."""
    for percent in range(1, 100):
        for n in (1, 10, 99, 149, 199, 399):
            rank = math.ceil((n + 1) * (1 - Fraction(percent, 100)))
            if rank <= n:
                found = conformal_threshold(torch.arange(1.0, n + 1), percent / 100)
                assert found == rank, (percent, n)


def test_too_few_normals_for_the_rate_is_said():
    with pytest.warns(UserWarning, match="cannot guarantee a false-alarm rate"):
        assert conformal_threshold(torch.arange(5.0), 0.05) == 4.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conformal_threshold(torch.arange(19.0), 0.05)


def test_scores_may_be_numpy():
    scores = np.arange(19.0)
    assert conformal_threshold(scores, 0.1) == conformal_threshold(
        torch.from_numpy(scores), 0.1
    )


def test_a_threshold_of_no_scores_or_nan_is_refused():
    for scores in (torch.empty(0), torch.tensor([1.0, float("nan")])):
        with pytest.raises(ValueError, match="threshold needs scores"):
            conformal_threshold(scores, 0.1)
    for rate in (0.0, 1.0, -1, float("nan"), True):
        with pytest.raises(ValueError, match="between 0 and 1"):
            conformal_threshold(torch.arange(9.0), rate)


def smooth_maps(count, generator):
    """Maps whose pixels depend on each other and on a level of their image."""
    level = torch.randn(count, 1, 1, generator=generator)
    return level + torch.randn(count, 6, 6, generator=generator)


def test_no_pixel_of_most_normal_images_is_flagged():
    generator, alarms = torch.Generator().manual_seed(1), []
    for _ in range(1500):
        maps = smooth_maps(25, generator)
        limit = pixel_threshold(maps[1:], 0.2, "image")
        alarms.append(bool((maps[0] > limit).any()))
    assert np.mean(alarms) < 0.2 + 3 * np.sqrt(0.2 * 0.8 / 1500)
    assert np.mean(alarms) > 0.15


def test_the_share_of_flagged_pixels_is_controlled():
    """Conformal risk control: E[share of flagged pixels] <= rate."""
    generator, shares = torch.Generator().manual_seed(2), []
    for _ in range(1500):
        maps = smooth_maps(20, generator)
        limit = pixel_threshold(maps[1:], 0.2, "pixel")
        shares.append(float((maps[0] > limit).float().mean()))
    assert np.mean(shares) < 0.2 + 3 * np.std(shares) / np.sqrt(1500)
    assert np.mean(shares) > 0.1


def test_the_pixel_threshold_is_the_smallest_that_keeps_the_promise():
    maps = smooth_maps(20, torch.Generator().manual_seed(3))

    def bound(limit):
        return (float((maps > limit).float().mean((1, 2)).sum()) + 1) / 21

    limit = pixel_threshold(maps, 0.1, "pixel")
    assert bound(limit) <= 0.1
    smaller = maps[maps < limit].max()
    assert bound(smaller) > 0.1


def test_few_maps_cannot_promise_a_small_share():
    maps = smooth_maps(5, torch.Generator().manual_seed(4))
    with pytest.warns(UserWarning, match="that takes 19"):
        assert pixel_threshold(maps, 0.05, "pixel") == float(maps.max())


def test_mistakes_about_pixels_get_a_clear_message():
    maps = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match="guarantee must be one of"):
        pixel_threshold(maps, 0.5, "region")
    with pytest.raises(ValueError, match=r"maps must be \(n, H, W\)"):
        pixel_threshold(maps[0], 0.5)
    with pytest.raises(ValueError, match="NaN"):
        pixel_threshold(maps / 0, 0.5, "pixel")


def test_a_score_is_above_the_threshold_where_its_p_value_is_at_most_the_rate():
    generator = torch.Generator().manual_seed(5)
    calibration = torch.randn(60, generator=generator).round(decimals=1)  # with ties
    scores = torch.randn(200, generator=generator).round(decimals=1)
    for rate in (0.05, 0.1, 0.25, 0.5):
        above = scores > conformal_threshold(calibration, rate)
        p = conformal_p_values(scores, calibration)
        assert torch.equal(above, p <= rate + 1e-9)


def test_p_values_are_ranks_among_the_calibration_scores():
    p = conformal_p_values(
        torch.tensor([0.0, 2.0, 2.5, 9.0]), torch.tensor([1, 2, 3.0])
    )
    assert p.tolist() == [1.0, 0.75, 0.5, 0.25]
