"""Facts about the detector on energies in closed form, `experts` and `backbone`."""

import pytest
import torch
from safetensors.torch import save_file

from ebmlib.backbone import load_weights, weights_label
from ebmlib.data import load
from ebmlib.detector import EnergyDetector
from ebmlib.products import ProductOfExperts
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


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_detector_of_experts_travels(aligned, channels, tmp_path):
    images = pictures(24, channels)
    detector = EnergyDetector(
        "experts", 32, aligned=aligned, steps=3, false_alarm_rate=0.3
    ).fit(images)
    assert isinstance(detector.energy, ProductOfExperts)
    assert detector.energy.field.shared is not aligned
    detector.save(tmp_path / "d.safetensors")
    again = EnergyDetector.load(tmp_path / "d.safetensors")
    assert torch.equal(again.anomaly_map(images), detector.anomaly_map(images))
    assert torch.equal(again.energy_score(images), detector.energy_score(images))


QUICK = {"false_alarm_rate": 0.4, "aligned": True}


@pytest.fixture(scope="module")
def nut():
    return load("synthetic/nut", size=32, n_train=24, n_test=6, n_defective=2)


def test_a_detector_needs_no_weights_file_once_it_is_saved(files, nut, tmp_path):
    copy = tmp_path / "mine.pth"
    copy.write_bytes(files["pth"].read_bytes())
    detector = EnergyDetector("backbone", 32, weights=copy, **QUICK).fit(nut.train)
    given = load_weights(copy)[1]["conv1.weight"]
    assert torch.equal(detector.energy.features.trunk.conv1.weight, given)
    assert detector.log_ is detector.steps is None  # nothing was trained
    expected, name = detector.anomaly_score(nut.test), weights_label(copy)
    copy.unlink()
    detector.save(tmp_path / "detector.safetensors")
    again = EnergyDetector.load(tmp_path / "detector.safetensors", device="cpu")
    assert torch.equal(again.anomaly_score(nut.test), expected)
    assert again.weights_ == again.settings()["weights"] == name
    assert again.threshold_ == detector.threshold_
    assert (
        str(tmp_path).encode() not in (tmp_path / "detector.safetensors").read_bytes()
    )


def test_without_a_file_the_detector_warns_and_says_random(nut):
    with pytest.warns(UserWarning, match="weights are random: give weights=FILE"):
        detector = EnergyDetector("backbone", 32, **QUICK).fit(nut.train)
    assert detector.weights_ == detector.settings()["weights"] == "random"


def test_the_weights_decide_the_scores_and_the_seed_of_the_fit_does_not(files, nut):
    def scores(weights, seed=0):
        options = {**QUICK, "weights": weights, "seed": seed}
        energy = EnergyDetector("backbone", 32, **options).fit(nut.train).energy
        return energy, energy.features.trunk.conv1.weight

    energy, weight = scores(files["pth"])
    other, again = scores(files["st"], seed=1)
    assert torch.equal(weight, again)
    assert not torch.equal(
        energy.features.chosen, other.features.chosen
    )  # the channels are drawn


def test_the_other_methods_learn_their_own_weights(files):
    with pytest.raises(ValueError, match='weights are for method="backbone", got'):
        EnergyDetector("experts", weights=files["pth"])
