"""Facts about Parzen fields: closed forms, brute force, and what the memory costs."""

import copy
import json
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from ebmlib.energy import (
    IMAGES_AT_ONCE,
    build_energy,
    energy_maps,
    energy_spec,
    input_gradient,
    register_energy,
)
from ebmlib.features import CosineFeatures
from ebmlib.parzen import BLOCK, ParzenField, farthest_points

SIZE, GRID = (24, 40), (6, 10)  # more than one block of cells, and no whole number


def pictures(count, seed=0, channels=1, size=SIZE):
    """A fixed pattern with noise, in [0, 1]."""
    pattern = torch.rand(channels, *size, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, *size, generator=generator)
    return (0.3 + 0.4 * pattern + 0.05 * noise).clamp(0, 1)


def unfitted(radius=2, memory=64, bandwidth=0.0, **options):
    features = CosineFeatures(1, 4, **{"frequencies": 2, **options})
    return ParzenField(features, SIZE, radius, memory, bandwidth)


def fitted(images, *arguments, **options):
    return unfitted(*arguments, **options).fit(images)


def seen_at(field, row, column):
    """The stored patches that the cell at a place looks at, (M, F), float64."""
    bank = field.bank.double()
    if field.radius is None:
        return bank.flatten(0, 2)
    rows, columns = (
        slice(max(at - field.radius, 0), at + field.radius + 1) for at in (row, column)
    )
    return bank[rows, columns].flatten(0, 2)


def distances(field, x):
    """To the nearest patch of every cell, by scikit-learn, (B, h, w), float64."""
    phi = (field.features(x) / field.scale[:, None, None]).double()
    found = torch.empty(len(x), *phi.shape[2:], dtype=torch.float64)
    for row in range(found.shape[1]):
        for column in range(found.shape[2]):
            near = NearestNeighbors(n_neighbors=1).fit(seen_at(field, row, column))
            nearest = near.kneighbors(phi[:, :, row, column])[0][:, 0]
            found[:, row, column] = torch.from_numpy(nearest)
    return found


# ------------------------------------------------------------------------ the energy


@pytest.mark.parametrize("radius", [None, 0, 1, 2, BLOCK + 1, 99])
def test_without_bandwidth_the_energy_is_half_the_squared_nearest_distance(radius):
    images, x = pictures(7), pictures(3, seed=1)
    field = fitted(images, radius)
    expected = distances(field, x).square() / 2  # the border looks at fewer cells
    assert field.energy_map(x).shape == (3, *GRID)
    assert torch.allclose(field.energy_map(x).double(), expected, rtol=1e-4)


@pytest.mark.parametrize("radius", [None, 2])
@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 4.0])
def test_the_energy_is_the_logarithm_of_a_mean_of_gaussians(radius, bandwidth):
    images, x = pictures(5).double(), pictures(2, seed=1).double()
    field = unfitted(radius, bandwidth=bandwidth).double().fit(images)
    phi = field.features(x) / field.scale[:, None, None]
    for row, column in ((0, 0), (3, 4), (5, 9), (2, 0)):
        stored = seen_at(field, row, column)
        apart = (phi[:, None, :, row, column] - stored).square().sum(2)
        mean = np.log(np.mean(np.exp(-apart.numpy() / (2 * bandwidth**2)), axis=1))
        found = field.energy_map(x)[:, row, column]
        np.testing.assert_allclose(found, -(bandwidth**2) * mean, rtol=1e-10)


@pytest.mark.parametrize("radius", [None, 1])
def test_a_narrow_window_tends_to_the_nearest_patch(radius):
    images, x = pictures(5).double(), pictures(2, seed=1).double()
    nearest = unfitted(radius).double().fit(images).energy_map(x)
    for bandwidth in (1.0, 0.1, 0.01):
        field = unfitted(radius, bandwidth=bandwidth).double().fit(images)
        above = field.energy_map(x) - nearest
        # The largest of M terms is at most their sum: 0 <= e - e_0 <= s^2 log M.
        most = bandwidth**2 * np.log(field.bank[..., 0].numel())
        assert float(above.min()) > -1e-12 and float(above.max()) < most + 1e-12


