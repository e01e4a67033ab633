"""`ebmlib monitor`: quiet without drift, and the direction where there is some."""

import numpy as np
import pytest
import torch
from drawn_parts import ebmlib, told
from PIL import Image

from ebmlib.calibration import conformal_p_values
from ebmlib.prediction_table import PredictionTable, Row

CALIBRATION = torch.randn(99, generator=torch.Generator().manual_seed(0))


def table(folder, scores):
    """A table of these scores, judged at a false-alarm rate of 5 %."""
    p_values = conformal_p_values(scores, CALIBRATION)
    run = {"detector_sha256": "1", "photographs": "new"}
    run |= {"false_alarm_rate": 0.05, "calibration_images": 99}
    made = PredictionTable(folder, run)
    made.append(
        Row.of(f"{i}.png", float(s), bool(p <= 0.05), float(p), None)
        for i, (s, p) in enumerate(zip(scores, p_values, strict=True))
    )
    return made


def scores(*means):
    generator = torch.Generator().manual_seed(1)
    return torch.cat([m + torch.randn(100, generator=generator) for m in means])


def test_scores_of_every_day_raise_no_alarm(tmp_path):
    path = table(tmp_path, scores(0, 0, 0)).path
    said = ebmlib("monitor", path, "--exit-code").output
    assert "Verdict: no drift seen." in said and "CALLS" not in said
    assert "once in 21,089 photographs" in said
    assert Image.open(tmp_path / "drift.png").size[0] > 800


def test_scores_that_rise_are_seen_by_both_tests(tmp_path):
    path = table(tmp_path, scores(0, 0, 1.5, 1.5)).path
    words = ["monitor", path, "--picture", tmp_path / "here.png"]
    said = ebmlib(*words).output
    assert "The scores have risen (photographs 201 to 300)" in said
    assert "more flags than promised, seen at photograph 2" in said
    found = told(*words, "--json", "--exit-code", code=1)
    assert found["drifted"] and found["odd_window"] == 3 and len(found["z"]) == 4
    assert 200 < found["bucket_full_at"] < 300 and (tmp_path / "here.png").exists()


def test_scores_that_fall_are_seen_though_flags_become_rare(tmp_path):
    path = table(tmp_path, scores(0, -1.5)).path
    said = ebmlib("monitor", path, "--exit-code", code=1).output
    assert "The scores have fallen (photographs 101 to 200)" in said
    assert (
        "lens out of focus" in said
        and "bucket of flags (+9 with, -1 without): q" in (said)
    )


def test_fewer_than_a_window_are_compared_together(tmp_path):
    path = table(tmp_path, scores(3)[:30]).path
    assert "all photographs together" in ebmlib("monitor", path).output


def test_unreadable_rows_are_left_out(tmp_path):
    made = table(tmp_path, scores(0))
    made.append([Row("cut.png", problem="damaged")])
    assert "could not be read: 1" in ebmlib("monitor", made.path).output


def test_what_is_no_table_is_refused_in_one_line(tmp_path):
    made = table(tmp_path, scores(0)[:0])
    cases = [(made.path, "no photograph was judged")]
    cases += [(tmp_path / "none.csv", "no such file or directory; check the name")]
    (tmp_path / "picture.csv").write_bytes(np.arange(999, dtype=np.uint16).tobytes())
    cases += [(tmp_path / "picture.csv", "not a table of `ebmlib predict`")]
    for path, said in cases:
        (line,) = ebmlib("monitor", path, code=2).output.splitlines()
        assert line.startswith(f"Error: {path}: ") and said in line
    (tmp_path / "run.json").write_text('{"false_alarm_rate": 0.05}')
    made.append(Row.of("a.png", 1.0, False, 0.5, None) for _ in range(2))
    assert "was changed" in ebmlib("monitor", made.path, code=2).output
    (tmp_path / "run.json").unlink()
    assert "run.json: missing" in ebmlib("monitor", made.path, code=2).output


def test_the_picture_has_a_name_that_can_be_written(tmp_path):
    path = table(tmp_path, scores(0)).path
    words = ["monitor", path, "--picture"]
    assert "end in .png" in ebmlib(*words, tmp_path / "x.jpg", code=2).output
    said = ebmlib(*words, tmp_path / "no" / "x.png", code=2).output
    assert "a folder that exists" in said


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_has_at_least_one_photograph(window, tmp_path):
    assert "x>=1" in ebmlib("monitor", "x.csv", "--window", window, code=2).output
