"""Facts about products of experts: closed forms, sums, and an independent answer."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from ebmlib.baselines import PositionGaussian
from ebmlib.detector import EnergyDetector
from ebmlib.energy import energy_maps, input_gradient
from ebmlib.fields import GaussianPatches
from ebmlib.networks import PatchEnergy, opponent
from ebmlib.products import ProductOfExperts, build_energy
from ebmlib.scoring import patch_map, weighted_map


def pictures(count, channels=3, size=(32, 40), seed=0):
    """A fixed pattern with smooth changes and noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.rand(channels, *size, generator=torch.Generator().manual_seed(9))
    low = torch.randn(count, channels, 4, 5, generator=generator)
    change = torch.nn.functional.interpolate(low, size, mode="bilinear")
    noise = torch.randn(count, channels, *size, generator=generator)
    return (0.3 + 0.4 * pattern + 0.03 * change + 0.01 * noise).clamp(0, 1)


def fitted(images, **options):
    size, channels = tuple(images.shape[-2:]), images.shape[1]
    return GaussianPatches(size, channels, **{"stride": 4, **options}).fit(images)


def test_the_energy_is_half_the_squared_mahalanobis_distance():
    images, x = pictures(30), pictures(3, seed=1)
    gaussians = fitted(images, frequencies=4)
    phi, other = gaussians.features(images)[:, :, 3, 5], gaussians.features(x)
    covariance = np.cov(phi.double().numpy(), rowvar=False)
    inverse = np.linalg.inv(covariance + 0.02**2 * np.eye(len(covariance)))
    for one, energy in zip(other[:, :, 3, 5], gaussians.energy_map(x), strict=True):
        distance = mahalanobis(one.double(), phi.double().mean(0), inverse)
        assert float(energy[3, 5]) == pytest.approx(distance**2 / 2, rel=1e-3)


def test_one_gray_channel_gives_the_distances_of_the_per_position_gaussian():
    # The grid of these patches starts 6 px outside of the image; one whole step
    # further in, both see the same pixels.
    images, x = pictures(40, 1, (64, 64)), pictures(4, 1, (64, 64), seed=1)
    gaussians = fitted(images, stride=8, frequencies=5)
    other = PositionGaussian(patch=20, stride=8, frequencies=5)
    distances = other.fit(images[..., 2:, 2:]).distances(x[..., 2:, 2:])
    inner = gaussians.energy_map(x)[:, 1:-1, 1:-1]
    assert torch.allclose(inner, 25 * distances[:, :6, :6] ** 2 / 2, rtol=1e-3)


def test_distances_of_the_training_images_sum_to_the_trace():
    # sum_n d_n^2 = (N - 1) tr(S (S + noise^2 I)^-1), for every patch
    images = pictures(30)
    gaussians = fitted(images, frequencies=3)
    phi = gaussians.features(images).permute(2, 3, 0, 1).double()
    phi = phi - phi.mean(2, keepdim=True)
    s = phi.mT @ phi / 29
    whole = s + 0.02**2 * torch.eye(s.shape[-1]).double()
    trace = torch.linalg.solve(whole, s).diagonal(dim1=-2, dim2=-1).sum(-1)
    total = 2 * gaussians.energy_map(images).sum(0).double()
    assert torch.allclose(total, 29 * trace, rtol=1e-3)


def test_the_gradient_is_linear_in_the_image():
    # A quadratic energy: the gradient of the middle is the middle of the gradients.
    gaussians = fitted(pictures(30))
    a, b = pictures(2, seed=1).split(1)
    middle = input_gradient(gaussians, (a + b) / 2)
    ends = (input_gradient(gaussians, a) + input_gradient(gaussians, b)) / 2
    assert torch.allclose(middle, ends, rtol=1e-3, atol=1e-2 * float(ends.std()))


def test_at_its_mean_the_energy_vanishes():
    images = pictures(30)
    assert float(fitted(images)(images.mean(0, keepdim=True))) < 1e-3


@pytest.mark.parametrize("size", [(32, 40), (33, 47), (16, 16)])
@pytest.mark.parametrize("stride", [4, 8])
def test_both_experts_have_one_grid(size, stride):
    images = pictures(8, size=size)
    network = PatchEnergy(3, width=8, stride=stride)
    gaussians = fitted(images, stride=stride)
    assert gaussians.energy_map(images).shape == network.energy_map(images).shape


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_centered_in_their_cells(stride, channels):
    # A mirrored image has the mirrored map; a shifted grid would not.
    images = pictures(20, channels, (32, 48))
    for axis in (2, 3):
        both = torch.cat((images, images.flip(axis)))
        cells = fitted(both, stride=stride).energy_map(both)
        mirrored = cells[20:].flip(axis - 1)
        assert torch.allclose(cells[:20], mirrored, rtol=1e-2, atol=1e-2)


def test_one_distribution_for_all_places_moves_with_the_image():
    images = pictures(8, size=(64, 64))
    gaussians = fitted(images, everywhere=True)
    moved = gaussians.energy_map(images.roll((8, 12), (2, 3)))
    same = gaussians.energy_map(images).roll((2, 3), (1, 2))
    inside = slice(5, -5)
    assert torch.allclose(moved[:, inside, inside], same[:, inside, inside], rtol=1e-3)


