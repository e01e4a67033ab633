"""Facts about Gaussian fields: closed forms, and an independent answer."""

import copy
import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import nn

from ebmlib.backbone import ResNetFeatures
from ebmlib.baselines import PositionGaussian
from ebmlib.efficientnet import EfficientNetFeatures
from ebmlib.energy import (
    IMAGES_AT_ONCE,
    build_energy,
    energy_maps,
    energy_spec,
    input_gradient,
    register_energy,
)
from ebmlib.features import CosineFeatures
from ebmlib.fields import GaussianField, Moments, features_of, positions_pay


def pictures(count, channels=3, size=(32, 40), seed=0):
    """A fixed pattern with smooth changes and noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.rand(channels, *size, generator=torch.Generator().manual_seed(9))
    low = torch.randn(count, channels, 4, 5, generator=generator)
    change = torch.nn.functional.interpolate(low, size, mode="bilinear")
    noise = torch.randn(count, channels, *size, generator=generator)
    return (0.3 + 0.4 * pattern + 0.03 * change + 0.01 * noise).clamp(0, 1)


def unfitted(images, shared=False, noise=0.02, **options):
    features = CosineFeatures(images.shape[1], **{"stride": 4, **options})
    return GaussianField(features, tuple(images.shape[-2:]), shared, noise)


def fitted(images, **options):
    return unfitted(images, **options).fit(images)


@register_energy
class MeanOfCells(nn.Module):
    """A feature map of a user: the mean of every channel over squares of 8 px."""

    stride, channels, count = 8, 3, 3

    def grid(self, size):
        return size[0] // 8, size[1] // 8

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x, 8)

    def config(self):
        return {}


@pytest.mark.parametrize("shared", [False, True])
def test_the_energy_is_half_the_squared_mahalanobis_distance(shared):
    images, x = pictures(70), pictures(3, seed=1)  # more than two chunks
    assert len(images) > 2 * IMAGES_AT_ONCE
    field = fitted(images, shared=shared, frequencies=4)
    phi, other = field.features(images).double(), field.features(x)[:, :, 3, 5]
    phi = phi.movedim(1, -1).flatten(0, 2) if shared else phi[:, :, 3, 5]
    covariance = np.cov(phi.numpy(), rowvar=False)
    inverse = np.linalg.inv(covariance + 0.02**2 * np.eye(len(covariance)))
    for one, energy in zip(other, field.energy_map(x), strict=True):
        distance = mahalanobis(one.double(), phi.mean(0), inverse)
        assert float(energy[3, 5]) == pytest.approx(distance**2 / 2, rel=1e-3)


def test_moments_of_parts_are_those_of_the_whole():
    # A mean of 1e3 beside a spread of 1e-2: sums of squares would lose 10 digits.
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    points = torch.randn(2, 3, 100, 4, generator=generator, dtype=torch.float64)
    points = 1e3 + 1e-2 * points @ mix
    moments = Moments((2, 3), 4)
    for part in points.split((1, 40, 2, 57), 2):
        moments.add(part)
    assert torch.allclose(moments.mean, points.mean(2), rtol=1e-13)
    for i in range(2):
        whole = torch.stack([torch.cov(cell.T) for cell in points[i]])
        assert torch.allclose(moments.covariance(i), whole, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_fitted_in_parts_is_fitted_in_one_piece(shared):
    images = pictures(2 * IMAGES_AT_ONCE + 3).double()
    field = unfitted(images, shared=shared, frequencies=3).double().fit(images)
    phi = field.features(images).permute(2, 3, 0, 1)
    phi = phi.reshape(1, 1, -1, phi.shape[-1]) if shared else phi
    mean = phi.mean(2, keepdim=True)
    sigma = (phi - mean).mT @ (phi - mean) / (phi.shape[2] - 1)
    sigma += 0.02**2 * torch.eye(sigma.shape[-1])
    found = torch.linalg.inv(field.whitener.mT @ field.whitener)
    assert torch.allclose(field.mean, mean[:, :, 0].permute(2, 0, 1), rtol=1e-10)
    assert torch.allclose(found, sigma, rtol=1e-6, atol=1e-6 * float(sigma.max()))


def test_fit_looks_at_a_bounded_number_of_images_at_once():
    seen, images = [], pictures(3 * IMAGES_AT_ONCE + 5)
    field = unfitted(images)
    field.features.register_forward_hook(lambda m, x, out: seen.append(len(out)))
    field.fit(images)
    assert max(seen) <= IMAGES_AT_ONCE and sum(seen) == len(images)


def test_a_second_fit_is_that_of_a_fresh_field():
    first, second = pictures(8), pictures(8, seed=1)
    again, fresh = fitted(first).fit(second), fitted(second)
    assert torch.equal(again.mean, fresh.mean)
    assert torch.equal(again.whitener, fresh.whitener)


@pytest.mark.parametrize(
    "images", [pictures(8) * float("nan"), pictures(1), pictures(8, size=(32, 32))]
)
def test_a_fit_that_fails_leaves_the_field_as_it_was(images):
    field = fitted(pictures(8))
    before = {name: value.clone() for name, value in field.state_dict().items()}
    with pytest.raises(ValueError):
        field.fit(images)
    assert all(torch.equal(v, before[k]) for k, v in field.state_dict().items())


def test_equal_images_have_no_energy_alone_or_in_a_batch():
    # The covariance is 0, and the noise alone bounds what rounding can do.
    image = pictures(1)
    field = fitted(image.repeat(8, 1, 1, 1))
    alone, batch = field(image), field(image.repeat(8, 1, 1, 1))
    assert float(alone.max()) < 1e-3 and float(batch.max()) < 1e-3


def test_one_gray_channel_gives_the_distances_of_the_per_position_gaussian():
    # The grid of these patches starts 6 px outside of the image; one whole step
    # further in, both see the same pixels.
    images, x = pictures(40, 1, (64, 64)), pictures(4, 1, (64, 64), seed=1)
    field = fitted(images, stride=8, frequencies=5)
    other = PositionGaussian(patch=20, stride=8, frequencies=5)
    distances = other.fit(images[..., 2:, 2:]).distances(x[..., 2:, 2:])
    inner = field.energy_map(x)[:, 1:-1, 1:-1]
    assert torch.allclose(inner, 25 * distances[:, :6, :6] ** 2 / 2, rtol=1e-3)


def test_distances_of_the_training_images_sum_to_the_trace():
    # sum_n d_n^2 = (N - 1) tr(S (S + noise^2 I)^-1), for every patch
    images = pictures(30)
    field = fitted(images, frequencies=3)
    phi = field.features(images).permute(2, 3, 0, 1).double()
    phi = phi - phi.mean(2, keepdim=True)
    s = phi.mT @ phi / 29
    whole = s + 0.02**2 * torch.eye(s.shape[-1]).double()
    trace = torch.linalg.solve(whole, s).diagonal(dim1=-2, dim2=-1).sum(-1)
    total = 2 * field.energy_map(images).sum(0).double()
    assert torch.allclose(total, 29 * trace, rtol=1e-3)


def test_the_gradient_is_linear_in_the_image():
    # A quadratic energy: the gradient of the middle is the middle of the gradients.
    field = fitted(pictures(30))
    a, b = pictures(2, seed=1).split(1)
    middle = input_gradient(field, (a + b) / 2)
    ends = (input_gradient(field, a) + input_gradient(field, b)) / 2
    assert torch.allclose(middle, ends, rtol=1e-3, atol=1e-2 * float(ends.std()))


def test_at_its_mean_the_energy_vanishes():
    images = pictures(30)
    assert float(fitted(images)(images.mean(0, keepdim=True))) < 1e-3


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mirrored_image_has_the_mirrored_map(stride, channels):
    images = pictures(20, channels, (32, 48))
    for axis in (2, 3):
        both = torch.cat((images, images.flip(axis)))
        cells = fitted(both, stride=stride).energy_map(both)
        mirrored = cells[20:].flip(axis - 1)
        assert torch.allclose(cells[:20], mirrored, rtol=1e-2, atol=1e-2)


def test_a_shared_gaussian_moves_with_the_image():
    images = pictures(8, size=(64, 64))
    field = fitted(images, shared=True)
    moved = field.energy_map(images.roll((8, 12), (2, 3)))
    same = field.energy_map(images).roll((2, 3), (1, 2))
    inside = slice(5, -5)
    assert torch.allclose(moved[:, inside, inside], same[:, inside, inside], rtol=1e-3)


def test_a_color_that_only_luminance_would_miss_is_seen():
    images = pictures(30)
    tinted = images.clone()
    tinted[:, 0] += 0.05
    tinted[:, 1] -= 0.05  # R + G + B stays
    field = fitted(images)
    assert (field(tinted) > 3 * field(images)).all()


def test_features_of_a_user_make_a_field_too():
    images, x = pictures(30), pictures(3, seed=1)
    field = GaussianField(MeanOfCells(), (32, 40), noise=0.01).fit(images)
    means = images[:, :, 8:16, 24:32].mean((2, 3)).double().numpy()
    inverse = np.linalg.inv(np.cov(means, rowvar=False) + 0.01**2 * np.eye(3))
    for one, energy in zip(x, field.energy_map(x), strict=True):
        there = one[:, 8:16, 24:32].mean((1, 2))
        distance = mahalanobis(there, means.mean(0), inverse)
        assert float(energy[1, 3]) == pytest.approx(distance**2 / 2, rel=1e-3)
    assert torch.equal(build_energy(**energy_spec(field)).fit(images)(x), field(x))


# ------------------------------------------------------------------ units and densities


def spread(phi, by):
    """Features in other units, channel by channel."""
    return phi * torch.tensor(by)[:, None, None]


@pytest.mark.parametrize("shared", [False, True])
def test_with_relative_noise_the_units_of_the_features_do_not_matter(shared):
    images, by = pictures(20), [8.0, 1.0, 0.125]
    one = GaussianField(MeanOfCells(), (32, 40), shared, 0.2, relative=True)
    phi, x = one.features(images), one.features(pictures(3, seed=1))
    other = copy.deepcopy(one).fit_features([spread(phi, by)])
    one.fit_features([phi])
    expected = one.cell_energies(x)
    assert torch.allclose(other.cell_energies(spread(x, by)), expected, rtol=1e-3)
    absolute = GaussianField(MeanOfCells(), (32, 40), shared, 0.2)
    absolute.fit_features([spread(phi, by)])
    assert not torch.allclose(absolute.cell_energies(spread(x, by)), expected, rtol=0.1)


def test_relative_noise_is_a_share_of_the_spread_over_places_and_images():
    field = GaussianField(MeanOfCells(), (32, 40), noise=0.5, relative=True)
    phi = field.features(pictures(20)).double()
    field.double().fit_features([phi])
    cell = phi[:, :, 1, 3]
    variance = phi.movedim(1, -1).flatten(0, 2).var(0, correction=0)
    sigma = torch.cov(cell.T) + 0.5**2 * torch.diag(variance)
    found = torch.linalg.inv(field.whitener[1, 3].T @ field.whitener[1, 3])
    assert torch.allclose(found, sigma, rtol=1e-8)


def test_a_feature_that_never_varied_stays_finite_with_relative_noise():
    field = GaussianField(MeanOfCells(), (32, 40), noise=0.2, relative=True)
    phi = field.features(pictures(20))
    phi[:, 1] = 0.5
    assert field.fit_features([phi]).cell_energies(phi).isfinite().all()
    flat = torch.full_like(phi, 0.5)
    assert field.fit_features([flat]).cell_energies(flat).isfinite().all()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_log_density_is_that_of_a_multivariate_normal(shared, relative):
    field = GaussianField(MeanOfCells(), (32, 40), shared, 0.1, relative).double()
    field.fit(pictures(20).double())
    phi = field.features(pictures(3, seed=1).double())
    found = field.log_density(phi)
    assert found.shape == (3, 4, 5)
    for row, column in ((0, 0), (2, 3)):
        at = (0, 0) if shared else (row, column)
        whitener = field.whitener[at]
        normal = torch.distributions.MultivariateNormal(
            field.mean[:, *at], precision_matrix=whitener.T @ whitener
        )
        expected = normal.log_prob(phi[:, :, row, column])
        assert torch.allclose(found[:, row, column], expected, rtol=1e-8)


def test_the_energy_is_half_the_squared_norm_of_white_features():
    images = pictures(40)
    field = GaussianField(MeanOfCells(), (32, 40), noise=1e-3).fit(images)
    phi = field.features(images)
    white = field.whiten(phi)
    assert torch.allclose(white.square().sum(1) / 2, field.energy_map(images))
    for row, column in ((0, 0), (3, 4)):
        found = torch.cov(white[:, :, row, column].T)
        assert torch.allclose(found, torch.eye(3), atol=0.1)


# ------------------------------------------------------------- one Gaussian or many


def noisy(count, places, seed=0):
    """Features (N, 3, 8, 8) with mean `places` (3, 8, 8) and correlated noise."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [0, 0.3, 1]])
    noise = torch.randn(count, 8, 8, 3, generator=generator) @ mix
    return places + noise.movedim(-1, 1)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_positions_pay_where_places_differ_and_images_are_many(scale):
    places = 2 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    different, alike = noisy(60, places), noisy(60, torch.zeros(3, 8, 8))
    assert positions_pay([scale * different], 0.1) is True
    assert positions_pay([scale * alike], 0.1) is False
    assert positions_pay([scale * different[:5]], 0.1) is False
    by = [8.0, 1.0, 0.125]
    assert positions_pay([spread(different, by)], 0.1) is True
    assert positions_pay([spread(alike, by)], 0.1) is False
    assert positions_pay([different], 0.1, relative=False) is True


