"""Facts about the benchmark: one whole file per result, nothing done twice."""

import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ebmlib import benchmark
from ebmlib.data import load, synthetic
from ebmlib.data.resizing import describe_vanished
from ebmlib.detector import EnergyDetector
from ebmlib.efficientnet import LITES
from ebmlib.metrics import au_pro, image_auroc
from ebmlib.results_files import result_path, to_text
from ebmlib.sweep import Outcome
from ebmlib.torchvision_import import torchvision_module
from ebmlib.weights import weights_label

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
    for name, (value, low, high) in result["metrics"]["gradient_minus_patches"].items():
        gradient, patches = (
            result["metrics"]["maps"][kind][name] for kind in ("gradient", "patches")
        )
        assert value == pytest.approx(gradient - patches, abs=2e-4)
        assert low <= value + 0.05 and value - 0.05 <= high
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
    answer = benchmark.Answer({"score": nut.labels.float()}, nut.masks.float(), {})
    found = benchmark.measure(answer, nut)
    assert found["image_auroc"] == found["pixel_auroc"] == found["au_pro"] == 1.0
    assert labels.sum() == masks.any((1, 2)).sum()


def test_without_masks_only_detection_is_measured(nut):
    bare = replace(nut, masks=torch.zeros_like(nut.masks))
    result = benchmark.run(bare, "contrast", **QUICK)
    assert set(result["metrics"]["maps"]["gradient"]) == {"image_auroc"}
    assert set(result["metrics"]["gradient_minus_patches"]) == {"image_auroc"}
    assert not {"pixel_auroc", "au_pro"} & result["metrics"].keys()
    whole = benchmark.run(nut, "contrast", **QUICK)
    assert result["metrics"]["image_scores"] == whole["metrics"]["image_scores"]
    assert "need masks" in "".join(result["metrics"]["notes"])


@pytest.mark.parametrize("defective", [True, False])
def test_with_one_class_the_maps_are_measured_and_image_auroc_is_null(nut, defective):
    kept = [i for i, label in enumerate(nut.labels.tolist()) if label == defective]
    one = replace(
        nut,
        test=nut.test[kept],
        labels=nut.labels[kept],
        masks=nut.masks[kept],
        kinds=[nut.kinds[i] for i in kept],
    )
    metrics = benchmark.run(one, "per_pixel_gaussian")["metrics"]
    assert metrics["image_auroc"] is metrics["image_auroc_interval"] is None
    assert metrics["image_scores"] == {} and "both classes" in metrics["notes"][0]
    assert ("au_pro" in metrics) == defective
    if defective:
        maps = benchmark.fit("per_pixel_gaussian", nut.train).anomaly_map(one.test)
        expected = au_pro(maps, one.masks)
        assert metrics["au_pro"] == pytest.approx(expected, abs=1e-4)
    scores = benchmark.run(one, "contrast", **QUICK)["images"]["scores"]
    assert len(scores["energy"]) == len(kept)


def test_what_cannot_be_measured_is_said_before_anything_is_fitted():
    assert benchmark.unmeasured(["good", "cut"], masked=True) == []
    (note,) = benchmark.unmeasured(["cut", "cut"], masked=True)
    assert note.endswith("the test images are 0 normal and 2 defective ones")
    (note,) = benchmark.unmeasured(["good", "cut"], masked=False)
    assert note.startswith("pixel AUROC and AU-PRO need masks")
    for kinds in (["good"], ["cut"]):
        with pytest.raises(ValueError, match="nothing can be measured: image AUROC"):
            benchmark.unmeasured(kinds, masked=False)


def test_a_detector_prepares_the_test_images_once(nut):
    """`evaluate` asks `EnergyDetector.score_all` and nothing else that sees images."""
    model = benchmark.fit("contrast", nut.train, **QUICK)
    expected = benchmark.evaluate(model, nut.test)
    whole, calls = model.score_all(nut.test), []
    model.score_all = lambda images: calls.append(len(images)) or whole
    model.anomaly_score = model.anomaly_map = None
    found = benchmark.evaluate(model, nut.test)
    assert calls == [len(nut.test)]
    assert torch.equal(found.scores["score"], expected.scores[model.score_])
    assert found.scores.keys() == expected.scores.keys()
    assert torch.equal(found.maps, expected.maps)