@pytest.mark.parametrize("bandwidth", [0.0, 1.5])
def test_the_energy_is_the_sum_of_its_map(bandwidth):
    field, x = fitted(pictures(5), bandwidth=bandwidth), pictures(3, seed=1)
    assert torch.allclose(field(x), field.energy_map(x).sum((1, 2)))


def test_a_patch_seen_in_training_has_no_energy_within_the_radius_of_its_place():
    images = pictures(4)
    energy = fitted(images, 1).energy_map(images)
    assert float(energy.max()) < 1e-4
    moved = images.roll(4, 3)  # by one cell; away from the border all is as before
    inside = (slice(None), slice(2, -2), slice(3, -2))
    assert float(fitted(images, 1).energy_map(moved)[inside].max()) < 1e-4
    assert float(fitted(images, 0).energy_map(moved)[inside].min()) > 0.1


@pytest.mark.parametrize("radius", [None, 1])
@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
def test_the_gradient_points_away_from_a_weighted_mean_of_stored_patches(
    radius, bandwidth
):
    images = pictures(5).double()
    field = unfitted(radius, bandwidth=bandwidth).double().fit(images)
    phi = field.features(pictures(1, seed=1).double()).detach().requires_grad_()
    (slope,) = torch.autograd.grad(field.cell_energies(phi).sum(), phi)
    for row, column in ((0, 0), (3, 4), (5, 9)):
        here, stored = phi[0, :, row, column].detach(), seen_at(field, row, column)
        squares = (here / field.scale - stored).square().sum(1)
        if bandwidth:
            weights = torch.softmax(-squares / (2 * bandwidth**2), 0)
        else:
            weights = nn.functional.one_hot(squares.argmin(), len(stored)).double()
        # dE/dphi = (phi / c - sum_m w_m m) / c, as e is in units of the spread c
        expected = (here / field.scale - weights @ stored) / field.scale
        assert torch.allclose(slope[0, :, row, column], expected, rtol=1e-8)


@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
def test_the_input_gradient_agrees_with_finite_differences(bandwidth):
    field = unfitted(bandwidth=bandwidth).double().fit(pictures(5).double())
    x, generator = pictures(1, seed=1).double(), torch.Generator().manual_seed(4)
    for _ in range(3):
        way = torch.randn(x.shape, generator=generator, dtype=torch.double)
        slope = (input_gradient(field, x) * way).sum()
        difference = (field(x + 1e-6 * way) - field(x - 1e-6 * way)) / 2e-6
        assert float(slope) == pytest.approx(float(difference), rel=1e-5)


# ------------------------------------------------------------------------ the memory


@pytest.mark.parametrize("radius", [0, 2])
@pytest.mark.parametrize("memory", [1, 3, 10])
def test_no_nearest_distance_is_overestimated_by_more_than_what_is_not_covered(
    radius, memory
):
    images, x = pictures(12), pictures(20, seed=1)
    full, stored = (fitted(images, radius, m) for m in (12, memory))
    assert float(full.covered) < 1e-3 and torch.equal(full.scale, stored.scale)
    over = (2 * stored.energy_map(x)).sqrt() - (2 * full.energy_map(x)).sqrt()
    assert float(over.min()) > -1e-3  # fewer patches are never nearer
    assert 0 < float(over.max()) <= float(stored.covered) + 1e-3


def test_more_memory_leaves_less_uncovered():
    images = pictures(20)
    covered = [float(fitted(images, 1, memory).covered) for memory in (1, 4, 10, 20)]
    assert covered == sorted(covered, reverse=True) and covered[-1] < 1e-3


def test_anywhere_the_memory_is_chosen_among_ten_times_as_many_patches():
    images = pictures(30)
    field = fitted(images, None, 5)
    assert field.bank.shape == (1, 1, 5, field.features.count)
    phi = (field.features(images) / field.scale[:, None, None]).movedim(1, -1)
    apart = torch.cdist(field.bank[0, 0], phi.flatten(0, 2))
    assert float(apart.min(1).values.max()) < 1e-3  # all of them are patches seen
    assert torch.equal(field.bank, fitted(images, None, 5).bank)


