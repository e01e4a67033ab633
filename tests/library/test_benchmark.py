"""Facts about the benchmark: one whole file per result, nothing done twice."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebmbook.results import results_table
from ebmlib import benchmark
from ebmlib.data import load, synthetic
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import au_pro, image_auroc
from ebmlib.results_files import to_text

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    *("category", "method", "seed", "image_size", "settings", "metrics", "images"),
    *("vanished_masks", "seconds", "peak_memory_mb", "versions", "hardware", "command"),
}
QUICK = {"steps": 2, "false_alarm_rate": 0.4}


@pytest.fixture(scope="module")
def nut():
    return load("synthetic/nut", size=32, n_train=24, n_test=6, n_defective=2)


# ------------------------------------------------------------------------ one result


def test_metrics_are_those_of_the_library_with_intervals_around_them(nut):
    result = benchmark.run(nut, "per_pixel_gaussian")
    model = benchmark.BASELINES["per_pixel_gaussian"]().fit(nut.train)
    found = result["metrics"]
    expected = image_auroc(model.anomaly_score(nut.test), nut.labels)
    assert found["image_auroc"] == pytest.approx(expected, abs=1e-4)
    expected = au_pro(model.anomaly_map(nut.test), nut.masks)
    assert found["au_pro"] == pytest.approx(expected, abs=1e-4)
    for name in ("image_auroc", "pixel_auroc", "au_pro"):
        low, high = found[f"{name}_interval"]
        assert 0 <= low <= found[name] + 0.05 and found[name] - 0.05 <= high <= 1


def test_a_detector_reports_every_score_and_map_and_the_seed_decides_everything(nut):
    result = benchmark.run(nut, "contrast", 3, **QUICK)
    named = set(result["metrics"]["image_scores"])
    assert {"energy", "max", "top", "l2", "gradient_max", "patches_max"} <= named
    assert set(result["images"]["scores"]) == named | {"score"}
    assert set(result["metrics"]["maps"]) == {"gradient", "patches"}
    again = benchmark.run(nut, "contrast", 3, **QUICK)
    assert again["metrics"] == result["metrics"]
    assert again["images"] == result["images"]


def test_the_figures_follow_from_the_scores_of_the_images(nut):
    result = benchmark.run(nut, "pca")
    images = json.loads(to_text(result["images"]))
    assert images["kinds"] == nut.kinds
    assert images["labels"] == [kind != "good" for kind in nut.kinds]
    scores = np.array(images["scores"]["score"])
    assert image_auroc(scores, np.array(images["labels"])) == pytest.approx(
        result["metrics"]["image_auroc"], abs=5e-5
    )
    exact = benchmark.BASELINES["pca"]().fit(nut.train).anomaly_score(nut.test)
    np.testing.assert_allclose(scores, exact, rtol=5e-6)


def test_a_perfect_map_gets_a_perfect_score(nut):
    labels, masks = np.asarray(nut.labels), np.asarray(nut.masks)
    scores = {"score": nut.labels.float()}
    found = benchmark.measure(scores, nut.masks.float(), nut)
    assert found["image_auroc"] == found["pixel_auroc"] == found["au_pro"] == 1.0
    assert labels.sum() == masks.any((1, 2)).sum()


def test_without_masks_only_detection_is_measured_and_the_table_says_so(nut):
    bare = replace(nut, masks=torch.zeros_like(nut.masks))
    result = benchmark.run(bare, "contrast", **QUICK)
    assert set(result["metrics"]["maps"]["gradient"]) == {"image_auroc"}
    assert not {"pixel_auroc", "au_pro"} & result["metrics"].keys()
    whole = benchmark.run(nut, "contrast", **QUICK)
    assert result["metrics"]["image_scores"] == whole["metrics"]["image_scores"]
    (row,) = (r for r in results_table([result]) if r.startswith("| contrast"))
    assert row.count("–") >= 2


# ------------------------------------------------------- what selection may look at


class SealedCategory:
    """A category whose test images, labels and masks raise until `open` is set."""

    def __init__(self, data):
        self._data, self.open = data, False

    def __getattr__(self, name):
        if name not in ("name", "train", "image_shape") and not self.open:
            raise AssertionError(f"fit looked at Category.{name}")
        return getattr(self._data, name)


@pytest.mark.filterwarnings("ignore:the backbone's weights are random")
@pytest.mark.parametrize("method", (*benchmark.METHODS, "backbone"))
def test_nothing_of_the_test_set_is_read_before_the_fit_is_over(
    method, nut, monkeypatch
):
    sealed, fit = SealedCategory(nut), benchmark.fit

    def fit_then_open(*arguments, **options):
        for value in (*arguments, *options.values()):
            assert not isinstance(value, SealedCategory)  # images only, no way around
        model = fit(*arguments, **options)
        sealed.open = True
        return model

    monkeypatch.setattr(benchmark, "fit", fit_then_open)
    options = benchmark.accepted(method, QUICK)
    result = benchmark.run(sealed, method, **options)
    assert sealed.open and result["metrics"].keys() >= {"image_auroc", "au_pro"}


def test_the_seal_holds(nut):
    sealed = SealedCategory(nut)
    for name in ("test", "labels", "masks", "kinds", "notes"):
        with pytest.raises(AssertionError, match=f"fit looked at Category.{name}"):
            getattr(sealed, name)


def test_the_mock_exams_behind_the_settings_open_no_test_image(nut, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    mock_exam = importlib.import_module("mock_exam")
    monkeypatch.setattr(mock_exam, "load", lambda *_, **__: SealedCategory(nut))
    options = SimpleNamespace(size=32, root=None)
    exam = mock_exam.exam_of("synthetic/nut", options)

    def stands_in(image, images):
        return bool((images == image).flatten(1).all(1).any())

    kept, normal = exam.train, exam.test[~exam.labels]
    assert len(kept) == 16 and len(normal) == 4 and int(exam.labels.sum()) == 12
    assert all(stands_in(image, nut.train) for image in (*kept, *normal))
    assert not any(stands_in(image, kept) for image in normal)
    for image, mask in zip(
        exam.test[exam.labels], exam.masks[exam.labels], strict=True
    ):
        same = (image == nut.train).all(1)  # (N, H, W): pixels of a training image
        assert mask.any() and same.flatten(1).float().mean(1).max() > 0.3


def test_a_record_of_mock_exams_keeps_what_it_has(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    mock_exam = importlib.import_module("mock_exam")
    options = SimpleNamespace(categories=["nut", "bolt"], size=32, steps=5)
    record = mock_exam.Record(tmp_path / "tried_maps.json", "What.\n\nMore.")
    assert record.missing(options) == ["nut", "bolt"]
    record.keep("nut", options, rows := [{"maps": "a", "au_pro": 0.5}])
    record.write()

    again = mock_exam.Record(tmp_path / "tried_maps.json", "What.")
    assert again.missing(options) == ["bolt"] and again.rows("nut", options) == rows
    command = again.made["categories"]["nut, 32 px"]["command"]
    assert command.startswith("python benchmarks/try_maps.py NETWORKS --categories nut")
    options.size = 64
    assert again.missing(options) == ["nut", "bolt"]


def test_the_fit_is_the_same_whatever_the_test_images_are(nut):
    other = synthetic.make("nut", size=32, n_train=24, n_test=3, n_defective=1, seed=0)
    assert torch.equal(other.train, nut.train) and len(other.test) < len(nut.test)
    first, second = (
        benchmark.fit("contrast", data.train, **QUICK) for data in (nut, other)
    )
    assert first.threshold_ == second.threshold_
    assert first.settings() == second.settings()


def test_a_kept_detector_gives_the_scores_of_its_result(nut, tmp_path):
    path = tmp_path / "kept" / "one.safetensors"
    result = benchmark.run(nut, "experts", save=path, **QUICK)
    scores = EnergyDetector.load(path, device="cpu").anomaly_score(nut.test)
    np.testing.assert_allclose(
        result["images"]["scores"]["score"], scores.numpy(), rtol=5e-6
    )
    benchmark.run(nut, "brightness", save=tmp_path / "none")
    assert not (tmp_path / "none").exists()  # a baseline has no file format


# ------------------------------------------------------------------------ alignment


def test_the_caller_may_overrule_the_training_images(nut):
    for aligned in (True, False):
        assert benchmark.fit(
            "contrast", nut.train, aligned=aligned, **QUICK
        ).aligned is (aligned)
    assert benchmark.fit("contrast", nut.train, **QUICK).aligned is True


# ------------------------------------------------------------------------ many results


def test_the_command_writes_whole_files_and_repeats_nothing(tmp_path, capsys):
    words = ["--size", "32", "--seeds", "0", "1", "--out", str(tmp_path)]
    words += ["--methods", "brightness", "--categories", "synthetic/bolt"]
    assert benchmark.main(words) == 0
    (path,) = tmp_path.iterdir()  # a method without randomness runs once
    result = json.loads(path.read_text())
    assert set(result) == FIELDS
    assert str(tmp_path) not in path.read_text()
    # The lamp gives the bolt away: brightness alone separates good from defective.
    assert result["metrics"]["image_auroc"] > 0.99
    before = path.stat().st_mtime_ns
    assert benchmark.main(words) == 0
    assert "already there" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before


def test_peak_memory_is_that_of_the_cell_not_of_the_process_that_asked(tmp_path):
    big = torch.ones(100_000_000)  # 400 MB here
    words = ["--size", "32", "--methods", "pca", "--out", str(tmp_path)]
    assert benchmark.main(words) == 0 and len(big)
    (path,) = tmp_path.iterdir()
    here = benchmark.peak_memory_mb()
    assert 50 < json.loads(path.read_text())["peak_memory_mb"] < here - 200


def test_a_failed_cell_is_reported_and_stops_nothing(tmp_path, capsys):
    words = ["--size", "32", "--methods", "brightness", "--out", str(tmp_path)]
    words += ["--categories", "synthetic/nit", "synthetic/nut"]
    assert benchmark.main(words) == 1
    out = capsys.readouterr().out
    assert "synthetic-nit_brightness_32px_seed0.json: FAILED: ValueError: cat" in out
    assert "1 of 2 failed; the same command tries them again" in out
    assert [path.name for path in tmp_path.iterdir()] == [
        "synthetic-nut_brightness_32px_seed0.json"
    ]


def refusal(words, capsys):
    """What is printed about a command line that is refused."""
    with pytest.raises(SystemExit) as caught:
        benchmark.main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_result_of_other_settings_is_not_taken_for_the_one_asked_for(
    tmp_path, capsys
):
    path = benchmark.result_path(tmp_path, "synthetic/nut", "contrast", 0, 32)
    path.write_text(json.dumps({"settings": {"steps": 7, "aligned": True}}))
    words = ["--size", "32", "--seeds", "0", "--out", str(tmp_path), "--methods"]
    benchmark.main([*words, "contrast", "--steps", "7"])
    said = refusal([*words, "contrast", "--steps", "8"], capsys)
    assert "was made with {'steps': 7}, not with {'steps': 8}" in said
    said = refusal([*words, "contrast", "--aligned", "no"], capsys)
    assert "was made with {'aligned': True}, not with {'aligned': False}" in said


def test_mistakes_on_the_command_line_get_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MVTEC_ROOT", raising=False)
    said = refusal(["--categories", "mvtec/*"], capsys)
    assert said.endswith("mvtec/* needs --root or the variable MVTEC_ROOT")
    said = refusal(["--categories", "mvtec/*", "--root", str(tmp_path)], capsys)
    assert said.endswith("no category here (a folder with train/good)")
    said = refusal(["--method", "pca"], capsys)  # no abbreviations: see --weights
    assert "unrecognized arguments: --method" in said


def test_a_star_names_every_category_under_the_root(tmp_path):
    for name in ("castings", "felt"):
        (tmp_path / name / "train" / "good").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    found = benchmark.expand(["mvtec/*", "synthetic/*", "mvtec/felt"], str(tmp_path))
    drawn = [f"synthetic/{name}" for name in synthetic.CATEGORIES]
    assert found == ["mvtec/castings", "mvtec/felt", *drawn]
    with pytest.raises(ValueError, match="needs --root"):
        benchmark.expand(["mvtec/*"], None)
    with pytest.raises(ValueError, match="no category here"):
        benchmark.expand(["mvtec/*"], str(tmp_path / "notes"))


def test_own_images_in_the_same_layout_are_measured_like_any_other(tmp_path, capsys):
    root, out = tmp_path / "own", tmp_path / "results"
    folder = synthetic.write(root, "weave", size=32, n_train=8, n_test=4, n_defective=1)
    folder.rename(root / "felt")
    words = ["--root", str(root), "--categories", "mvtec/*", "--size", "32"]
    words += ["--methods", "per_pixel_gaussian", "--out", str(out)]
    assert benchmark.main(words) == 0, capsys.readouterr().out
    (path,) = out.iterdir()
    assert path.name == "mvtec-felt_per_pixel_gaussian_32px_seed0.json"
    assert str(tmp_path) not in path.read_text()


def test_help_says_all_that_a_user_needs(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    shown = capsys.readouterr().out
    for needed in ("mvtec/*", "to resume", "what it does", "--dask", "castings"):
        assert needed in shown
    assert all(f"  {method} " in shown for method in (*benchmark.METHODS, "backbone"))


def test_files_are_json_with_short_lists():
    value = {"a": {"b": [1, 2.5], "c": {}}, "d": [], "e": "x [1,  2]"}
    assert json.loads(to_text(value)) == value
    assert to_text(value).splitlines()[2] == '  "b": [1, 2.5],'