# ------------------------------------------------------- what selection may look at


class SealedCategory:
    """A category whose test images, labels and masks raise until `open` is set."""

    def __init__(self, data):
        self._data, self.open = data, False

    def __getattr__(self, name):
        if name not in ("name", "train", "image_shape") and not self.open:
            raise AssertionError(f"fit looked at Category.{name}")
        return getattr(self._data, name)


@pytest.mark.parametrize("method", benchmark.ALL)
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
    options = benchmark.accepted(method, {"steps": 2, "features": "cosine"})
    options["false_alarm_rate"] = 0.4
    result = benchmark.run(sealed, method, **options)
    assert sealed.open and result["metrics"].keys() >= {"image_auroc", "au_pro"}


def test_the_seal_holds(nut):
    sealed = SealedCategory(nut)
    for name in ("test", "labels", "masks", "kinds", "notes"):
        with pytest.raises(AssertionError, match=f"fit looked at Category.{name}"):
            getattr(sealed, name)


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
    for asked, found in ((True, True), (False, False), ("auto", True)):
        model = benchmark.fit("contrast", nut.train, aligned=asked, **QUICK)
        assert model.settings()["aligned"] is found


# ------------------------------------------------------------------------ many results


def files(folder: Path) -> list[Path]:
    """All files below the folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def in_this_process(monkeypatch):
    """Cells run here, one after the other: quicker than a process for each."""

    def here(cells, **_):
        for cell in cells:
            said = benchmark.run_here({**cell, "threads": 1})
            yield Outcome(Path(cell["path"]).name, said, True)

    monkeypatch.setattr(benchmark, "sweep", here)


def own(root: Path, **few) -> Path:
    """A category of one's own in MVTec layout, called felt."""
    few = {"size": 32, "n_train": 8, "n_test": 4, "n_defective": 1} | few
    return synthetic.write(root, "weave", **few).rename(root / "felt")


def refusal(words, capsys):
    """What is printed about a command line that is refused."""
    with pytest.raises(SystemExit) as caught:
        benchmark.main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_result_of_other_settings_is_not_taken_for_the_one_asked_for(
    tmp_path, capsys
):
    path = result_path(tmp_path, "synthetic/nut", "contrast", 0, 32)
    path.parent.mkdir()
    path.write_text(json.dumps({"settings": {"steps": 7, "aligned": True}}))
    words = ["--size", "32", "--seeds", "0", "--out", str(tmp_path), "--methods"]
    assert benchmark.main([*words, "contrast"]) == 0
    assert benchmark.main([*words, "contrast", "--aligned", "yes"]) == 0
    said = refusal([*words, "contrast", "--aligned", "no"], capsys)
    assert "was made with {'aligned': True}, not with {'aligned': False}" in said
    path.write_text(json.dumps({"settings": {}, "options": {"aligned": False}}))
    said = refusal([*words, "contrast"], capsys)
    assert "was made with {'aligned': False}, not with {}" in said


def test_two_lengths_of_training_are_two_results(tmp_path):
    words = ["--size", "32", "--seeds", "0", "--out", str(tmp_path), "--steps", "3"]
    words += ["--methods", "score_matching", "pca", "--threads", "1"]
    for cell in benchmark.cells(benchmark.parser().parse_args(words), "a test"):
        benchmark.run_here(cell)
    both = {path.name: json.loads(path.read_text()) for path in files(tmp_path)}
    energy = both.pop("synthetic-nut_score_matching_3steps_32px_seed0.json")
    assert energy["options"] == {"steps": 3} and energy["settings"]["steps"] == 3
    assert list(both) == ["synthetic-nut_pca_32px_seed0.json"]


def test_a_broken_result_is_named_before_anything_runs(tmp_path, capsys):
    path = result_path(tmp_path, "synthetic/nut", "pca", 0, 32)
    path.parent.mkdir()
    words = ["--size", "32", "--out", str(tmp_path), "--methods", "brightness", "pca"]
    for broken in ('{"settings": {', "[1, 2]", "\xff"):
        path.write_bytes(broken.encode("latin-1"))
        assert str(path) in refusal(words, capsys)
        assert files(tmp_path) == [path]