def test_all_is_stored_where_there_are_fewer_patches_than_memory():
    assert fitted(pictures(3), 1, 64).bank.shape == (*GRID, 3, 4)
    assert fitted(pictures(1), None, 64).bank.shape == (1, 1, 60, 4)
    assert float(fitted(pictures(1), None, 64).covered) < 1e-3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_greedy_choice_covers_at_most_twice_as_badly_as_the_best_one(count):
    points = torch.randn(4, 9, 2, generator=torch.Generator().manual_seed(count))
    chosen, covered = farthest_points(points, count)
    assert chosen.shape == (4, count) and (chosen[:, 0] == 0).all()
    for one, found, radius in zip(points, chosen, covered, strict=True):
        apart = torch.cdist(one, one)
        assert len(set(found.tolist())) == count
        assert float(apart[:, found].min(1).values.max()) == pytest.approx(
            float(radius), abs=1e-3
        )
        best = min(
            float(apart[:, list(some)].min(1).values.max())
            for some in combinations(range(9), count)
        )
        assert best - 1e-3 <= float(radius) <= 2 * best + 1e-3


def test_equal_points_are_chosen_once_each_and_all_points_leave_nothing():
    points = torch.ones(2, 5, 3)
    chosen, covered = farthest_points(points, 5)
    assert float(covered.max()) < 1e-3
    points = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    chosen, covered = farthest_points(points, 5)
    assert chosen.sort(1).values.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert covered.tolist() == [0, 0]


# ------------------------------------------------------------------------ the fit


def test_distances_are_in_units_of_the_spread_of_each_feature():
    images = pictures(10)
    field = fitted(images, 1)
    phi = field.features(images).movedim(1, -1).flatten(0, 2)
    assert torch.allclose(field.scale, phi.std(0, correction=0), rtol=1e-4)
    doubled = unfitted(1).fit_features([2 * field.features(images)])
    x = field.features(pictures(2, seed=1))
    assert torch.allclose(
        doubled.cell_energies(2 * x), field.cell_energies(x), rtol=1e-4
    )


def test_a_feature_that_never_varied_stays_finite():
    image = pictures(1)
    field = fitted(image.repeat(4, 1, 1, 1), 1)
    assert field(pictures(2, seed=1)).isfinite().all()
    flat = torch.full((4, 1, *SIZE), 0.5)
    assert float(fitted(flat)(flat).max()) < 1e-3


def test_features_in_parts_are_those_of_the_images_and_stay_as_they_were():
    images = pictures(IMAGES_AT_ONCE + 3)
    field = fitted(images, 1, 5)
    phi = field.features(images)
    before = phi.clone()
    for parts in ([phi], list(phi.split(10))):
        again = unfitted(1, 5).fit_features(iter(parts))
        assert torch.allclose(again.bank, field.bank, atol=1e-5)
        assert torch.allclose(again.covered, field.covered, atol=1e-4)
    assert torch.equal(phi, before)


def test_fit_looks_at_a_bounded_number_of_images_at_once():
    seen, field = [], unfitted(1, 3)
    field.features.register_forward_hook(lambda m, x, out: seen.append(len(out)))
    field.fit(pictures(2 * IMAGES_AT_ONCE + 5))
    assert max(seen) <= IMAGES_AT_ONCE and sum(seen) == 2 * IMAGES_AT_ONCE + 5


@pytest.mark.parametrize("radius", [None, 1])
def test_a_second_fit_is_that_of_a_fresh_field(radius):
    first, second = pictures(12), pictures(8, seed=1)
    again, fresh = fitted(first, radius).fit(second), fitted(second, radius)
    for name, value in fresh.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize(
    "images",
    [pictures(8) * float("nan"), pictures(0), pictures(8, size=(24, 24))],
)
def test_a_fit_that_fails_leaves_the_field_as_it_was(images):
    field = fitted(pictures(8), 1)
    before = {name: value.clone() for name, value in field.state_dict().items()}
    with pytest.raises(ValueError):
        field.fit(images)
    assert all(torch.equal(v, before[k]) for k, v in field.state_dict().items())


