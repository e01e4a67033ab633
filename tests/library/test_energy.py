"""Energies: known partition functions, exact samples, gradients, invariances."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad
from torch import nn

from ebmlib.energy import energies, input_gradient
from ebmlib.networks import CHROMA, ConvEnergy, PatchEnergy, _conv, opponent
from ebmlib.toy import (
    DoubleWellEnergy,
    GaussianEnergy,
    GaussianMixtureEnergy,
    RingEnergy,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


GAUSSIAN = GaussianEnergy(double([0.5, -1.0]), double([[1.0, 0.6], [0.6, 2.0]]))
MIXTURE = GaussianMixtureEnergy(
    double([[-1.5, 0.0], [1.5, 1.0]]), double([0.4, 0.7]), double([1.0, 3.0])
)
RING = RingEnergy(radius=1.5, width=0.4)
WELL = DoubleWellEnergy(barrier=3.0, separation=1.2, width=0.5)
TOYS = {"gaussian": GAUSSIAN, "mixture": MIXTURE, "ring": RING, "well": WELL}


def small_conv(**options):
    torch.manual_seed(0)
    return ConvEnergy(**{"channels": 2, "width": 4, "depth": 3} | options)


def small_patch(**options):
    torch.manual_seed(0)
    return PatchEnergy(**{"channels": 2, "width": 4, "blocks": 2} | options)


def images(n=2, channels=2, size=32, dtype=torch.float32):
    return torch.rand(n, channels, size, size, generator=seeded(1), dtype=dtype)


# ------------------------------------------------------------------ toy energies


@pytest.mark.parametrize("name", TOYS)
def test_partition_function_equals_numerical_quadrature(name):
    energy = TOYS[name]

    def density(y, x):
        return math.exp(-float(energy(double([[x, y]]))))

    step = 0.05  # the trapezoid rule is spectrally exact for such smooth bumps
    axis = torch.arange(-9, 9, step, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    by_sum = float(torch.logsumexp(-energy(grid), 0)) + 2 * math.log(step)
    # The ring has a cusp at the origin, hence the looser tolerance.
    assert energy.log_partition() == pytest.approx(by_sum, abs=1e-5)
    if name == "gaussian":
        by_quad, _ = dblquad(density, -8, 8, -8, 8, epsabs=1e-6)
        assert energy.log_partition() == pytest.approx(math.log(by_quad), abs=1e-5)


@pytest.mark.parametrize("radius,width", [(2.0, 0.2), (0.3, 1.0), (1.0, 1.0)])
def test_ring_partition_function_in_polar_coordinates(radius, width):
    z, _ = quad(
        lambda r: 2 * math.pi * r * math.exp(-((r - radius) ** 2) / 2 / width**2),
        0,
        radius + 12 * width,
    )
    assert RingEnergy(radius, width).log_partition() == pytest.approx(math.log(z))


@pytest.mark.parametrize("name", TOYS)
def test_exact_samples_have_the_moments_of_the_density(name):
    energy, n = TOYS[name], 40_000
    x = energy.sample(n, seeded()).double()
    axis = torch.arange(-9, 9, 0.05, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    p = torch.softmax(-energy(grid), 0)[:, None]
    for moment in (lambda v: v, torch.square, lambda v: v.prod(1, keepdim=True)):
        expected = (p * moment(grid)).sum(0)
        sigma = (p * moment(grid).square()).sum(0).sqrt() / n**0.5
        assert ((moment(x).mean(0) - expected).abs() < 5 * sigma).all()


def test_ring_samples_have_the_radius_density_of_the_ring():
    # P(|x| < r) by quadrature against the empirical distribution (Kolmogorov).
    energy, n = RingEnergy(0.8, 0.5), 20_000
    radii = energy.sample(n, seeded()).norm(dim=1).double().sort().values.numpy()
    axis = np.linspace(0, 8, 20_001)
    density = axis * np.exp(-((axis - 0.8) ** 2) / (2 * 0.25))
    cdf = np.concatenate(([0], np.cumsum((density[1:] + density[:-1]) / 2)))
    distance = np.abs(
        np.interp(radii, axis, cdf / cdf[-1]) - (np.arange(n) + 0.5) / n
    ).max()
    assert distance < 1.63 / n**0.5  # 1 % level


def test_mean_energy_of_a_gaussian_is_half_its_dimension():
    x = GAUSSIAN.sample(40_000, seeded())
    assert GAUSSIAN(x).mean().item() == pytest.approx(1.0, abs=0.03)


def test_the_same_seed_gives_the_same_samples():
    for energy in TOYS.values():
        assert torch.equal(energy.sample(50, seeded(3)), energy.sample(50, seeded(3)))


def test_toy_energies_refuse_impossible_parameters():
    with pytest.raises(ValueError, match="positive definite"):
        GaussianEnergy(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match=r"covariance \(d, d\)"):
        GaussianEnergy(torch.zeros(2), torch.eye(3))
    with pytest.raises(ValueError, match="stds must be positive"):
        GaussianMixtureEnergy([[0.0, 0.0]], [-1.0], [1.0])
    with pytest.raises(ValueError, match=r"means must be \(K, d\)"):
        GaussianMixtureEnergy([[0.0, 0.0]], [1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="must be positive"):
        RingEnergy(radius=1.0, width=0.0)
    with pytest.raises(ValueError, match="must be positive"):
        DoubleWellEnergy(barrier=-1.0)
    with pytest.raises(ValueError, match=r"shape \(B, 2\)"):
        RING(torch.zeros(4, 3))


# ---------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", TOYS)
def test_gradient_equals_finite_differences_for_toys(name):
    x = TOYS[name].sample(5, seeded()).double()
    assert_finite_differences(TOYS[name], x)


@pytest.mark.parametrize("net", [small_conv, small_patch])
def test_gradient_equals_finite_differences_for_networks(net):
    energy = net().double()
    assert_finite_differences(energy, images(1, size=16, dtype=torch.float64))


def assert_finite_differences(energy, x, h=1e-5):
    gradient = input_gradient(energy, x)
    assert gradient.shape == x.shape
    for seed in range(3):  # along random directions
        u = torch.randn(x.shape, generator=seeded(seed), dtype=x.dtype)
        slope = (energies(energy, x + h * u) - energies(energy, x - h * u)) / (2 * h)
        torch.testing.assert_close(
            (gradient * u).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-7
        )


def test_gradient_of_a_quadratic_is_linear():
    x = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    expected = (x - GAUSSIAN.mean) @ GAUSSIAN.precision
    torch.testing.assert_close(input_gradient(GAUSSIAN, x), expected)


def test_parameters_receive_no_gradient_and_flags_and_modes_are_put_back():
    energy = small_conv()
    energy.layers[1].weight.requires_grad_(False)
    energy.layers[2].eval()
    flags = [p.requires_grad for p in energy.parameters()]
    modes = [m.training for m in energy.modules()]
    gradient = input_gradient(energy, images())
    assert not gradient.requires_grad
    assert all(p.grad is None for p in energy.parameters())
    assert flags == [p.requires_grad for p in energy.parameters()]
    assert modes == [m.training for m in energy.modules()]


def test_gradient_works_where_autograd_is_off():
    energy, x = small_patch(), images()
    expected = input_gradient(energy, x)
    with torch.no_grad():
        assert torch.equal(input_gradient(energy, x), expected)
    with torch.inference_mode():
        assert torch.equal(input_gradient(energy, x + 0), input_gradient(energy, x))


@pytest.mark.parametrize("net", [small_conv, small_patch])
def test_the_gradient_can_be_differentiated_for_score_matching(net):
    energy = net().double()
    x = images(1, size=16, dtype=torch.float64)
    weight = energy.layers[0].weight if net is small_conv else energy.downs[0].weight

    def loss():
        return input_gradient(energy, x, create_graph=True).square().sum()

    loss().backward()
    slope, h, at = weight.grad[0, 0, 1, 1].item(), 1e-6, (0, 0, 1, 1)
    with torch.no_grad():
        weight[at] += h
        above = loss().item()
        weight[at] -= 2 * h
        below = loss().item()
    assert slope == pytest.approx((above - below) / (2 * h), rel=1e-4, abs=1e-8)


def test_wrong_energies_and_inputs_get_a_clear_message():
    x = images()
    with pytest.raises(ValueError, match="one number per item"):
        input_gradient(lambda x: x.square(), x)
    with pytest.raises(ValueError, match="one number per item"):
        energies(lambda x: x.sum(), x)
    with pytest.raises(ValueError, match="does not depend on x"):
        input_gradient(lambda x: x.detach().flatten(1).sum(1), x)
    with pytest.raises(TypeError, match="must return a float tensor"):
        energies(lambda x: x.flatten(1).argmax(1), x)
    with pytest.raises(TypeError, match="255"):
        input_gradient(small_conv(), (x * 255).to(torch.uint8))
    with pytest.raises(ValueError, match="1 values that are NaN"):
        bad = x.clone()
        bad[0, 0, 0, 0] = math.nan
        input_gradient(small_conv(), bad)
    with pytest.raises(ValueError, match="batch"):
        energies(small_conv(), x[:0])


def test_batched_energies_equal_one_pass_and_keep_no_graph():
    energy, x = small_conv(), images(7)
    result = energies(energy, x, batch_size=3)
    assert not result.requires_grad and energy.training
    torch.testing.assert_close(result, energy(x).detach())


# ----------------------------------------------------------------------- networks


@pytest.mark.parametrize("net", [small_conv, small_patch])
@pytest.mark.parametrize("channels,height,width", [(1, 16, 40), (3, 33, 47), (5, 8, 8)])
def test_any_size_and_channel_count(net, channels, height, width):
    x = torch.rand(2, channels, height, width, generator=seeded())
    assert net(channels=channels)(x).shape == (2,)


@pytest.mark.parametrize("net", [small_conv, small_patch])
def test_images_of_a_batch_do_not_depend_on_each_other(net):
    energy, x = net(), images(4)
    one_by_one = torch.cat([energy(image[None]) for image in x])
    torch.testing.assert_close(energy(x), one_by_one)


@pytest.mark.parametrize("net", [small_conv, small_patch])
def test_config_builds_a_twin(net):
    energy = net()
    twin = type(energy)(**energy.config())
    twin.load_state_dict(energy.state_dict())
    assert torch.equal(energy(images()), twin(images()))


@pytest.mark.parametrize("net", [small_conv, small_patch])
def test_wrong_images_get_a_clear_message(net):
    with pytest.raises(ValueError, match=r"takes images \(B, 2, H, W\)"):
        net()(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="at least 8 px"):
        net()(torch.rand(1, 2, 32, 7))
    with pytest.raises(ValueError, match="width must be a whole number"):
        net(width=0)


def test_a_new_layer_keeps_the_size_of_features():
    """He et al. 2015 for SiLU: what comes in with mean square 1 leaves with 1."""
    torch.manual_seed(0)
    features = torch.randn(8, 64, 16, 16)
    after = _conv(64, 256, 3)(nn.functional.silu(features))
    assert after.square().mean().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("net", [ConvEnergy, PatchEnergy])
def test_untrained_energies_have_a_sane_scale_at_any_size(net, size):
    torch.manual_seed(0)
    energy, x = net(), images(4, channels=3, size=size)
    rms = input_gradient(energy, x).square().mean().sqrt()
    assert 1e-3 < rms < 1e-1  # the same at each size: that is why pooling sums
    assert energies(energy, x).std() < 5
    if net is ConvEnergy:
        assert energies(energy, x).abs().max() < 20


@pytest.mark.parametrize(
    "energy",
    [
        small_conv(),
        small_conv(depth=2),
        small_patch(normalize=False),
        small_patch(normalize=False, stride=8, blocks=1),
        small_patch(normalize=False, stride=8),
    ],
)
def test_receptive_field_is_what_it_says(energy):
    # The pixels with a gradient from one position, far from the borders.
    x = images(1, size=128, dtype=torch.float64).requires_grad_()
    energy = energy.double()
    if isinstance(energy, PatchEnergy):
        positions = energy.logits(x)[0]
    else:
        h = x
        for layer in energy.layers:
            h = nn.functional.silu(layer(h))
        positions = h[0].sum(0)
    middle = len(positions) // 2
    (gradient,) = torch.autograd.grad(positions[middle, middle], x)
    touched = gradient[0].abs().sum(0) > 0
    rows = touched.any(1).nonzero()
    assert len(rows) == energy.receptive_field == rows.max() - rows.min() + 1
    # ... and they are centered on the square of `stride` pixels of that position.
    center = (rows.max() + rows.min()).item() / 2
    assert center == middle * energy.stride + (energy.stride - 1) / 2


def test_energy_map_sums_to_the_energy_and_is_softplus_of_the_logits():
    energy, x = small_patch(), images(3, size=40)
    cells = energy.energy_map(x)
    assert cells.shape == (3, 10, 10) and (cells > 0).all()
    assert torch.equal(cells.sum((1, 2)), energy(x))
    normal = torch.sigmoid(-energy.logits(x))  # P(patch is normal)
    torch.testing.assert_close(cells, -normal.log())


def test_energy_map_moves_with_the_image_by_whole_strides():
    energy, x = small_patch().double(), images(1, size=128, dtype=torch.float64)
    moved = torch.roll(x, (8, -12), dims=(2, 3))  # keeps mean and variance
    here = energy.energy_map(x)
    there = torch.roll(energy.energy_map(moved), (-2, 3), dims=(1, 2))
    inner = slice(9, -9)  # cells that see neither the border nor the seam
    torch.testing.assert_close(here[:, inner, inner], there[:, inner, inner])


@pytest.mark.parametrize("normalize", [True, False])
def test_constant_images_have_constant_maps(normalize):
    energy = small_patch(normalize=normalize).double()
    x = double([0.2, 0.7]).view(1, 2, 1, 1).expand(1, 2, 32, 32)
    cells = energy.energy_map(x)
    torch.testing.assert_close(cells, cells[:, :1, :1].expand_as(cells))
    flat = torch.full((1, 2, 32, 32), 0.5, dtype=torch.float64)
    assert input_gradient(energy, flat).isfinite().all()


def test_normalization_removes_exposure_and_its_absence_does_not():
    x = 0.2 + 0.5 * images(4)
    darker, brighter = 0.9 * x, 1.1 * x + 0.05
    for normalize, invariant in ((True, True), (False, False)):
        energy = small_patch(normalize=normalize)
        spread = energies(energy, x).std()
        for other in (darker, brighter):
            moved = (energies(energy, other) - energies(energy, x)).abs().max()
            assert (moved < 0.05 * spread) == invariant


def test_coordinates_tell_places_apart():
    flat = torch.full((1, 2, 32, 32), 0.5)
    cells = small_patch(coordinates=True).energy_map(flat)
    assert cells.std() > 1e-4
    assert small_patch(coordinates=False).energy_map(flat).std() < 1e-6


def test_opponent_colors_are_a_rotation_with_a_gain_on_color():
    """Gray has no color difference; lengths change by the gain alone."""
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    turned = opponent(x)
    squares = x.square().sum(1)
    luminance, color = turned[:, 0].square(), turned[:, 1:].square().sum(1)
    assert torch.allclose(luminance + color / CHROMA**2, squares, rtol=1e-5)
    gray = opponent(x[:, :1].expand(-1, 3, -1, -1))
    assert gray[:, 1:].abs().max() < 1e-6
