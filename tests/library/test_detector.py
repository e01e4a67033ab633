"""Facts about the detector: it finds what it should, repeats, travels, and refuses."""

import copy
import functools
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.base import clone

from ebmlib.calibration import conformal_threshold
from ebmlib.checkpoint import CheckpointError
from ebmlib.data import load
from ebmlib.detector import EnergyDetector
from ebmlib.estimator import NotFittedError
from ebmlib.metrics import image_auroc, pixel_auroc
from ebmlib.recipes import Contrast, ContrastiveDivergence, Experts, ScoreMatching
from ebmlib.scoring import gradient_map, image_score

SIZE = 32
SMALL = {"width": 4}  # of a network, where its size does not matter


def stripes(count, seed, defects=False):
    """Vertical stripes with noise; a defect is a gray square where stripes stop."""
    rng = np.random.default_rng(seed)
    wave = 0.5 + 0.3 * np.sin(np.arange(SIZE) * np.pi / 4)
    images = wave + 0.03 * rng.standard_normal((count, 3, SIZE, SIZE))
    masks = np.zeros((count, SIZE, SIZE), dtype=bool)
    if defects:
        for image, mask, (y, x) in zip(
            images, masks, rng.integers(4, SIZE - 12, (count, 2)), strict=True
        ):
            image[:, y : y + 8, x : x + 8] = 0.5
            mask[y : y + 8, x : x + 8] = True
    return torch.from_numpy(images).float().clamp(0, 1), torch.from_numpy(masks)


@pytest.fixture(scope="module")
def normals():
    return stripes(40, seed=0)[0]


@pytest.fixture(scope="module")
def detector(normals):
    return EnergyDetector(Contrast(steps=100), SIZE, false_alarm_rate=0.2).fit(normals)


def test_it_detects_and_localizes_what_training_never_showed(detector):
    good, none = stripes(15, seed=1)
    bad, masks = stripes(15, seed=2, defects=True)
    images, labels = torch.cat([good, bad]), np.arange(30) >= 15
    found = detector.predict(images)
    assert image_auroc(found.scores, labels) > 0.95
    assert pixel_auroc(found.maps, torch.cat([none, masks])) > 0.9
    assert found.anomalous[15:].float().mean() > 0.7
    assert found.anomalous[:15].float().mean() <= 0.5


def test_prediction_is_made_of_the_named_scores_and_the_threshold(detector, normals):
    found = detector.predict(normals)
    assert torch.equal(found.scores, detector.anomaly_score(normals))
    assert torch.equal(found.maps, detector.anomaly_map(normals))
    assert torch.equal(found.scores, image_score(found.maps, detector.score_))
    assert torch.equal(found.anomalous, found.scores > detector.threshold_)
    assert torch.equal(found.masks, found.maps > detector.pixel_threshold_)
    everything = detector.score_all(normals)
    named = everything["scores"]
    assert torch.equal(named["energy"], detector.energy_score(normals))
    assert torch.equal(named[detector.score_], found.scores)
    assert torch.equal(everything["map"], found.maps)
    seen = detector.pipeline_.view(normals).images
    plain = gradient_map(detector.energy_, seen, smoothing=detector.pipeline_.smoothing)
    assert torch.allclose(everything["gradient"], plain, rtol=1e-4, atol=1e-6)


