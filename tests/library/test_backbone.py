"""Facts about features of a backbone; every file of weights is made here."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import mahalanobis
from torch import nn

from ebmlib.backbone import ResNetFeatures, load_weights
from ebmlib.energy import build_energy, energy_spec, input_gradient
from ebmlib.fields import GaussianField
from ebmlib.scoring import gradient_map, patch_map
from ebmlib.torchvision_import import torchvision_module
from ebmlib.weights import weights_label

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
    return field_of(pictures(30))


def field_of(images, shared=False):
    return GaussianField(ResNetFeatures(count=20), SIZE, shared, noise=0.1).fit(images)


def seen(tree):
    """The weights that a trunk reads."""
    return {k: v for k, v in tree.items() if not k.endswith("num_batches_tracked")}


# ------------------------------------------------------------------------ the energy


@pytest.mark.parametrize("shared", [False, True])
def test_the_energy_is_half_the_squared_mahalanobis_distance(shared):
    images, x = pictures(30), pictures(3, seed=1)
    energy = field_of(images, shared)
    phi, other = energy.features(images).double(), energy.features(x).double()
    cells = phi.permute(0, 2, 3, 1).flatten(0, 2) if shared else phi[..., 3, 5]
    covariance = np.cov(cells.numpy(), rowvar=False)
    inverse = np.linalg.inv(covariance + 0.01 * np.eye(20))
    for one, found in zip(other[..., 3, 5], energy.energy_map(x), strict=True):
        distance = mahalanobis(one, cells.mean(0), inverse)
        assert float(found[3, 5]) == pytest.approx(distance**2 / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("size", "right"),  # px on the right: layer 3 must reach the last cell
    [((64, 64), 0), ((67, 90), 5)],
)
def test_features_are_the_three_layers_at_the_centers_of_cells_of_four_px(
    network, files, size, right
):
    # The cells of layer k are 4, 8 and 16 px apart and start where their input does.
    features = ResNetFeatures.from_file(files["pth"], count=448)  # all of them
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3))
    layers = {}
    functional = torchvision_module("transforms.v2.functional", "a test")
    imagenet = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
    padded = torch.nn.functional.pad(x, (2, right, 2, 0), mode="replicate")
    for name in ("layer1", "layer2", "layer3"):
        keep = network.get_submodule(name).register_forward_hook(
            lambda m, i, out, name=name: layers.update({name: out})
        )
        with torch.no_grad():
            network(functional.normalize(padded, *imagenet))
        keep.remove()
    found, grid = features(x), (size[0] // 4, size[1] // 4)
    assert found.shape == (2, 448, *grid) and features.grid(size) == grid
    places = [4 * np.arange(cells) + 1.5 + 2 for cells in grid]
    start = 0
    for spacing, layer in zip((4, 8, 16), layers.values(), strict=True):
        rows, columns = np.meshgrid(*(p / spacing for p in places), indexing="ij")
        for channel in (0, 17, 40):
            plane = layer[1, channel].numpy()
            expected = map_coordinates(plane, [rows, columns], order=1)
            ours = found[1, start + channel].numpy()
            assert ours.std() > 0.01  # not silent, or all agrees
            np.testing.assert_allclose(ours, expected, atol=1e-4)
        start += layer.shape[1]


def test_a_dot_is_seen_where_it_is():
    # Mirrored filters, so that no network prefers a side; the dots are spread evenly
    # over a whole cell of layer 3, about the middle of the image.
    side, displaced = 128, []
    start = (side - 16) // 2
    x = torch.full((17, 3, side, side), 0.5)
    for i in range(16):
        x[i, :, start + i, side - 1 - start - i] = 1  # the last image has no dot
    centers = 4 * torch.arange(side // 4) + 1.5
    for seed in range(3):
        features = ResNetFeatures(count=448, seed=seed)
        for module in features.trunk.modules():
            if isinstance(module, nn.Conv2d):
                w = module.weight
                w.data = (w + w.flip(2) + w.flip(3) + w.flip(2, 3)) / 2
        with torch.no_grad():
            phi = features(x)
        response = (phi[:16] - phi[16:]).square().sum(1)  # (16, h, w)
        weights = response / response.sum((1, 2), keepdim=True)
        row = (weights.sum(2) * centers).sum(1).mean()
        column = (weights.sum(1) * centers).sum(1).mean()
        displaced.append([row - (side - 1) / 2, column - (side - 1) / 2])
    assert np.abs(np.mean(displaced, 0)).max() < 0.3  # px


def test_a_longer_image_does_not_move_the_cells():
    # Layer 1 sees 43 px; what is appended further away changes nothing.
    features = ResNetFeatures(count=448)
    longer = torch.rand(1, 3, 64, 103, generator=torch.Generator().manual_seed(3))
    first = features(longer)[:, :64, :, :8]
    for width in (64, 66, 71):
        found = features(longer[..., :width])[:, :64, :, :8]
        assert torch.allclose(found, first, rtol=1e-4, atol=1e-4)


def test_the_chosen_channels_are_a_seeded_subset_of_all(files):
    some = ResNetFeatures.from_file(files["st"], count=100)
    every = ResNetFeatures.from_file(files["st"], count=448)
    x = pictures(2)
    assert torch.equal(some(x), every(x)[:, some.chosen])
    assert len(some.chosen.unique()) == 100
    again, other = (ResNetFeatures.from_file(files["st"], seed=s) for s in (0, 1))
    assert torch.equal(some.chosen, again.chosen)
    assert not torch.equal(some.chosen, other.chosen)


def test_a_loaded_choice_of_channels_is_used():
    # A state from elsewhere may hold another choice than the seed gives here.
    one, other = ResNetFeatures(count=20, seed=0), ResNetFeatures(count=20, seed=1)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(pictures(1)), one(pictures(1)))


def test_the_gradient_agrees_with_finite_differences():
    features = ResNetFeatures(count=20)
    energy = GaussianField(features, SIZE, noise=0.1).double()
    energy.fit(pictures(30).double())
    x = pictures(1, seed=1).double()
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        way = torch.randn(x.shape, generator=generator, dtype=torch.double)
        slope = (input_gradient(energy, x) * way).sum()
        step = 1e-7 * way  # longer ones cross the kinks of ReLU
        difference = (energy(x + step) - energy(x - step)) / 2e-7
        assert float(slope) == pytest.approx(float(difference), rel=1e-4)


def test_maps_of_both_kinds_find_a_blot(fitted):
    x = pictures(1, seed=1)
    x[..., 20:28, 40:48] = 1
    for kind in (gradient_map, patch_map):
        found = kind(fitted, x)[0]
        row, column = divmod(int(found.argmax()), 64)
        assert found.shape == SIZE and 14 <= row < 34 and 34 <= column < 54


def test_training_mode_changes_nothing(fitted):
    x = pictures(2)
    before, trunk = fitted(x), fitted.train().features.trunk.state_dict()
    trunk = {k: v.clone() for k, v in trunk.items()}
    assert torch.equal(fitted(x), before)
    after = fitted.features.trunk.state_dict()
    assert all(torch.equal(v, trunk[k]) for k, v in after.items())
    assert not any(p.requires_grad for p in fitted.parameters())


def test_equal_images_have_no_energy_alone_or_in_a_batch():
    # The covariance is 0. Alone and in a batch the features differ by some 1e-6.
    image = pictures(1)
    energy = field_of(image.repeat(8, 1, 1, 1))
    assert float(energy(image)) < 1e-3
    assert float(energy(image.repeat(8, 1, 1, 1)).max()) < 1e-3


def test_config_builds_an_energy_that_is_not_fitted(fitted):
    twin = build_energy(**json.loads(json.dumps(energy_spec(fitted))))
    twin.load_state_dict(fitted.state_dict())
    assert torch.equal(twin(pictures(2)), fitted(pictures(2)))


def test_random_weights_depend_on_the_seed_and_disturb_no_other(monkeypatch):
    def refuse(seed):
        raise AssertionError("the generators of all devices were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    state = torch.get_rng_state()
    a, b, c = (ResNetFeatures(seed=s).trunk.conv1.weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)
    expected = (2 / (64 * 49)) ** 0.5  # He et al. 2015, of the outputs
    assert float(a.std()) == pytest.approx(expected, rel=0.05)


def test_gray_images_are_seen_as_three_equal_channels():
    gray, colored = pictures(2, 1), ResNetFeatures()
    found = ResNetFeatures(channels=1)(gray)
    assert torch.equal(found, colored(gray.expand(-1, 3, -1, -1)))


# ------------------------------------------------------------------------ the file


@pytest.mark.parametrize("kind", ["pth", "st"])
def test_weights_of_a_file_are_those_given(kind, files, network):
    features = ResNetFeatures.from_file(files[kind])
    given, found = network.state_dict(), seen(features.trunk.state_dict())
    assert found.keys() == {
        k for k in seen(given) if not k.startswith(("layer4", "fc"))
    }
    assert all(torch.equal(value, given[name]) for name, value in found.items())
    assert features.weights == weights_label(files[kind])


def test_files_without_counters_and_without_the_head_are_read(tmp_path, network):
    state = seen(network.state_dict())
    state = {k: v for k, v in state.items() if not k.startswith(("layer4", "fc"))}
    torch.save(state, tmp_path / "old.pth")
    assert load_weights(tmp_path / "old.pth")[1].keys() == state.keys()


def test_the_wide_network_is_told_by_its_file(tmp_path):
    wide = ResNetFeatures("wide_resnet50_2", seed=5)
    save_file(wide.trunk.state_dict(), tmp_path / "w.safetensors")
    features = ResNetFeatures.from_file(tmp_path / "w.safetensors")
    assert features.name == "wide_resnet50_2"
    assert torch.equal(features.trunk.conv1.weight, wide.trunk.conv1.weight)
    assert features(torch.rand(1, 3, 32, 32)).shape == (1, 100, 8, 8)


def test_wrong_files_get_a_clear_message(tmp_path, network):
    state = network.state_dict()
    shape = {**state, "layer2.0.conv1.weight": torch.zeros(1)}
    cases = {
        "missing": ({"fc.bias": state["fc.bias"]}, "missing, such as bn1.bias"),
        "deeper": ({**state, "layer1.2.conv1.weight": torch.zeros(1)}, "1 unknown"),
        "shape": (shape, "1 of another shape, such as layer2.0.conv1.weight"),
    }
    for content, message in cases.values():
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=message):
            load_weights(tmp_path / "w.pth", "resnet18")


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
        ResNetFeatures(**options)


def test_images_of_another_kind_are_refused():
    for x in (torch.rand(1, 1, 32, 32), torch.rand(3, 32, 32)):
        with pytest.raises(ValueError, match=r"images \(B, 3, H, W\)"):
            ResNetFeatures()(x)
    with pytest.raises(ValueError, match="at least 4 px a side"):
        ResNetFeatures()(torch.rand(1, 3, 3, 32))
