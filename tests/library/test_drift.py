"""Two monitors whose false-alarm rate is known, and flags of which few are false."""

import numpy as np
import pytest
import torch

from ebmlib.calibration import conformal_p_values, conformal_threshold, rate_interval
from ebmlib.drift import (
    bucket,
    bucket_limit,
    bucket_step,
    few_false_flags,
    rank_z,
    run_length,
)
from ebmlib.metrics import image_auroc


def test_a_flag_pours_and_a_quiet_part_drains_to_zero():
    levels = bucket([False, True, False, False, True, True], up=3)
    assert levels.tolist() == [0, 3, 2, 1, 4, 7]
    assert bucket([], up=3).tolist() == []


@pytest.mark.parametrize(("rate", "up"), [(0.05, 9), (0.01, 49), (0.5, 1), (0.9, 1)])
def test_a_bucket_fills_from_twice_the_promised_rate_on(rate, up):
    assert bucket_step(rate) == up


def test_six_flags_in_a_row_fill_a_bucket_of_fifty():
    assert run_length(1.0, 9, 50) == pytest.approx(6)
    assert run_length(0.5, 9, 1) == pytest.approx(2)


def test_the_run_length_is_the_mean_of_many_lines():
    rng, level, alarm = np.random.default_rng(0), np.zeros(2000), np.full(2000, np.inf)
    for t in range(1, 4000):
        level = np.maximum(0, level + np.where(rng.random(2000) < 0.1, 9, -1))
        alarm = np.minimum(alarm, np.where(level >= 50, t, np.inf))
    assert alarm.mean() == pytest.approx(run_length(0.1, 9, 50), rel=0.1)


@pytest.mark.parametrize("rate", [0.05, 0.001, 0.5])
def test_the_limit_is_the_smallest_that_keeps_calm(rate):
    limit, up = bucket_limit(rate, 20_000), bucket_step(rate)
    assert run_length(rate, up, limit) >= 20_000 > run_length(rate, up, limit - 1)
    assert rate != 0.05 or limit == 50  # that of chapter 15


def test_z_of_ranks_is_that_of_the_scores():
    generator = torch.Generator().manual_seed(0)
    then = torch.randn(80, generator=generator)
    today = torch.randn(50, generator=generator) - 0.7
    area = image_auroc(torch.cat([then, today]), torch.arange(130) >= 80)
    expected = (area - 0.5) / np.sqrt((80 + 50 + 1) / (12 * 80 * 50))
    z = rank_z(conformal_p_values(today, then), 80)
    assert z == pytest.approx(expected, abs=1e-5) and z < -3


def test_z_of_exchangeable_scores_has_mean_zero_and_variance_one():
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(1000):
        then, today = torch.rand(300, generator=generator).split([100, 200])
        found.append(rank_z(conformal_p_values(today, then), 100))
    assert abs(np.mean(found)) < 0.1 and np.std(found) == pytest.approx(1, abs=0.07)


def test_the_largest_cut_below_its_line_flags():
    p = [0.1, 0.1, 0.7]  # compared with 1/15, 2/15 and 3/15, by hand in chapter 15
    assert few_false_flags(p, 0.2).tolist() == [True, True, False]
    assert few_false_flags(p, 0.01).tolist() == [False] * 3


def test_the_rate_of_one_threshold_lies_in_its_interval():
    low, high = rate_interval(19, 0.05)
    assert (low, high) == pytest.approx((0.0027, 0.1459), abs=1e-4)
    rng, inside = np.random.default_rng(2), 0
    for scores in rng.random((2000, 19)):
        rate = 1 - conformal_threshold(torch.from_numpy(scores), 0.05)
        inside += low < rate < high
    assert inside / 2000 == pytest.approx(0.9, abs=0.03)
    assert rate_interval(200, 0.05)[1] < high