def test_batches_do_not_change_the_answer(detector, normals):
    whole = detector.predict(normals)
    for size in (1, 7):
        parts = list(detector.stream(normals, batch_size=size))
        assert len(parts) == -(-len(normals) // size)
        assert torch.allclose(torch.cat([p.maps for p in parts]), whole.maps, atol=1e-4)


def test_tensor_array_and_folder_agree(detector, normals, tmp_path):
    pixels = (normals[:5].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    exact = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    scores = detector.anomaly_score(exact)
    assert torch.equal(scores, detector.anomaly_score(pixels))
    assert torch.equal(scores, detector.anomaly_score(tmp_path))
    assert torch.equal(scores, detector.anomaly_score(str(tmp_path)))


def test_fit_is_repeatable_and_leaves_the_global_generator_alone(normals):
    def scores(seed):
        return (
            EnergyDetector(
                Experts(steps=3, **SMALL), SIZE, seed=seed, false_alarm_rate=0.2
            )
            .fit(normals)
            .anomaly_score(normals)
        )

    state = torch.get_rng_state()
    first = scores(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, scores(1))
    assert not torch.equal(first, scores(2))


def test_the_default_finds_defects_after_a_few_steps(normals):
    detector = EnergyDetector(Experts(steps=5), SIZE, false_alarm_rate=0.2)
    detector.fit(normals)
    good, bad = stripes(15, seed=1)[0], stripes(15, seed=2, defects=True)[0]
    scores = detector.anomaly_score(torch.cat([good, bad]))
    assert image_auroc(scores, np.arange(30) >= 15) > 0.9


@pytest.mark.parametrize(
    "recipe",
    [
        Contrast(steps=2, **SMALL),
        Experts(steps=2, **SMALL),
        ScoreMatching(steps=2),
        ContrastiveDivergence(steps=2, chain_steps=4, **SMALL),
    ],
    ids=lambda recipe: recipe.name,
)
def test_every_recipe_fits_scores_and_travels(recipe, normals, tmp_path):
    detector = EnergyDetector(recipe, SIZE, score="energy", false_alarm_rate=0.2)
    detector.fit(normals)
    detector.save(tmp_path / "d.safetensors")
    again = EnergyDetector.load(tmp_path / "d.safetensors")
    assert torch.equal(detector.anomaly_score(normals), again.anomaly_score(normals))
    assert torch.equal(detector.anomaly_map(normals), again.anomaly_map(normals))
    assert repr(again.set_params(device="auto")) == repr(detector)
    assert again.settings() == detector.settings()


def test_gray_images_of_another_size_are_welcome(tmp_path):
    gray = (stripes(12, 3)[0][:, 0] * 255).byte().numpy().repeat(2, 1).repeat(2, 2)
    detector = EnergyDetector(
        Experts(steps=2, **SMALL), SIZE, false_alarm_rate=0.4
    ).fit(gray)
    assert detector.energy_.channels == 1
    assert detector.anomaly_map(gray).shape == (12, SIZE, SIZE)


def test_a_saved_detector_gives_the_same_bits(detector, normals, tmp_path):
    path = tmp_path / "detector.safetensors"
    detector.save(path)
    loaded = EnergyDetector.load(path)
    before, after = detector.predict(normals), loaded.predict(normals)
    for name in ("anomalous", "scores", "p_values", "maps", "masks"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert loaded.threshold_ == detector.threshold_
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


def test_anything_else_is_refused(detector, tmp_path):
    path = tmp_path / "detector.safetensors"
    detector.save(path)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "text").write_text("not a detector")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    for name in ("cut", "text", "pickle", "foreign"):
        with pytest.raises(CheckpointError, match=name):
            EnergyDetector.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        EnergyDetector.load(tmp_path / "absent")


def test_a_file_that_was_tampered_with_is_refused(detector, tmp_path):
    """The header is part of the checksum: another threshold is not believed."""
    path = tmp_path / "detector.safetensors"
    detector.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    header = json.loads(metadata["header"])
    header["threshold"] = 1e9
    metadata["header"] = json.dumps(header)
    save_file(load_file(path), path, metadata)
    with pytest.raises(CheckpointError, match="checksum"):
        EnergyDetector.load(path)


def test_as_many_normals_are_kept_as_the_promise_needs(normals):
    """One false alarm in five needs four held-out images, one in ten needs nine."""
    for rate, holdout, kept in ((0.2, 0.1, 4), (0.1, 0.1, 9), (0.2, 0.5, 20)):
        detector = EnergyDetector(
            Contrast(steps=1, **SMALL), SIZE, false_alarm_rate=rate, holdout=holdout
        ).fit(normals)
        assert len(detector.held_out_) == kept
        scores = detector.anomaly_score(normals[detector.held_out_])
        expected = conformal_threshold(scores, rate)
        assert detector.threshold_ == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: EnergyDetector("magic"), "recipe must be one of"),
        (lambda x: EnergyDetector(score="median"), "score must be one of"),
        (lambda x: EnergyDetector(standardize="left"), "standardize must be one of"),
        (lambda x: EnergyDetector(map="heat"), "map must be one of"),
        (lambda x: EnergyDetector(holdout=1.5), "holdout must lie strictly"),
        (lambda x: EnergyDetector(false_alarm_rate=0), "must lie strictly"),
        (lambda x: EnergyDetector(image_size=32.9), "size must be"),
        (lambda x: EnergyDetector(image_size=0), "size must be"),
        (lambda x: EnergyDetector(image_size=-3), "size must be"),
        (lambda x: EnergyDetector(seed=-1), "seed must be a whole number"),
        (lambda x: EnergyDetector(seed=2**64), "seed must be a whole number"),
        (lambda x: EnergyDetector(smoothing=-1.0), "smoothing must be at least 0"),
        (lambda x: EnergyDetector(aligned="yes"), "aligned must be"),
        (lambda x: EnergyDetector(max_pixels=0), "max_pixels"),
        (lambda x: EnergyDetector(pixel_guarantee="all"), "pixel_guarantee must be"),
        (lambda x: EnergyDetector(device="gpu"), "no device"),
        (
            lambda x: EnergyDetector("score_matching", map="patches"),
            "its energy has no patches",
        ),
        (
            lambda x: EnergyDetector("contrastive_divergence", map="compressed"),
            "its energy has no patches",
        ),
        (
            lambda x: EnergyDetector(image_size=SIZE).fit(x, steps=5),
            "belong to the rec",
        ),
        (lambda x: EnergyDetector(image_size=SIZE).fit(0 * x + 0.5), "no contrast"),
        (lambda x: EnergyDetector(image_size=SIZE).fit(x[:3]), "at least 4 normal"),
        (lambda x: EnergyDetector(image_size=SIZE).fit(x * 255), "divide by 255"),
        (lambda x: EnergyDetector(image_size=SIZE).fit(x / 0), "NaN or infinite"),
    ],
)
def test_mistakes_get_a_clear_message(normals, call, message):
    with pytest.raises(ValueError, match=message):
        call(normals)


