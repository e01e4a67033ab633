"""Facts about the benchmark: one whole file per result, nothing done twice."""

import json

import numpy as np
import pytest

from ebmlib import benchmark
from ebmlib.data import load
from ebmlib.metrics import au_pro, image_auroc

FIELDS = {
    *("category", "method", "seed", "image_size", "settings", "metrics", "seconds"),
    *("peak_memory_mb", "versions", "hardware", "command"),
}


@pytest.fixture(scope="module")
def nut():
    return load("synthetic/nut", size=32, n_train=12, n_test=6, n_defective=2)


def test_metrics_are_those_of_the_library_with_intervals_around_them(nut):
    result = benchmark.run(nut, "per_pixel_gaussian", 0)
    model = benchmark.BASELINES["per_pixel_gaussian"]().fit(nut.train)
    found = result["metrics"]
    expected = image_auroc(model.anomaly_score(nut.test), nut.labels)
    assert found["image_auroc"] == pytest.approx(expected, abs=1e-4)
    expected = au_pro(model.anomaly_map(nut.test), nut.masks)
    assert found["au_pro"] == pytest.approx(expected, abs=1e-4)
    for name in ("image_auroc", "pixel_auroc", "au_pro"):
        low, high = found[f"{name}_interval"]
        assert 0 <= low <= found[name] + 0.05 and found[name] - 0.05 <= high <= 1


def test_a_detector_reports_every_score_and_map(nut):
    options = {"steps": 2, "false_alarm_rate": 0.4}
    result = benchmark.run(nut, "contrast", 3, **options)
    assert set(result["metrics"]["image_scores"]) == {"energy", "max", "top", "l2"}
    assert set(result["metrics"]["maps"]) == {"gradient", "patches"}
    again = benchmark.run(nut, "contrast", 3, **options)
    assert again["metrics"] == result["metrics"]  # the seed decides everything


def test_the_command_writes_whole_files_and_repeats_nothing(tmp_path, capsys):
    words = ["--size", "32", "--seeds", "0", "1", "--out", str(tmp_path)]
    words += ["--methods", "brightness", "--categories", "synthetic/bolt"]
    benchmark.main(words)
    (path,) = tmp_path.iterdir()  # a method without randomness runs once
    result = json.loads(path.read_text())
    assert set(result) == FIELDS
    assert str(tmp_path) not in path.read_text()
    # The lamp gives the bolt away: brightness alone separates good from defective.
    assert result["metrics"]["image_auroc"] > 0.99
    before = path.stat().st_mtime_ns
    benchmark.main(words)
    assert "already there" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before


def test_a_result_of_other_settings_is_not_taken_for_the_one_asked_for(tmp_path):
    path = benchmark.result_path(tmp_path, "synthetic/nut", "contrast", 0, 32)
    path.write_text(json.dumps({"settings": {"steps": 7}}))
    words = ["--size", "32", "--seeds", "0", "--out", str(tmp_path), "--methods"]
    benchmark.main([*words, "contrast", "--steps", "7"])
    with pytest.raises(ValueError, match=r"was made with \{'steps': 7\}"):
        benchmark.main([*words, "contrast", "--steps", "8"])


def test_position_is_used_only_where_it_means_something():
    assert benchmark.is_aligned("mvtec/bottle") and benchmark.is_aligned(
        "synthetic/nut"
    )
    for name in ("mvtec/screw", "mvtec/carpet", "synthetic/weave", "synthetic/bolt"):
        assert not benchmark.is_aligned(name)


def test_a_perfect_map_gets_a_perfect_score(nut):
    labels, masks = np.asarray(nut.labels), np.asarray(nut.masks)
    scores = {"score": nut.labels.float()}
    found = benchmark.measure(scores, nut.masks.float(), nut)
    assert found["image_auroc"] == found["pixel_auroc"] == found["au_pro"] == 1.0
    assert labels.sum() == masks.any((1, 2)).sum()
