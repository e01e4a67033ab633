"""Facts about the detector: it finds what it should, repeats, travels, and refuses."""

import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ebmlib.calibration import conformal_threshold
from ebmlib.checkpoint import CheckpointError
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import image_auroc, pixel_auroc
from ebmlib.scoring import image_score

SIZE = 32


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
    return EnergyDetector("contrast", SIZE, steps=100, false_alarm_rate=0.2).fit(
        normals
    )


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
    assert torch.equal(found.scores, image_score(found.maps, detector.score))
    assert torch.equal(found.anomalous, found.scores > detector.threshold_)
    named = detector.all_scores(normals)
    assert torch.equal(named["energy"], detector.energy_score(normals))
    assert torch.equal(named[detector.score], found.scores)


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
            EnergyDetector(image_size=SIZE, steps=3, seed=seed, false_alarm_rate=0.2)
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
    detector = EnergyDetector(image_size=SIZE, steps=5, false_alarm_rate=0.2)
    detector.fit(normals)
    good, bad = stripes(15, seed=1)[0], stripes(15, seed=2, defects=True)[0]
    scores = detector.anomaly_score(torch.cat([good, bad]))
    assert image_auroc(scores, np.arange(30) >= 15) > 0.9


@pytest.mark.parametrize("method", ["score_matching", "contrastive_divergence"])
def test_every_method_fits_scores_and_travels(method, normals, tmp_path):
    detector = EnergyDetector(
        method, SIZE, steps=2, score="energy", false_alarm_rate=0.2
    )
    detector.fit(normals)
    detector.save(tmp_path / "d.safetensors")
    again = EnergyDetector.load(tmp_path / "d.safetensors")
    assert torch.equal(detector.anomaly_score(normals), again.anomaly_score(normals))
    assert torch.equal(detector.anomaly_map(normals), again.anomaly_map(normals))


def test_gray_images_of_another_size_are_welcome(tmp_path):
    gray = (stripes(12, 3)[0][:, 0] * 255).byte().numpy().repeat(2, 1).repeat(2, 2)
    detector = EnergyDetector(image_size=SIZE, steps=2, false_alarm_rate=0.4).fit(gray)
    assert detector.energy.channels == 1
    assert detector.anomaly_map(gray).shape == (12, SIZE, SIZE)


def test_a_saved_detector_gives_the_same_bits(detector, normals, tmp_path):
    path = tmp_path / "detector.safetensors"
    detector.save(path)
    loaded = EnergyDetector.load(path)
    for before, after in zip(
        vars(detector.predict(normals)).values(),
        vars(loaded.predict(normals)).values(),
        strict=True,
    ):
        assert torch.equal(before, after)
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


def test_threshold_keeps_the_false_alarm_rate_on_exchangeable_normals():
    """Split conformal prediction: P(new score > threshold) <= rate, on average."""
    generator = torch.Generator().manual_seed(0)
    alarms = []
    for _ in range(3000):
        scores = torch.randn(40, generator=generator)
        alarms.append(float(scores[0] > conformal_threshold(scores[1:], 0.1)))
    assert np.mean(alarms) < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 3000)
    assert np.mean(alarms) > 0.07


def test_as_many_normals_are_kept_as_the_promise_needs(normals):
    """One false alarm in five needs four held-out images, one in ten needs nine."""
    for rate, holdout, kept in ((0.2, 0.1, 4), (0.1, 0.1, 9), (0.2, 0.5, 20)):
        detector = EnergyDetector(
            image_size=SIZE, steps=1, false_alarm_rate=rate, holdout=holdout
        ).fit(normals)
        assert len(detector.held_out_) == kept
        scores = detector.anomaly_score(normals[detector.held_out_])
        expected = conformal_threshold(scores, rate)
        assert detector.threshold_ == pytest.approx(expected, rel=1e-5)


def test_too_few_normals_for_the_rate_is_said(normals):
    with pytest.warns(UserWarning, match="cannot guarantee a false-alarm rate"):
        assert conformal_threshold(torch.arange(5.0), 0.05) == 4.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conformal_threshold(torch.arange(19.0), 0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: EnergyDetector("magic"), "method must be one of"),
        (lambda x: EnergyDetector(score="median"), "score must be one of"),
        (lambda x: EnergyDetector(standardize="left"), "mode must be one of"),
        (lambda x: EnergyDetector(map="heat"), "map must be one of"),
        (lambda x: EnergyDetector(holdout=1.5), "holdout must lie strictly"),
        (lambda x: EnergyDetector(false_alarm_rate=0), "false_alarm_rate must lie"),
        (lambda x: EnergyDetector().predict(x), r"call fit\(\) or load\(\)"),
        (lambda x: EnergyDetector().save("x"), r"call fit\(\) or load\(\)"),
        (lambda x: EnergyDetector(image_size=SIZE).fit(x[:3]), "at least 4 normal"),
        (lambda x: EnergyDetector(image_size=SIZE).fit(x * 255), "divide by 255"),
        (lambda x: EnergyDetector(image_size=SIZE).fit(x / 0), "NaN or infinite"),
    ],
)
def test_mistakes_get_a_clear_message(normals, call, message):
    with pytest.raises(ValueError, match=message):
        call(normals)


def test_a_threshold_of_no_scores_or_nan_is_refused():
    for scores in (torch.empty(0), torch.tensor([1.0, float("nan")])):
        with pytest.raises(ValueError, match="threshold needs scores"):
            conformal_threshold(scores, 0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_threshold(torch.arange(9.0), 0.0)


PEAK = """
import resource, sys, torch
from ebmlib.detector import EnergyDetector
torch.set_num_threads(1)
detector = EnergyDetector.load(sys.argv[1])
found = sum(len(part.scores) for part in detector.stream(sys.argv[2]))
assert found == int(sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_images(detector, tmp_path):
    """The images of the larger folder take 49 MB, their maps 16 MB."""
    pytest.importorskip("resource")  # not on Windows
    detector.save(tmp_path / "detector.safetensors")
    picture = Image.fromarray(np.full((SIZE, SIZE, 3), 128, np.uint8))
    peak = {}
    for count in (64, 4_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        picture.save(folder / "0.png")
        for i in range(1, count):
            (folder / f"{i}.png").symlink_to(folder / "0.png")
        command = [sys.executable, "-c", PEAK, tmp_path / "detector.safetensors"]
        command += [folder, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak[count] = int(done.stdout) / 1024  # MB
    assert peak[4_000] < peak[64] + 14, peak