def test_what_needs_a_fit_says_so(normals, tmp_path):
    new = EnergyDetector()
    for call in (
        lambda: new.predict(normals),
        lambda: new.anomaly_score(normals),
        lambda: new.energy_score(normals),
        lambda: new.anomaly_map(normals),
        lambda: new.explain(normals[:1]),
        lambda: new.calibrate(normals),
        lambda: new.save(tmp_path / "x"),
    ):
        with pytest.raises(NotFittedError, match="fit"):
            call()


def stop_at(last):
    def callback(step, info):
        if step == last:
            raise KeyboardInterrupt

    return callback


def test_an_interrupted_first_fit_leaves_an_unfitted_detector(normals):
    detector = EnergyDetector(Contrast(steps=20, **SMALL), SIZE, false_alarm_rate=0.2)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(normals, callback=stop_at(5))
    with pytest.raises(NotFittedError):
        detector.predict(normals)


def test_an_interrupted_second_fit_leaves_the_first(normals):
    detector = EnergyDetector(Contrast(steps=10, **SMALL), SIZE, false_alarm_rate=0.2)
    before = detector.fit(normals).predict(normals)
    weave = torch.rand(30, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(KeyboardInterrupt):
        detector.fit(weave, callback=stop_at(5))
    with pytest.raises(ValueError, match="NaN"):
        detector.fit(normals / 0)
    after = detector.predict(normals)
    assert torch.equal(before.scores, after.scores)
    assert torch.equal(before.anomalous, after.anomalous)


@functools.cache
def product(name):
    few = {"n_train": 24, "n_test": 4, "n_defective": 1}
    return load(f"synthetic/{name}", size=48, **few)


@pytest.mark.parametrize("names", [("bolt", "nut"), ("weave", "nut"), ("nut", "weave")])
def test_a_second_fit_equals_a_fresh_detector(names):
    """Nothing of the first product stays: geometry, map statistics, thresholds."""
    first, second = map(product, names)
    new = EnergyDetector(Experts(steps=2, **SMALL), 48, false_alarm_rate=0.2)
    fresh = clone(new).fit(second.train)
    again = new.fit(first.train).fit(second.train)
    assert torch.equal(
        fresh.predict(second.test[:9]).maps, again.predict(second.test[:9]).maps
    )
    assert fresh.threshold_ == again.threshold_
    assert fresh.settings() == again.settings()
    assert repr(again) == repr(clone(again))


def test_thresholds_are_renewed_without_training(detector, normals):
    copied = copy.deepcopy(detector)
    darker = (stripes(30, 5)[0] * 0.6 + 0.1).clamp(0, 1)
    copied.calibrate(darker)
    scores = copied.anomaly_score(darker)
    assert torch.equal(scores, copied.calibration_scores_)
    assert copied.threshold_ == conformal_threshold(scores, 0.2)
    assert copied.held_out_ is None
    assert torch.equal(copied.anomaly_score(normals), detector.anomaly_score(normals))


def test_normal_images_rarely_have_a_flagged_pixel(detector):
    """With the score "max" an image is anomalous where a pixel is flagged."""
    assert detector.pixel_threshold_ == detector.threshold_
    found = detector.predict(stripes(30, seed=6)[0])
    assert torch.equal(found.masks.flatten(1).any(1), found.anomalous)


def test_maps_and_masks_come_at_the_size_of_the_photograph(detector, tmp_path):
    big = stripes(3, 7, defects=True)[0].repeat_interleave(3, 2).repeat_interleave(3, 3)
    for i, image in enumerate(big):
        pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.png"):
        detector.predict(tmp_path)
    found = detector.predict(tmp_path, on_error="skip")
    assert [path.rsplit("/")[-1] for path in found.names] == ["0.png", "1.png", "2.png"]
    assert found.sizes == [(3 * SIZE, 3 * SIZE)] * 3
    assert [path.rsplit("/")[-1] for path, _ in found.errors] == ["broken.png"]
    for i in range(3):
        large = found.photo_map(i)
        assert large.shape == found.photo_mask(i).shape == (3 * SIZE, 3 * SIZE)
        row, column = divmod(int(large.argmax()), 3 * SIZE)
        small = divmod(int(found.maps[i].argmax()), SIZE)
        assert abs(row - 3 * small[0] - 1) <= 2
        assert abs(column - 3 * small[1] - 1) <= 2


def test_an_explanation_is_the_verdict_in_numbers(normals):
    detector = EnergyDetector(Experts(steps=20, **SMALL), SIZE, false_alarm_rate=0.2)
    detector.fit(normals)
    bad, masks = stripes(1, seed=2, defects=True)
    why, found = detector.explain(bad), detector.predict(bad)
    assert why.score == float(found.scores)
    assert why.anomalous == bool(found.anomalous)
    assert sum(why.terms.values()) == pytest.approx(why.energy, rel=1e-4)
    assert len(why.terms) == 2
    for patch in why.patches:
        parts = [v for k, v in patch.items() if k not in ("row", "column", "energy")]
        assert sum(parts) == pytest.approx(patch["energy"], rel=1e-4)
    row, column = why.peak
    assert masks[0, max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5].any()
    assert "threshold" in str(why)
    with pytest.raises(ValueError, match="one image"):
        detector.explain(normals)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"]
)
def test_fit_works_where_gradients_are_off(normals, mode):
    def new():
        return EnergyDetector(Experts(steps=2, **SMALL), SIZE, false_alarm_rate=0.2)

    expected = new().fit(normals).anomaly_score(normals)
    with mode():
        found = new().fit(normals).anomaly_score(normals)
    assert torch.equal(expected, found)