def test_mistakes_on_the_command_line_get_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MVTEC_ROOT", raising=False)
    said = refusal(["--categories", "mvtec/*"], capsys)
    assert said.endswith("mvtec/* needs --root or the variable MVTEC_ROOT")
    said = refusal(["--categories", "mvtec/*", "--root", str(tmp_path)], capsys)
    assert said.endswith("no category here (a folder with train/good)")
    said = refusal(["--method", "pca"], capsys)  # no abbreviations: see --weights
    assert "unrecognized arguments: --method" in said
    said = refusal(["--methods", "pcaa"], capsys)
    assert "--methods: invalid choice: 'pcaa'" in said
    said = refusal(["--categories", "synthetic/nit"], capsys)
    assert "synthetic/nit: no such category" in said
    said = refusal(["--categories", "mvtec/no", "--root", str(tmp_path)], capsys)
    assert said.endswith("no category here (a folder with train/good)")


@pytest.mark.parametrize("flag", ["--steps", "--jobs", "--threads", "--size"])
@pytest.mark.parametrize("value", ["-5", "a", "1.5", "0"])
def test_a_number_that_makes_no_sense_is_refused_by_its_name(flag, value, capsys):
    said = refusal([flag, value], capsys)
    assert f"argument {flag}: must be a whole number of at least" in said
    assert said.endswith(f"got '{value}'")