def test_positions_pay_by_the_log_density_of_the_last_fifth():
    places = 0.5 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    for count in (10, 25, 60):
        phi, densities = noisy(count, places).double(), []
        for shared in (False, True):
            features = MeanOfCells()
            field = GaussianField(features, (64, 64), shared, 0.1, relative=True)
            field.double().fit_features([phi[: 4 * count // 5]])
            densities.append(float(field.log_density(phi[4 * count // 5 :]).mean()))
        assert positions_pay([phi], 0.1) is (densities[0] > densities[1])


def test_few_cells_are_asked_where_there_are_many():
    places = 2 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    phi = noisy(60, places).repeat(1, 1, 4, 4)
    assert positions_pay([phi], 0.1) is positions_pay([phi], 0.1, cells=16) is True


@pytest.mark.parametrize("shared", [False, True])
def test_config_and_state_make_the_same_field(shared):
    field = fitted(pictures(8), shared=shared, frequencies=3)
    twin = build_energy(**json.loads(json.dumps(energy_spec(field))))
    assert field.state_dict().keys() == {"mean", "whitener"}
    twin.load_state_dict(field.state_dict())
    assert torch.equal(twin(pictures(2)), field(pictures(2)))


def test_autocast_and_the_default_dtype_change_nothing():
    images = pictures(8)
    field = fitted(images)
    expected = field(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(field(images), expected)
        assert torch.equal(fitted(images).whitener, field.whitener)
    torch.set_default_dtype(torch.float64)
    try:
        again = fitted(images)
        assert torch.equal(again.whitener, field.whitener)
        assert torch.equal(again(images), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "features", [CosineFeatures(3, 4), ResNetFeatures(count=10), EfficientNetFeatures()]
)
def test_a_field_is_fitted_and_evaluated_where_it_lies(features, shared, second_device):
    second_device.float64 = False  # as Apple's has none
    images, x = pictures(2 * IMAGES_AT_ONCE + 1), pictures(3, seed=1)
    here = GaussianField(features, (32, 40), shared)
    there = second_device(copy.deepcopy(here))
    here.fit(images)
    assert there.fit(images).mean.device == second_device.device
    for name, value in here.state_dict().items():
        assert torch.equal(there.state_dict()[name].cpu(), value)
    moved, reads = second_device(x), second_device.reads
    energy = there(moved)
    assert second_device.reads == reads  # the host waits for nothing
    assert torch.allclose(energy.cpu(), here(x))
    assert torch.allclose(energy_maps(there, x), energy_maps(here, x))
    gradient = input_gradient(there, moved)
    assert torch.allclose(gradient.cpu(), input_gradient(here, x), rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianField(CosineFeatures(), (32, 32), noise=0), "noise must be"),
        (lambda: GaussianField(CosineFeatures(), (7, 32)), "8 px a side.* 7 x 32"),
        (lambda: fitted(pictures(1)), "at least 2 images"),
        (
            lambda: fitted(pictures(3))(pictures(1, size=(32, 32))),
            r"made for images \(B, 3, 32, 40\)",
        ),
        (lambda: fitted(pictures(3))(pictures(1, 1)), "made for images"),
        (lambda: fitted(pictures(3) * float("nan")), "NaN or infinite"),
    ],
)
def test_mistakes_get_a_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_reading_features_leaves_the_gradient_mode_alone():
    images = pictures(40)
    field = unfitted(images)
    parts = features_of(field, images)
    next(parts)
    assert torch.is_grad_enabled()
    parts.close()
    assert torch.is_grad_enabled()


def test_no_positions_pay_where_one_covariance_has_no_images():
    places = 2 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    for count in (1, 2, 3, 4):
        assert positions_pay([noisy(count, places)], 0.1) in (True, False)
    assert positions_pay([noisy(2, places)], 0.1) is False
