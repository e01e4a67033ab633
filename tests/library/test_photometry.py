"""A lamp is not a defect: what ten percent more or less light does to a score.

On screw, the mean brightness of an image alone separates good from defective. A score
that follows the lamp would be measured as a detector.
"""

import pytest

from ebmbook.saved import saved_detector
from ebmlib import benchmark
from ebmlib.baselines import MeanBrightness
from ebmlib.data import load
from ebmlib.recipes import RECIPES

LIMIT = 0.2  # of the standard deviation of the scores of normal images
STEPS = {"contrastive_divergence": 10}


def largest_shift(score, images) -> float:
    """Largest move of a score under +-10 % of light, in standard deviations of it.

    The images are darkened first, so that nothing is clipped at white.
    """
    usual = score(0.9 * images)
    moved = [(score(0.9 * light * images) - usual).abs().max() for light in (0.9, 1.1)]
    return float(max(moved) / usual.std())


@pytest.fixture(scope="module")
def nut():
    return load("synthetic/nut", size=32, n_train=40, n_test=16, n_defective=0)


def test_a_score_of_brightness_fails_this_test(nut):
    assert largest_shift(MeanBrightness().fit(nut.train).anomaly_score, nut.test) > 1


def test_the_saved_detector_does_not_follow_the_lamp():
    normals = load("synthetic/nut", size=64, n_train=1, n_test=16, n_defective=0).test
    detector = saved_detector()
    assert largest_shift(detector.anomaly_score, normals) < LIMIT
    assert largest_shift(detector.energy_score, normals) < LIMIT / 10


@pytest.mark.parametrize("method", RECIPES)
def test_no_energy_follows_the_lamp(method, nut):
    small = {"steps": STEPS.get(method, 20), "width": 8, "features": "cosine"}
    settings = benchmark.accepted(method, small)
    detector = benchmark.fit(method, nut.train, aligned=True, **settings)
    assert largest_shift(detector.anomaly_score, nut.test) < LIMIT
