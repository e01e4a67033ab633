"""Facts about Gaussians on backbone features; every file of weights is made here."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.distance import mahalanobis

from ebmbook.results import label, results_table
from ebmlib import benchmark
from ebmlib.backbone import BackbonePatches, load_weights, weights_label
from ebmlib.data import load, synthetic
from ebmlib.detector import EnergyDetector
from ebmlib.energy import input_gradient
from ebmlib.products import build_energy
from ebmlib.scoring import gradient_map, patch_map
from ebmlib.torchvision_import import torchvision_module

SIZE = (64, 64)


def pictures(count, channels=3, seed=0):
    """One fixed pattern with noise, in [0, 1]."""
    pattern = torch.rand(channels, *SIZE, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, *SIZE, generator=generator)
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


@pytest.fixture(scope="module")
def fitted():
    return BackbonePatches(SIZE, count=20).fit(pictures(30))


def seen(tree):
    """The weights that a trunk reads."""
    return {k: v for k, v in tree.items() if not k.endswith("num_batches_tracked")}


# ------------------------------------------------------------------------ the energy


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_energy_is_half_the_squared_mahalanobis_distance(everywhere):
    images, x = pictures(30), pictures(3, seed=1)
    energy = BackbonePatches(SIZE, count=20, everywhere=everywhere).fit(images)
    phi, other = energy.features(images).double(), energy.features(x).double()
    cells = phi.permute(0, 2, 3, 1).flatten(0, 2) if everywhere else phi[..., 3, 5]
    covariance = np.cov(cells.numpy(), rowvar=False)
    inverse = np.linalg.inv(covariance + 0.01 * np.eye(20))
    for one, found in zip(other[..., 3, 5], energy.energy_map(x), strict=True):
        distance = mahalanobis(one, cells.mean(0), inverse)
        assert float(found[3, 5]) == pytest.approx(distance**2 / 2, rel=1e-3)


def test_features_are_channels_of_the_three_layers_on_the_grid_of_the_first(
    network, files
):
    energy = BackbonePatches.of(SIZE, files["pth"], count=448)  # all of them
    x = pictures(2)
    found, layers = energy.features(x), {}
    for name in ("layer1", "layer2", "layer3"):
        keep = network.get_submodule(name).register_forward_hook(
            lambda m, i, out, name=name: layers.update({name: out})
        )
        functional = torchvision_module("transforms.v2.functional", "a test")
        imagenet = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
        with torch.no_grad():
            network(functional.normalize(x, *imagenet))
        keep.remove()
    assert found.shape == (2, 448, 16, 16)
    for channels in found.split((64, 128, 256), 1):  # not silent, or all agrees
        assert channels[0].std((1, 2)).median() > 0.01
    close = {"rtol": 1e-4, "atol": 1e-4}
    assert torch.allclose(found[:, :64], layers["layer1"], **close)
    assert torch.allclose(found[:, 64:192, 6, 9], layers["layer2"][..., 3, 4], **close)
    assert torch.allclose(found[:, 192:, 6, 9], layers["layer3"][..., 1, 2], **close)


def test_the_chosen_channels_are_a_seeded_subset_of_all(files):
    some = BackbonePatches.of(SIZE, files["st"], count=100)
    every = BackbonePatches.of(SIZE, files["st"], count=448)
    x = pictures(2)
    assert torch.equal(some.features(x), every.features(x)[:, some.chosen])
    assert len(some.chosen.unique()) == 100
    again, other = (BackbonePatches.of(SIZE, files["st"], seed=s) for s in (0, 1))
    assert torch.equal(some.chosen, again.chosen)
    assert not torch.equal(some.chosen, other.chosen)


def test_the_gradient_agrees_with_finite_differences():
    energy = BackbonePatches(SIZE, count=20).double().fit(pictures(30).double())
    x = pictures(1, seed=1).double()
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        way = torch.randn(x.shape, generator=generator, dtype=torch.double)
        slope = (input_gradient(energy, x) * way).sum()
        step = 1e-6 * way
        difference = (energy(x + step) - energy(x - step)) / 2e-6
        assert float(slope) == pytest.approx(float(difference), rel=1e-4)


def test_maps_of_both_kinds_find_a_blot(fitted):
    x = pictures(1, seed=1)
    x[..., 20:28, 40:48] = 1
    for kind in (gradient_map, patch_map):
        found = kind(fitted, x)[0]
        row, column = divmod(int(found.argmax()), 64)
        assert found.shape == SIZE and 14 <= row < 34 and 34 <= column < 54


def test_the_energy_of_an_image_is_the_sum_of_its_map(fitted):
    x = pictures(2)
    assert torch.allclose(fitted(x), fitted.energy_map(x).sum((1, 2)))


def test_training_mode_changes_nothing(fitted):
    x = pictures(2)
    before, trunk = fitted(x), fitted.train().trunk.state_dict()
    trunk = {k: v.clone() for k, v in trunk.items()}
    assert torch.equal(fitted(x), before)
    assert all(torch.equal(v, trunk[k]) for k, v in fitted.trunk.state_dict().items())
    assert not any(p.requires_grad for p in fitted.parameters())


def test_config_builds_an_energy_that_is_not_fitted(fitted):
    twin = build_energy("BackbonePatches", json.loads(json.dumps(fitted.config())))
    twin.load_state_dict(fitted.state_dict())
    assert torch.equal(twin(pictures(2)), fitted(pictures(2)))


def test_random_weights_depend_on_the_seed_and_disturb_no_other():
    state = torch.get_rng_state()
    a, b, c = (BackbonePatches(SIZE, seed=s).trunk.conv1.weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_gray_images_are_seen_as_three_equal_channels():
    gray, colored = pictures(2, 1), BackbonePatches(SIZE)
    found = BackbonePatches(SIZE, channels=1).features(gray)
    assert torch.equal(found, colored.features(gray.expand(-1, 3, -1, -1)))


# ------------------------------------------------------------------------ the file


@pytest.mark.parametrize("kind", ["pth", "st"])
def test_weights_of_a_file_are_those_given(kind, files, network):
    energy = BackbonePatches.of(SIZE, files[kind])
    given, found = network.state_dict(), seen(energy.trunk.state_dict())
    assert found.keys() == {
        k for k in seen(given) if not k.startswith(("layer4", "fc"))
    }
    assert all(torch.equal(value, given[name]) for name, value in found.items())
    assert energy.weights == weights_label(files[kind])


def test_files_without_counters_and_without_the_head_are_read(tmp_path, network):
    state = seen(network.state_dict())
    state = {k: v for k, v in state.items() if not k.startswith(("layer4", "fc"))}
    torch.save(state, tmp_path / "old.pth")
    assert load_weights(tmp_path / "old.pth")[1].keys() == state.keys()


def test_the_wide_network_is_told_by_its_file(tmp_path):
    wide = BackbonePatches((32, 32), "wide_resnet50_2", seed=5)
    save_file(wide.trunk.state_dict(), tmp_path / "w.safetensors")
    energy = BackbonePatches.of((32, 32), tmp_path / "w.safetensors")
    assert energy.name == "wide_resnet50_2"
    assert torch.equal(energy.trunk.conv1.weight, wide.trunk.conv1.weight)
    assert energy.features(torch.rand(1, 3, 32, 32)).shape == (1, 100, 8, 8)


class Trap:
    """Unpickling it would call `sprung`."""

    def __reduce__(self):
        return sprung, ()


def sprung():
    raise AssertionError("code of the file ran")


@pytest.mark.parametrize(
    "write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))]
)
def test_a_pickle_with_code_is_refused_and_does_not_run(write, tmp_path, network):
    with pytest.raises(AssertionError, match="ran"):
        pickle.loads(pickle.dumps(Trap()))  # the trap works
    path = tmp_path / "resnet18.pth"
    write({**network.state_dict(), "fc.bias": Trap()}, path)
    with pytest.raises(ValueError, match="tensors alone") as caught:
        load_weights(path)
    assert "code of the file ran" not in str(caught.value.__cause__)


def test_wrong_files_get_a_clear_message(tmp_path, network):
    state = network.state_dict()
    shape = {**state, "layer2.0.conv1.weight": torch.zeros(1)}
    cases = {
        "not a dict": ([1.0], "no state dict"),
        "nested": ({"state_dict": state}, "no state dict"),
        "missing": ({"fc.bias": state["fc.bias"]}, "missing, such as bn1.bias"),
        "deeper": ({**state, "layer1.2.conv1.weight": torch.zeros(1)}, "1 unknown"),
        "shape": (shape, "1 of another shape, such as layer2.0.conv1.weight"),
    }
    for content, message in cases.values():
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=message):
            load_weights(tmp_path / "w.pth", "resnet18")
    for name, message in (("w.pth", "tensors alone"), ("w.safetensors", "not a whole")):
        for garbage in (b"", b"hello", b"0" * 4000):
            (tmp_path / name).write_bytes(garbage)
            with pytest.raises(ValueError, match=message):
                load_weights(tmp_path / name)
    for call in (load_weights, weights_label):
        with pytest.raises(FileNotFoundError, match="no weights file at"):
            call(tmp_path / "none.pth")


def test_a_file_of_the_other_network_is_refused(files):
    with pytest.raises(ValueError, match=r"weights of wide_resnet50_2: .* missing"):
        load_weights(files["pth"], "wide_resnet50_2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg16"}, "name must be one of"),
        ({"count": 449}, "448 channels to choose from, got 449"),
        ({"count": 0}, "got 0"),
        ({"channels": 4}, "1 or 3 channels, got 4"),
    ],
)
def test_mistakes_get_a_clear_message(options, message):
    with pytest.raises(ValueError, match=message):
        BackbonePatches(SIZE, **options)


def test_images_of_another_size_or_a_single_one_are_refused(fitted):
    with pytest.raises(ValueError, match="set up for images"):
        fitted(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="at least 2 images"):
        BackbonePatches(SIZE, count=20).fit(pictures(1))


# ------------------------------------------------- the method of detector and benchmark


QUICK = {"false_alarm_rate": 0.4, "aligned": True}


@pytest.fixture(scope="module")
def nut():
    return load("synthetic/nut", size=32, n_train=24, n_test=6, n_defective=2)


def test_a_detector_needs_no_weights_file_once_it_is_saved(files, nut, tmp_path):
    copy = tmp_path / "mine.pth"
    copy.write_bytes(files["pth"].read_bytes())
    detector = EnergyDetector("backbone", 32, weights=copy, **QUICK).fit(nut.train)
    given = load_weights(copy)[1]["conv1.weight"]
    assert torch.equal(detector.energy.trunk.conv1.weight, given)
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
        return energy, energy.trunk.conv1.weight

    energy, weight = scores(files["pth"])
    other, again = scores(files["st"], seed=1)
    assert torch.equal(weight, again)
    assert not torch.equal(energy.chosen, other.chosen)  # the channels are drawn


def test_the_other_methods_learn_their_own_weights(files):
    with pytest.raises(ValueError, match='weights are for method="backbone", got'):
        EnergyDetector("experts", weights=files["pth"])


def test_results_name_the_file_and_its_hash_and_not_where_it_lay(
    files, tmp_path, capsys
):
    few = {"size": 32, "n_train": 8, "n_test": 4, "n_defective": 1}
    synthetic.write(tmp_path, "weave", **few).rename(tmp_path / "felt")
    words = ["--methods", "backbone", "--weights", str(files["pth"]), "--size", "32"]
    words += ["--root", str(tmp_path), "--categories", "mvtec/felt", "--seeds", "0"]
    words += ["--out", str(tmp_path / "results")]
    assert benchmark.main(words) == 0
    (path,) = (tmp_path / "results").iterdir()
    text = path.read_text()
    result, name = json.loads(text), weights_label(files["pth"])
    assert result["settings"]["weights"] == name and name.startswith("resnet18.pth, s")
    assert str(files["pth"].parent) not in text
    assert label("backbone", [result]) == f"backbone ({name})"
    assert any(f"| backbone ({name}) |" in row for row in results_table([result]))
    assert benchmark.main(words) == 0  # already there
    at = words.index("--weights")
    with pytest.raises(SystemExit):  # other weights
        benchmark.main(words[:at] + words[at + 2 :])
    assert f"was made with {{'weights': '{name}'}}, not" in capsys.readouterr().err


def test_rows_of_random_weights_say_so():
    result = {"settings": {"weights": "random"}}
    assert label("backbone", [result]) == "backbone (random weights)"
    assert label("experts", [{"settings": {}}]) == "experts"


def test_weights_that_no_method_asks_for_and_missing_ones_are_refused(
    files, tmp_path, capsys
):
    words = ["--out", str(tmp_path / "none"), "--weights"]
    with pytest.raises(SystemExit):
        benchmark.main([*words, str(files["pth"]), "--methods", "pca"])
    assert "--weights is for --methods backbone" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main([*words, str(tmp_path / "no.pth"), "--methods", "backbone"])
    assert "no weights file at" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_sweep_gives_weights_to_the_method_that_has_them_and_steps_to_the_others():
    settings = {"steps": 3, "weights": "file"}
    assert benchmark.accepted("backbone", settings) == {"weights": "file"}
    assert benchmark.accepted("experts", settings) == {"steps": 3}
    assert benchmark.accepted("pca", settings) == {}
    assert "backbone" not in benchmark.METHODS  # it needs a file from elsewhere