def test_fit_works_with_double_as_the_default_type(normals):
    torch.set_default_dtype(torch.float64)
    try:
        detector = EnergyDetector(Experts(steps=2, **SMALL), SIZE, false_alarm_rate=0.2)
        scores = detector.fit(normals).anomaly_score(normals)
    finally:
        torch.set_default_dtype(torch.float32)
    assert scores.isfinite().all()


def test_a_misspelt_option_is_refused_with_its_name(normals):
    with pytest.raises(TypeError, match="'chekpoint'; did you mean 'checkpoint'"):
        EnergyDetector(image_size=SIZE).fit(normals, chekpoint="a")


def test_twelve_bits_are_read_as_the_camera_meant_them(normals, tmp_path):
    """Files with 0 .. 4095 in 16 bits are the same images as their values / 4095."""
    levels = (normals.mean(1).numpy() * 4095).round().astype(np.uint16)
    for i, pixels in enumerate(levels):
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    exact = torch.from_numpy(levels.astype(np.float32) / 4095)[:, None]
    new = EnergyDetector(Experts(steps=2, **SMALL), SIZE, false_alarm_rate=0.2)
    expected = clone(new).fit(exact).anomaly_score(exact)
    told = clone(new).set_params(bits=12).fit(tmp_path)
    assert torch.allclose(told.anomaly_score(tmp_path), expected, rtol=1e-4)
    with pytest.warns(UserWarning, match="bits"):
        new.fit(tmp_path)