def test_a_small_patch_has_no_more_coefficients_than_pixels():
    small = fitted(pictures(30, 1), side=5)
    assert small.config()["frequencies"] == 5
    assert small.features(pictures(1, 1)).shape[1] == 25
    again = GaussianPatches(**small.config())
    again.load_state_dict(small.state_dict(), strict=False)
    assert again.side == 5


def test_colors_without_gain_keep_every_length():
    x = pictures(2)
    assert torch.allclose(opponent(x, gain=1).square().sum(1), x.square().sum(1))


def test_a_color_that_only_luminance_would_miss_is_seen():
    images = pictures(30)
    tinted = images.clone()
    tinted[:, 0] += 0.05
    tinted[:, 1] -= 0.05  # R + G + B stays
    gaussians = fitted(images)
    assert (gaussians(tinted) > 3 * gaussians(images)).all()


def test_energies_maps_and_gradients_of_experts_add():
    images, x = pictures(20), pictures(3, seed=1)
    network, gaussians = PatchEnergy(3, width=8), fitted(images)
    both = ProductOfExperts(network, gaussians, (2.0, 0.5))
    assert torch.allclose(both(x), 2 * network(x) + gaussians(x) / 2, rtol=1e-5)
    assert torch.allclose(both.energy_map(x).sum((1, 2)), both(x), rtol=1e-5)
    parts = 2 * input_gradient(network, x) + input_gradient(gaussians, x) / 2
    assert torch.allclose(input_gradient(both, x), parts, rtol=1e-3, atol=1e-3)


def test_the_gaussians_are_loud_where_places_count_and_quiet_where_not():
    network, images = PatchEnergy(3, width=8), pictures(9)
    for everywhere, share in ((False, 3.0), (True, 0.3)):
        both = ProductOfExperts.of(network, images, everywhere=everywhere)
        first, second = (energy_maps(e, images) for e in (network, both.gaussians))
        a, b = both.weights
        assert float((b * second).std() / (a * first).std()) == pytest.approx(share)


@pytest.mark.parametrize("share", [1.0, 3.0])
def test_weights_make_a_usual_patch_one_and_keep_the_share(share):
    images = pictures(40)
    network = PatchEnergy(3, width=8)
    both = ProductOfExperts.of(network, images, share=share)
    a, b = both.weights
    with torch.no_grad():
        first, second = (e.energy_map(images) for e in (network, both.gaussians))
    assert float((b * second).std() / (a * first).std()) == pytest.approx(share)
    usual = both.energy_map(images).detach().median()
    assert float(usual) == pytest.approx(1.0, rel=1e-4)


def test_the_logarithm_keeps_a_loud_patch_in_its_place():
    def loud(x):
        cells = torch.ones(len(x), 8, 8)
        cells[:, 4, 4] = 1000
        return cells

    energy, images = PatchEnergy(3, width=8), pictures(1, size=(32, 32))
    energy.energy_map = loud
    neighbor, far = (0, 18, 22), (0, 0, 0)  # the next cell's middle, and a usual one
    above = []
    for compress in (False, True):
        m = patch_map(energy, images, compress=compress)
        assert float(m[far]) == pytest.approx(np.log(2) if compress else 1)
        above.append(float(m[neighbor] / m[far]))
    assert above[0] > 50
    assert above[1] < 3


def test_a_weighted_map_may_be_all_patches():
    energy, images = PatchEnergy(3, width=8), pictures(2)
    whole = weighted_map(energy, images, compress=True, share=0)
    assert torch.allclose(whole, patch_map(energy, images, compress=True))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_detector_of_experts_travels(aligned, channels, tmp_path):
    images = pictures(24, channels, (32, 32))
    detector = EnergyDetector(
        "experts", 32, aligned=aligned, steps=3, false_alarm_rate=0.3
    ).fit(images)
    assert isinstance(detector.energy, ProductOfExperts)
    assert detector.energy.gaussians.everywhere is not aligned
    detector.save(tmp_path / "d.safetensors")
    again = EnergyDetector.load(tmp_path / "d.safetensors")
    assert torch.equal(again.anomaly_map(images), detector.anomaly_map(images))
    assert torch.equal(again.energy_score(images), detector.energy_score(images))


def test_config_builds_a_product_that_is_not_fitted():
    both = ProductOfExperts.of(PatchEnergy(3, width=8), pictures(9))
    twin = build_energy("ProductOfExperts", both.config())
    twin.load_state_dict(both.state_dict())
    assert torch.equal(twin(pictures(2)), both(pictures(2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianPatches((32, 32), side=7), "leave no gap .* 8 px"),
        (lambda: GaussianPatches((32, 32), frequencies=0), "frequencies at least 1"),
        (lambda: GaussianPatches((32, 32), noise=0), "noise must be > 0"),
        (lambda: fitted(pictures(1)), "at least 2 images"),
        (lambda: fitted(pictures(3))(pictures(1, size=(32, 32))), "made for images"),
        (lambda: fitted(pictures(3))(pictures(1, 1)), "made for images"),
        (
            lambda: ProductOfExperts(PatchEnergy(3), fitted(pictures(3), stride=8)),
            "one stride",
        ),
        (
            lambda: ProductOfExperts(PatchEnergy(1), fitted(pictures(3))),
            "one number of channels",
        ),
        (
            lambda: ProductOfExperts(PatchEnergy(3), fitted(pictures(3)), (1, 0)),
            "finite numbers > 0",
        ),
        (lambda: build_energy("Sculptor", {}), "unknown energy 'Sculptor'"),
    ],
)
def test_mistakes_get_a_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