@pytest.mark.parametrize("radius", [None, 1])
def test_config_and_state_make_the_same_field(radius):
    field, x = fitted(pictures(8), radius, 5, 0.5), pictures(2, seed=1)
    twin = build_energy(**json.loads(json.dumps(energy_spec(field))))
    assert twin.bank.shape != field.bank.shape  # what is stored is in the state
    twin.load_state_dict(field.state_dict())
    assert torch.equal(twin(x), field(x)) and torch.equal(twin.covered, field.covered)
    whole = nn.ModuleDict({"a": unfitted(radius, 5, 0.5)})  # as part of a module
    whole.load_state_dict({f"a.{k}": v for k, v in field.state_dict().items()})
    assert torch.equal(whole["a"](x), field(x))


def test_the_state_of_a_field_on_another_grid_is_refused():
    state = fitted(pictures(8), None).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for bank"):
        unfitted(1).load_state_dict(state)


@register_energy
class MeanOfSquares(nn.Module):
    """A feature map of a user: the mean of every channel over squares of 8 px."""

    stride, channels, count = 8, 1, 1

    def grid(self, size):
        return size[0] // 8, size[1] // 8

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x, 8)

    def config(self):
        return {}


def test_features_of_a_user_make_a_field_too():
    images, x = pictures(6), pictures(2, seed=1)
    field = ParzenField(MeanOfSquares(), SIZE, 0).fit(images)
    means = torch.nn.functional.avg_pool2d(images, 8)[:, 0, 1, 2]
    spread = torch.nn.functional.avg_pool2d(images, 8).std(correction=0)
    for one, energy in zip(x, field.energy_map(x), strict=True):
        nearest = (one[0, 8:16, 16:24].mean() - means).abs().min() / spread
        assert float(energy[1, 2]) == pytest.approx(float(nearest) ** 2 / 2, rel=1e-3)


# ------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
def test_float64_is_float32_with_more_digits(bandwidth):
    images, x = pictures(8), pictures(2, seed=1)
    double = unfitted(1, 5, bandwidth).double().fit(images.double())
    found = double.energy_map(x.double())
    assert found.dtype == torch.float64 == double.bank.dtype
    single = fitted(images, 1, 5, bandwidth).energy_map(x)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), found, rtol=1e-3, atol=1e-4)


def test_autocast_and_the_default_dtype_change_nothing():
    images = pictures(8)
    field = fitted(images, 1, 5, 1.0)
    expected = field(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(field(images), expected)
        assert torch.equal(fitted(images, 1, 5, 1.0).bank, field.bank)
    torch.set_default_dtype(torch.float64)
    try:
        again = fitted(images, 1, 5, 1.0)
        assert torch.equal(again.bank, field.bank)
        assert torch.equal(again(images), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("radius", [None, 1])
@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
def test_a_field_is_fitted_and_evaluated_where_it_lies(
    radius, bandwidth, second_device
):
    second_device.float64 = False  # as Apple's has none
    images, x = pictures(IMAGES_AT_ONCE + 1), pictures(2, seed=1)
    here = unfitted(radius, 5, bandwidth)
    there = second_device(copy.deepcopy(here))
    here.fit(images)
    assert there.fit(images).bank.device == second_device.device
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
        (lambda: unfitted(-1), "radius must be None or at least 0 cells, got -1"),
        (lambda: unfitted(True), "radius must be"),
        (lambda: unfitted(memory=0), "memory must be a whole number >= 1"),
        (lambda: unfitted(bandwidth=-1.0), "bandwidth must be at least 0"),
        (lambda: unfitted(bandwidth=float("nan")), "bandwidth must be"),
        (lambda: unfitted(bandwidth=float("inf")), "bandwidth must be"),
        (lambda: ParzenField(CosineFeatures(), (7, 32)), "8 px a side.* 7 x 32"),
        (lambda: fitted(pictures(0)), "at least 1 image, got none"),
        (lambda: fitted(pictures(3) * float("nan")), "NaN or infinite"),
        (
            lambda: fitted(pictures(3))(pictures(1, size=(24, 24))),
            r"made for images \(B, 1, 24, 40\)",
        ),
        (lambda: fitted(pictures(3))(pictures(1, channels=3)), "made for images"),
    ],
)
def test_mistakes_get_a_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
