"""Facts about the detector on energies in closed form, `experts` and `backbone`."""

import pytest
import torch
from safetensors.torch import save_file

from ebmlib.backbone import load_weights, weights_label
from ebmlib.data import load
from ebmlib.detector import EnergyDetector
from ebmlib.products import ProductOfExperts
from ebmlib.recipes import Backbone, Experts
from ebmlib.torchvision_import import torchvision_module


def pictures(count, channels=3, size=(32, 32), seed=0):
    """One fixed pattern with noise, in [0, 1]."""
    pattern = torch.rand(channels, *size, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, *size, generator=generator)
    return (0.3 + 0.4 * pattern + 0.05 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def network():
    """A whole ResNet with weights that no seed of the library gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        made = torchvision_module("models", "a test").resnet18(weights=None)
        for name, value in made.state_dict().items():
            if name.endswith("running_mean"):
                value.copy_(0.1 * torch.randn(value.shape))  # more would silence it
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape) + 0.5)
    return made.eval()


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    """The same weights in both formats."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(network.state_dict(), folder / "resnet18.pth")
    save_file(network.state_dict(), folder / "resnet18.safetensors")
    return {"pth": folder / "resnet18.pth", "st": folder / "resnet18.safetensors"}


QUICK = {"false_alarm_rate": 0.4, "aligned": True, "device": "cpu"}


@pytest.fixture(scope="module")
def nut():
    return load("synthetic/nut", size=32, n_train=24, n_test=6, n_defective=2)


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


def test_a_detector_needs_no_weights_file_once_it_is_saved(files, nut, tmp_path):
    copy = tmp_path / "mine.pth"
    copy.write_bytes(files["pth"].read_bytes())
    detector = EnergyDetector(Backbone(copy), 32, **QUICK).fit(nut.train)
    given = load_weights(copy)[1]["conv1.weight"]
    assert torch.equal(detector.energy_.features.trunk.conv1.weight, given)
    assert detector.log_ is None  # nothing was trained
    expected, name = detector.anomaly_score(nut.test), weights_label(copy)
    copy.unlink()
    detector.save(tmp_path / "detector.safetensors")
    again = EnergyDetector.load(tmp_path / "detector.safetensors", device="cpu")
    assert torch.equal(again.anomaly_score(nut.test), expected)
    assert again.settings()["weights"] == detector.settings()["weights"] == name
    assert again.threshold_ == detector.threshold_
    written = (tmp_path / "detector.safetensors").read_bytes()
    assert str(tmp_path).encode() not in written


def test_without_a_file_the_settings_say_random(nut):
    detector = EnergyDetector(Backbone(count=20), 32, **QUICK).fit(nut.train)
    assert detector.settings()["weights"] == "random"


def test_the_seed_of_the_fit_chooses_channels_and_leaves_the_weights(files, nut):
    def fitted(weights, seed):
        recipe = Backbone(weights, count=20)
        return EnergyDetector(recipe, 32, **QUICK, seed=seed).fit(nut.train).energy_

    one, other = fitted(files["pth"], 0).features, fitted(files["st"], 1).features
    assert torch.equal(one.trunk.conv1.weight, other.trunk.conv1.weight)
    assert not torch.equal(one.chosen, other.chosen)