def test_a_folder_that_cannot_be_written_is_said_before_the_first_fit(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(benchmark, "sweep", None)  # nothing may start
    words = ["--methods", "brightness", "--size", "32"]
    for flag in ("--out", "--save"):
        out = ["--out", str(tmp_path / "results")] if flag == "--save" else []
        said = refusal([*words, *out, flag, str(tmp_path / "file" / "in")], capsys)
        assert f"{flag} " in said and "cannot be written" in said


@pytest.mark.parametrize("gone", ["good", "defects", "defects and masks"])
def test_test_folders_with_one_class_are_noticed_before_the_first_fit(
    gone, tmp_path, capsys, in_this_process
):
    folder, out = own(tmp_path), tmp_path / "results"
    for path in (folder / "test").iterdir():
        if (path.name == "good") == (gone == "good"):
            shutil.rmtree(path)
    if gone != "good":
        shutil.rmtree(folder / "ground_truth")
    words = ["--root", str(tmp_path), "--categories", "mvtec/felt", "--size", "32"]
    words += ["--methods", "per_pixel_gaussian", "--out", str(out)]
    if gone == "good":
        assert benchmark.main(words) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith("note: mvtec/felt: image AUROC needs both classes")
        (path,) = files(out)
        metrics = json.loads(path.read_text())["metrics"]
        assert metrics["image_auroc"] is None and metrics["au_pro"] > 0
    else:
        assert "mvtec/felt: nothing can be measured" in refusal(words, capsys)
        assert not files(out)


def test_the_benchmark_can_be_imported_where_there_is_no_resource(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    importlib.reload(benchmark)
    monkeypatch.setattr(benchmark.Path, "exists", lambda _: False)  # no /proc
    with monkeypatch.context() as patched:
        counters = SimpleNamespace(peak_wset=3 * 2**20)
        process = SimpleNamespace(memory_info=lambda: counters)
        module = SimpleNamespace(Process=lambda: process)
        patched.setitem(sys.modules, "psutil", module)
        assert benchmark.peak_memory_mb() == 3
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert benchmark.peak_memory_mb() is None


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


def test_own_images_in_the_same_layout_are_measured_like_any_other(
    tmp_path, capsys, in_this_process
):
    root, out = tmp_path / "own", tmp_path / "results"
    own(root)
    words = ["--root", str(root), "--categories", "mvtec/*", "--size", "32"]
    words += ["--methods", "per_pixel_gaussian", "--out", str(out)]
    assert benchmark.main(words) == 0, capsys.readouterr().out
    (path,) = files(out)
    assert path.parent.name == "mvtec_32px"
    assert path.name == "mvtec-felt_per_pixel_gaussian_32px_seed0.json"
    assert str(tmp_path) not in path.read_text()


# ------------------------------------------------------------------------ no squares


def strips(root: Path) -> Path:
    """A category of high images, 48 x 24 px, with a mask for each defect."""
    folder = own(root)
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((24, 48), Image.Resampling.NEAREST).save(path)
    return folder.rename(root / "strip")


@pytest.mark.parametrize("method", ["per_pixel_gaussian", "contrast"])
def test_images_that_are_no_squares_keep_both_sides(
    method, tmp_path, capsys, in_this_process, monkeypatch
):
    strips(tmp_path)
    seen, measured = [], benchmark.evaluate

    def evaluate(model, images):
        answer = measured(model, images)
        seen.extend([images.shape[1:], answer.maps.shape[1:]])
        return answer

    monkeypatch.setattr(benchmark, "evaluate", evaluate)
    words = ["--root", str(tmp_path), "--categories", "mvtec/strip", "--size", "48x24"]
    words += ["--methods", method, "--seeds", "0", "--out", str(tmp_path / "results")]
    if method == "contrast":
        words += ["--steps", "2", "--save", str(tmp_path / "kept")]
    assert benchmark.main(words) == 0, capsys.readouterr().out
    assert seen == [(3, 48, 24), (48, 24)]
    (path,) = files(tmp_path / "results")
    steps = "_2steps" if method == "contrast" else ""
    assert path.parent.name == "mvtec_48x24px"
    assert path.name == f"mvtec-strip_{method}{steps}_48x24px_seed0.json"
    result = json.loads(path.read_text())
    assert result["image_size"] == "48x24"
    assert 0 <= result["metrics"]["au_pro"] <= 1
    if method == "contrast":
        kept = EnergyDetector.load(tmp_path / "kept" / f"{path.stem}.safetensors")
        assert kept.image_size == (48, 24)
        assert result["settings"]["image_size"] == [48, 24]
    monkeypatch.setattr(benchmark, "sweep", lambda cells, **_: [])
    assert benchmark.main(words) == 0  # not taken for a result of other settings


def test_a_fit_takes_both_sides_from_the_images(nut):
    model = benchmark.fit("contrast", nut.train[..., 4:-4, :], **QUICK)
    assert model.image_size == (24, 32)
    assert benchmark.fit("contrast", nut.train, **QUICK).image_size == 32


@pytest.mark.parametrize(
    "text, size",
    [("64", 64), ("256x640", (256, 640)), ("640X256", (640, 256)), ("64x64", 64)],
)
def test_a_size_is_one_side_or_height_and_width(text, size):
    assert benchmark.parser().parse_args(["--size", text]).size == size


@pytest.mark.parametrize("text", ["64x", "x64", "4x64", "64x64x64", "64 x a", "6x-4"])
def test_a_size_that_is_none_is_refused_with_an_example(text, capsys):
    said = refusal(["--size", text], capsys)
    assert f"HEIGHTxWIDTH, such as 256x640; got {text!r}" in said


def test_drawn_images_are_square(capsys):
    said = refusal(["--size", "32x64"], capsys)
    assert "synthetic/nut is drawn, and drawn images are square" in said
    assert said.endswith("got 32x64")


def test_notes_of_other_matters_are_no_vanished_masks(nut):
    lost = "ground_truth/a.png: " + describe_vanished([(1, 2, 3)])
    noted = replace(nut, notes=("5 cells are left out", lost))
    assert benchmark.run(noted, "brightness")["vanished_masks"] == 1


def test_help_says_all_that_a_user_needs(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    shown = capsys.readouterr().out
    for needed in (
        "mvtec/*",
        "elpv/*",
        "256x640",
        "ebmlib[photos]",
        "to resume",
        "what it does",
        "--dask",
        "castings",
    ):
        assert needed in shown
    assert all(f"  {method} " in shown for method in benchmark.ALL)
    assert "ebmlib[features]" in shown.split("--methods", 1)[1].split("--seeds")[0]


# ------------------------------------------------------------------------ weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of ResNet weights that no seed of the library gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        made = torchvision_module("models", "a test").resnet18(weights=None)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(made.state_dict(), path)
    return path


def test_results_name_the_file_and_its_hash_and_not_where_it_lay(
    weights, tmp_path, capsys
):
    own(tmp_path)
    out = tmp_path / "results"
    words = ["--methods", "fields", "--size", "32", "--seeds", "0", "--threads", "1"]
    words += ["--features", "resnet18"]
    words += ["--root", str(tmp_path), "--categories", "mvtec/felt"]
    words += ["--out", str(out)]
    asked = benchmark.parser().parse_args([*words, "--weights", str(weights)])
    (cell,) = benchmark.cells(asked, "a test")
    benchmark.run_here(cell)
    (path,) = files(out)
    result, name = json.loads(path.read_text()), weights_label(weights)
    assert result["settings"]["weights"] == result["options"]["weights"] == name
    assert str(weights.parent) not in path.read_text()
    assert benchmark.main([*words, "--weights", str(weights)]) == 0  # already there
    said = refusal([*words, "--weights", "random"], capsys)  # other weights
    assert f"was made with {{'weights': '{name}'}}, not with" in said


def test_weights_that_no_method_asks_for_and_missing_ones_are_refused(
    weights, tmp_path, capsys
):
    words = ["--out", str(tmp_path / "none"), "--weights"]
    said = refusal([*words, str(weights), "--methods", "pca"], capsys)
    assert "--weights is for --methods fields" in said
    said = refusal([*words, str(tmp_path / "no"), "--methods", "fields"], capsys)
    assert "no weights file at" in said
    words = ["--out", str(tmp_path / "none"), "--features"]
    said = refusal([*words, "cosine", "--methods", "pca"], capsys)
    assert "--features is for --methods fields" in said
    said = refusal([*words, "resnet18", "--methods", "fields"], capsys)
    assert "give weights=FILE" in said
    said = refusal([*words, "vgg16", "--methods", "fields"], capsys)
    assert "features must be one of" in said
    assert not (tmp_path / "none").exists()


def test_fields_are_offered_by_default_where_their_weights_are_installed(
    monkeypatch, tmp_path, capsys
):
    assert benchmark.is_installed("pca") and benchmark.is_installed("experts")
    there = importlib.util.find_spec(LITES["efficientnet_lite0"].package) is not None
    assert ("fields" in benchmark.METHODS) is there is benchmark.is_installed("fields")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not benchmark.is_installed("fields")
    said = refusal(["--methods", "fields", "--out", str(tmp_path / "none")], capsys)
    assert 'pip install "ebmlib[features]"' in said


def test_the_command_of_a_result_keeps_random_weights_and_drops_a_file():
    words = ["--weights", "random", "--root", "/a", "--features", "resnet18"]
    kept = ["--weights", "random", "--features", "resnet18"]
    assert benchmark._without_folders(words) == kept
    for words in (
        ["--weights", "/a/b.pth", "--jobs", "2"],
        ["--weights=a", "--jobs=2"],
    ):
        assert "".join(benchmark._without_folders(words)).startswith("--jobs")


# ------------------------------------------------------------------- recipes as classes


@dataclass(frozen=True)
class Recipe:
    """A recipe with options of its own."""

    steps: int = 3000
    width: int = 32


@dataclass(frozen=True)
class FromFile:
    """A recipe that needs a file."""

    weights: str | None = None


def test_the_options_of_a_recipe_class_are_its_fields(monkeypatch):
    recipes = {"trained": Recipe, "read": FromFile}
    monkeypatch.setattr(benchmark, "RECIPES", recipes)
    monkeypatch.setattr(benchmark, "ALL", tuple(recipes))
    made = lambda *arguments, **options: (*arguments, options)  # noqa: E731
    monkeypatch.setattr(benchmark, "EnergyDetector", made)
    assert benchmark.options_of("trained") == ("steps", "width")
    assert benchmark.is_random("read")
    settings = {"steps": 7, "weights": "file", "holdout": 0.2}
    assert benchmark.accepted("trained", settings) == {"steps": 7}
    assert benchmark.accepted("read", settings) == {"weights": "file"}
    own = {"steps": 7, "holdout": 0.2}
    recipe, size, options = benchmark.new_model("trained", 64, 5, "auto", own)
    assert recipe == Recipe(steps=7) and size == 64
    assert options == {"seed": 5, "aligned": "auto", "holdout": 0.2}
    with pytest.raises(ValueError, match="method must be one of"):
        benchmark.options_of("untrained")
