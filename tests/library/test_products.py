"""Facts about products of experts: sums, and the scale of their weights."""

import copy
import json

import numpy as np
import pytest
import torch

from ebmlib.energy import build_energy, energy_maps, energy_spec, input_gradient
from ebmlib.features import CosineFeatures
from ebmlib.fields import GaussianField
from ebmlib.networks import PatchEnergy
from ebmlib.parzen import ParzenField
from ebmlib.products import ProductOfExperts, ProductOfFields
from ebmlib.scoring import patch_map, weighted_map


def pictures(count, channels=3, size=(32, 40), seed=0):
    """A fixed pattern with smooth changes and noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.rand(channels, *size, generator=torch.Generator().manual_seed(9))
    low = torch.randn(count, channels, 4, 5, generator=generator)
    change = torch.nn.functional.interpolate(low, size, mode="bilinear")
    noise = torch.randn(count, channels, *size, generator=generator)
    return (0.3 + 0.4 * pattern + 0.03 * change + 0.01 * noise).clamp(0, 1)


def field_of(images, stride=4, **options):
    features = CosineFeatures(images.shape[1], stride, **options)
    return GaussianField(features, tuple(images.shape[-2:])).fit(images)


def test_energies_maps_and_gradients_of_both_add():
    images, x = pictures(20), pictures(3, seed=1)
    network, field = PatchEnergy(3, width=8), field_of(images)
    both = ProductOfExperts(network, field, (2.0, 0.5))
    assert torch.allclose(both(x), 2 * network(x) + field(x) / 2, rtol=1e-5)
    assert torch.allclose(both.energy_map(x).sum((1, 2)), both(x), rtol=1e-5)
    terms = both.terms(x)
    assert torch.allclose(terms["network"], 2 * network.energy_map(x))
    assert torch.allclose(terms["field"], field.energy_map(x) / 2)
    parts = 2 * input_gradient(network, x) + input_gradient(field, x) / 2
    assert torch.allclose(input_gradient(both, x), parts, rtol=1e-3, atol=1e-3)


def test_the_field_weighs_more_where_every_position_has_its_own_gaussian():
    network, images = PatchEnergy(3, width=8), pictures(9)
    for shared, ratio in ((False, 3.0), (True, 0.3)):
        both = ProductOfExperts.from_images(network, images, shared=shared)
        assert both.field.shared is shared
        first, second = (energy_maps(e, images) for e in (network, both.field))
        a, b = both.weights
        assert float((b * second).std() / (a * first).std()) == pytest.approx(ratio)


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_weights_make_a_usual_patch_one_and_keep_the_ratio(ratio):
    images = pictures(40)
    network = PatchEnergy(3, width=8)
    both = ProductOfExperts.from_images(network, images, ratio=ratio)
    a, b = both.weights
    with torch.no_grad():
        first, second = (e.energy_map(images) for e in (network, both.field))
    assert float((b * second).std() / (a * first).std()) == pytest.approx(ratio)
    usual = both.energy_map(images).detach().median()
    assert float(usual) == pytest.approx(1.0, rel=1e-4)


def test_features_and_noise_are_those_of_the_field():
    images = pictures(9)
    features = CosineFeatures(3, 4, 4, 2)
    both = ProductOfExperts.from_images(
        PatchEnergy(3, width=8), images, features=features, noise=0.05
    )
    expected = GaussianField(features, (32, 40), noise=0.05).fit(images)
    assert both.field.features is features
    assert torch.equal(both.field.whitener, expected.whitener)


def test_equal_training_images_do_not_make_energies_of_rounding_errors():
    # All energies of the field are 0 but for rounding, whose size depends on the batch.
    image = pictures(1)
    both = ProductOfExperts.from_images(
        PatchEnergy(3, width=8), image.repeat(8, 1, 1, 1)
    )
    alone, batch = both.energy_map(image), both.energy_map(image.repeat(8, 1, 1, 1))
    assert torch.allclose(alone.expand_as(batch), batch, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_config_builds_a_product_that_is_not_fitted(channels, shared):
    images, x = pictures(9, channels), pictures(2, channels, seed=1)
    network = PatchEnergy(channels, width=8)
    both = ProductOfExperts.from_images(network, images, shared=shared)
    twin = build_energy(**json.loads(json.dumps(energy_spec(both))))
    twin.load_state_dict(both.state_dict())
    assert torch.equal(twin(x), both(x)) and twin.weights == both.weights


@pytest.mark.parametrize("shared", [False, True])
def test_a_product_is_made_and_evaluated_where_its_network_lies(shared, second_device):
    images, x = pictures(9), pictures(3, seed=1)
    network = PatchEnergy(3, width=8)
    here = ProductOfExperts.from_images(network, images, shared=shared)
    moved = second_device(copy.deepcopy(network))
    there = ProductOfExperts.from_images(moved, images, shared=shared)
    assert there.field.mean.device == second_device.device
    assert there.weights == pytest.approx(here.weights)
    assert torch.allclose(there(second_device(x)).cpu(), here(x))
    assert torch.allclose(energy_maps(there, x), energy_maps(here, x))
    gradient = input_gradient(there, second_device(x))
    assert torch.allclose(gradient.cpu(), input_gradient(here, x), rtol=1e-3)


def test_the_logarithm_keeps_a_high_patch_energy_in_its_place():
    def high(x):
        cells = torch.ones(len(x), 8, 8)
        cells[:, 4, 4] = 1000
        return cells

    energy, images = PatchEnergy(3, width=8), pictures(1, size=(32, 32))
    energy.energy_map = high
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


# ------------------------------------------------------------------- two closed forms


def two_fields(channels=3, shared=False, radius=1, size=(32, 40), **options):
    """A product that is not fitted."""
    features = CosineFeatures(channels, 4, **{"frequencies": 2, **options})
    gaussian = GaussianField(features, size, shared, 0.2, relative=True)
    other = CosineFeatures(channels, 4, **{"frequencies": 2, **options})
    return ProductOfFields(gaussian, ParzenField(other, size, radius, memory=5))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("radius", [None, 1])
def test_the_energies_of_both_fields_add(shared, radius):
    images, x = pictures(12), pictures(3, seed=1)
    both = two_fields(shared=shared, radius=radius).fit(images)
    gaussian = GaussianField(both.features, (32, 40), shared, 0.2, relative=True)
    parzen = ParzenField(both.features, (32, 40), radius, memory=5)
    expected = {
        "gaussian": gaussian.fit(images).energy_map(x),
        "parzen": parzen.fit(images).energy_map(x),
    }
    terms = both.terms(x)
    assert terms.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.allclose(terms[name], values, rtol=1e-4, atol=1e-5)
    assert torch.equal(both.energy_map(x), terms["gaussian"] + terms["parzen"])
    assert torch.allclose(both(x), both.energy_map(x).sum((1, 2)))


def test_features_are_computed_once_for_both_fields():
    both, seen = two_fields(), []
    both.features.register_forward_hook(lambda m, x, out: seen.append(len(out)))
    both.fit(pictures(12))
    assert seen == [12]
    assert both.gaussian.features is both.parzen.features is both.features
    both(pictures(3))
    both.terms(pictures(3))
    input_gradient(both, pictures(2))
    assert seen[1:] == [3, 3, 2]


def test_the_input_gradient_of_two_fields_agrees_with_finite_differences():
    both = two_fields().double().fit(pictures(12).double())
    x, generator = pictures(1, seed=1).double(), torch.Generator().manual_seed(4)
    for _ in range(3):
        way = torch.randn(x.shape, generator=generator, dtype=torch.double)
        slope = (input_gradient(both, x) * way).sum()
        difference = (both(x + 1e-6 * way) - both(x - 1e-6 * way)) / 2e-6
        assert float(slope) == pytest.approx(float(difference), rel=1e-4)


@pytest.mark.parametrize("radius", [None, 1])
@pytest.mark.parametrize("channels", [1, 3])
def test_config_builds_two_fields_that_are_not_fitted(channels, radius):
    images, x = pictures(9, channels), pictures(2, channels, seed=1)
    both = two_fields(channels, radius=radius).fit(images)
    twin = build_energy(**json.loads(json.dumps(energy_spec(both))))
    twin.load_state_dict(both.state_dict())
    assert torch.equal(twin(x), both(x))
    assert twin.parzen.features is twin.gaussian.features


def test_two_fields_are_fitted_and_evaluated_where_they_lie(second_device):
    images, x = pictures(9), pictures(3, seed=1)
    here = two_fields()
    there = second_device(copy.deepcopy(here))
    here.fit(images), there.fit(images)
    moved, reads = second_device(x), second_device.reads
    energy = there(moved)
    assert second_device.reads == reads  # the host waits for nothing
    assert torch.allclose(energy.cpu(), here(x))
    gradient = input_gradient(there, moved)
    assert torch.allclose(gradient.cpu(), input_gradient(here, x), rtol=1e-3, atol=1e-5)


def test_autocast_changes_nothing_in_two_fields():
    both, x = two_fields().fit(pictures(9)), pictures(3, seed=1)
    expected = both(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(both(x), expected)
        assert torch.equal(two_fields().fit(pictures(9))(x), expected)


@pytest.mark.parametrize(
    ("features", "size"),
    [
        (CosineFeatures(3, 8), (32, 40)),
        (CosineFeatures(1, 4), (32, 40)),
        (CosineFeatures(3, 4, frequencies=3), (32, 40)),
        (CosineFeatures(3, 4), (40, 32)),
    ],
)
def test_fields_on_unlike_features_are_refused(features, size):
    gaussian = GaussianField(CosineFeatures(3, 4), (32, 40))
    with pytest.raises(ValueError, match="need the same features and image size"):
        ProductOfFields(gaussian, ParzenField(features, size))


def test_two_fields_refuse_what_the_experts_refuse():
    both = two_fields().fit(pictures(9))
    with pytest.raises(ValueError, match=r"made for images \(B, 3, 32, 40\)"):
        both(pictures(1, size=(32, 32)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        both.fit(pictures(9) * float("nan"))


class Constant(PatchEnergy):
    def energy_map(self, x):
        return torch.ones(len(x), x.shape[2] // self.stride, x.shape[3] // self.stride)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, f: ProductOfExperts(n, field_of(pictures(3), 8)), "one stride"),
        (lambda n, f: ProductOfExperts(PatchEnergy(1), f), "one number of channels"),
        (
            lambda n, f: ProductOfExperts(n, field_of(pictures(3), centered=False)),
            r"one grid, got \(8, 10\) cells and \(7, 9\)",
        ),
        (lambda n, f: ProductOfExperts(n, f, (1, 0)), "finite numbers > 0"),
        (lambda n, f: ProductOfExperts(n, f, (1, float("nan"))), "finite numbers > 0"),
        (
            lambda n, f: ProductOfExperts.from_images(n, pictures(3), ratio=0),
            "ratio must be a finite number > 0, got 0",
        ),
        (
            lambda n, f: ProductOfExperts.from_images(n, pictures(1)),
            "at least 2 images",
        ),
        (
            lambda n, f: ProductOfExperts.from_images(Constant(3), pictures(3)),
            "no weights .* standard deviation 0",
        ),
    ],
)
def test_mistakes_get_a_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call(PatchEnergy(3, width=8), field_of(pictures(3)))
