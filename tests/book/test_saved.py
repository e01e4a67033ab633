"""The detector that comes with the book: it loads, it is good, the error is clear."""

import pytest

from ebmbook.saved import SIZE, STEPS, saved_detector
from ebmlib.data import load
from ebmlib.metrics import au_pro, image_auroc


def test_the_saved_detector_finds_what_no_trivial_baseline_finds():
    data = load("synthetic/nut", size=SIZE)
    detector = saved_detector()
    assert detector.recipe.steps == STEPS and detector.seed == 0
    assert image_auroc(detector.anomaly_score(data.test), data.labels) > 0.95
    assert au_pro(detector.anomaly_map(data.test), data.masks) > 0.95


def test_an_unknown_category_is_named():
    with pytest.raises(ValueError, match=r"no saved detector.*'synthetic/nut'"):
        saved_detector("mvtec/bottle")
