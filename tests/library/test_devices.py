"""Every function that takes an energy computes where the energy lies.

On the second device of `second_device.py`, which needs no GPU: an operation that mixes
two devices raises there, and the numbers are those of the CPU.
"""

import copy

import pytest
import torch
from second_device import DEVICE, MixedDevices, SecondDevice
from small import images, seeded, small_conv, small_patch
from torch import nn

from ebmlib.energy import (
    device_of,
    energies,
    energy_maps,
    input_gradient,
    to_device_of,
    value_and_gradient,
)
from ebmlib.features import CosineFeatures
from ebmlib.fields import GaussianField
from ebmlib.langevin import READ_EVERY, ChainDiverged, langevin
from ebmlib.products import ProductOfExperts
from ebmlib.random import choice, rand, randint, randn, randperm
from ebmlib.replay import ReplayBuffer, corrupted_images, fitted_gaussian, uniform_noise
from ebmlib.toy import (
    DoubleWellEnergy,
    GaussianEnergy,
    GaussianMixtureEnergy,
    RingEnergy,
)

X = images(4, channels=3, size=16)
TOYS = {
    "gaussian": GaussianEnergy(torch.zeros(2), torch.eye(2)),
    "mixture": GaussianMixtureEnergy([[-1.5, 0.0], [1.5, 1.0]], [0.4, 0.7]),
    "ring": RingEnergy(),
    "well": DoubleWellEnergy(),
}


class OnlyBuffers(nn.Module):
    """A quadratic energy without parameters."""

    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.full((3, 16, 16), 0.3))

    def energy_map(self, x):
        return (x - self.center).square().sum(1)

    def forward(self, x):
        return self.energy_map(x).sum((1, 2))


def field():
    return GaussianField(CosineFeatures(3, stride=4), (16, 16)).fit(X)


def product():
    return ProductOfExperts(small_patch(channels=3), field(), (1.0, 0.5))


ENERGIES = {
    "convolutions": lambda: small_conv(channels=3),
    "patches": lambda: small_patch(channels=3),
    "coordinates": lambda: small_patch(channels=3, coordinates=True, stride=8),
    "buffers": OnlyBuffers,
    "field": field,
    "product": product,
}
MAPS = [name for name in ENERGIES if name != "convolutions"]
OPTIONS = {"steps": 3, "step_size": 0.01, "noise": 0.02, "bounds": (0.0, 1.0)}
FUNCTIONS = {
    "energies": lambda energy, x: [energies(energy, x, batch_size=3)],
    "input_gradient": lambda energy, x: [input_gradient(energy, x)],
    "value_and_gradient": lambda energy, x: [*value_and_gradient(energy, x)],
    "langevin": lambda energy, x: [
        langevin(energy, x, generator=seeded(), clip_grad=0.5, **OPTIONS).x
    ],
}


@pytest.fixture(params=ENERGIES)
def energy(request):
    return ENERGIES[request.param]()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("images_are", ["here", "there"])
def test_results_lie_with_the_energy_and_equal_those_of_the_cpu(
    energy, name, images_are, second_device
):
    expected = FUNCTIONS[name](energy, X)
    moved = second_device(copy.deepcopy(energy))
    x = X if images_are == "here" else second_device(X)
    for mine, theirs in zip(FUNCTIONS[name](moved, x), expected, strict=True):
        assert mine.device == DEVICE
        torch.testing.assert_close(mine.cpu(), theirs)


@pytest.mark.parametrize("double", [True, False])
def test_a_field_is_fitted_where_it_lies_with_or_without_float64(double, second_device):
    """Closed forms take float64, on the CPU where the device has none."""
    expected = energies(field(), X)
    features = CosineFeatures(3, stride=4)
    second_device.float64 = double
    moved = second_device(GaussianField(features, (16, 16))).fit(X)
    assert device_of(moved) == DEVICE
    torch.testing.assert_close(energies(moved, X).cpu(), expected)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("images_are", ["here", "there"])
def test_maps_come_to_the_cpu(name, images_are, second_device):
    energy = ENERGIES[name]()
    expected = energy_maps(energy, X)
    moved = second_device(copy.deepcopy(energy))
    maps = energy_maps(moved, X if images_are == "here" else second_device(X))
    assert maps.device.type == "cpu"
    torch.testing.assert_close(maps, expected)


def test_images_come_to_a_module_on_the_cpu_too(energy, second_device):
    x = second_device(X)
    for run in FUNCTIONS.values():
        assert all(result.device.type == "cpu" for result in run(energy, x))


def test_a_graph_reaches_the_parameters_where_they_lie(second_device):
    """As in score matching: the gradient is differentiated once more."""
    energy = small_conv(channels=3)
    input_gradient(energy, X, create_graph=True).square().sum().backward()
    moved = second_device(small_conv(channels=3))
    input_gradient(moved, X, create_graph=True).square().sum().backward()
    for mine, theirs in zip(moved.parameters(), energy.parameters(), strict=True):
        assert mine.grad is None or mine.grad.device == DEVICE
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad.cpu(), theirs.grad)


def test_a_plain_callable_computes_where_its_input_lies(second_device):
    for toy in TOYS.values():
        x = toy.sample(9, seeded())
        there = second_device(x)
        assert device_of(toy) is None and to_device_of(toy, there) is there
        for run in (energies, input_gradient):
            result = run(toy, there)
            assert result.device == DEVICE
            torch.testing.assert_close(result.cpu(), run(toy, x))


# -------------------------------------------------------------------------- draws


@pytest.mark.parametrize("name", TOYS)
def test_exact_samples_lie_with_the_generator(name, second_device):
    expected = TOYS[name].sample(50, seeded(3))
    there = TOYS[name].sample(50, second_device.generator(3))
    assert there.device == DEVICE
    assert torch.equal(there.cpu(), expected)


def test_draws_take_a_generator_of_any_device_for_any_device(second_device):
    weights = torch.tensor([1.0, 2.0, 1.0])
    here, there = torch.zeros(1), second_device(torch.zeros(1))
    for generator in (lambda: seeded(1), lambda: second_device.generator(1)):
        for like, w in ((here, weights), (there, second_device(weights))):
            for drawn, expected in (
                (randn((4,), generator(), like), randn((4,), seeded(1))),
                (rand((4,), generator(), like), rand((4,), seeded(1))),
                (randint(9, (4,), generator(), like), randint(9, (4,), seeded(1))),
                (randperm(7, generator(), like), randperm(7, seeded(1))),
                (choice(w, 5, generator()), choice(weights, 5, seeded(1))),
            ):
                assert drawn.device == like.device
                assert torch.equal(drawn.cpu(), expected)


def test_a_chain_takes_a_generator_of_either_device(second_device):
    energy = second_device(small_conv(channels=3))
    one = langevin(energy, X, generator=seeded(2), **OPTIONS)
    two = langevin(energy, X, generator=second_device.generator(2), **OPTIONS)
    assert torch.equal(one.x.cpu(), two.x.cpu()) and one.health == two.health


def whiten(x, generator):
    masks = rand((len(x), *x.shape[2:]), generator, like=x) < 0.5
    return torch.where(masks[:, None], 1.0, x), masks


@pytest.mark.parametrize(
    "start",
    [
        lambda x: uniform_noise((3, 16, 16)),
        fitted_gaussian,
        lambda x: corrupted_images(x, whiten),
    ],
)
@pytest.mark.parametrize("images_are", ["here", "there"])
def test_a_buffer_stays_on_the_cpu_and_takes_any_generator(
    start, images_are, second_device
):
    def rounds(start, generator, move):
        buffer = ReplayBuffer(8, start, fresh=0.5, generator=generator)
        for _ in range(3):
            x, index = buffer.sample(4, generator)
            assert x.device.type == index.device.type == "cpu"
            buffer.write(move(index), move(0.9 * x))
        return buffer

    expected = rounds(start(X), seeded(), lambda t: t)
    x = X if images_are == "here" else second_device(X)
    buffer = rounds(start(x), second_device.generator(), second_device)
    assert torch.equal(buffer.pixels, expected.pixels)
    assert torch.equal(buffer.ages, expected.ages)


# -------------------------------------------------------------------------- reads


@pytest.mark.parametrize("steps", [1, 10, 11, 35])
@pytest.mark.parametrize("clip_grad", [None, 0.01])
def test_a_chain_makes_the_host_wait_once_in_ten_steps(steps, clip_grad, second_device):
    energy, x = second_device(small_conv(channels=3)), second_device(X)
    options = {"step_size": 0.1, "noise": 0.01, "clip_grad": clip_grad}
    before = second_device.reads
    generator = second_device.generator()
    langevin(energy, x, steps=steps, generator=generator, bounds=(0, 1), **options)
    reads = second_device.reads - before
    # check of x before and after; saturated, spread and the energy at the end
    assert reads <= -(-steps // READ_EVERY) + 5


@pytest.mark.parametrize("steps", [35, 200])
def test_divergence_between_two_reads_is_found_at_its_first_step(steps, second_device):
    def quartic(x):
        return x.pow(4).sum(1)

    x = torch.full((2, 2), 1.1)
    options = {"steps": steps, "step_size": 1.0, "noise": 0.0}
    with pytest.raises(ChainDiverged) as expected:
        langevin(quartic, x, **options)
    with pytest.raises(ChainDiverged) as found:
        langevin(quartic, second_device(x), **options)
    assert str(found.value) == str(expected.value)


# ------------------------------------------------------------------ the instrument


def test_the_second_device_refuses_what_a_gpu_refuses(second_device):
    here, there = torch.ones(3), second_device(torch.ones(3))
    with pytest.raises(MixedDevices):
        here + there
    with pytest.raises(MixedDevices):
        torch.cat([here, there])
    with pytest.raises(MixedDevices):
        there[0] * here
    with pytest.raises(MixedDevices):
        here[second_device(torch.tensor([0]))]
    with pytest.raises(MixedDevices):
        there[torch.tensor([0, 1])] = here[:2]
    with pytest.raises(MixedDevices):
        nn.Linear(3, 1)(there)
    with pytest.raises(MixedDevices):
        torch.randn(3, generator=seeded(), device=DEVICE)
    with pytest.raises(MixedDevices):
        torch.randn(3, generator=second_device.generator())
    with pytest.raises(TypeError):
        there.numpy()
    second_device.float64 = False
    with pytest.raises(TypeError, match="no float64"):
        there.double()


def test_the_second_device_allows_what_a_gpu_allows(second_device):
    here, there = torch.ones(3), second_device(torch.arange(3.0))
    assert (there * here[0]).tolist() == [0, 1, 2]
    assert there[torch.tensor([2, 0])].tolist() == [2, 0]
    assert here.copy_(there).tolist() == [0, 1, 2]
    assert torch.zeros(2, device=there.device).device == DEVICE
    assert torch.zeros_like(there).device == there.clone().device == DEVICE
    assert there.to("cpu").device.type == "cpu"
    there[1] = 5.0
    there.add_(1).clamp_(max=4)
    assert there.tolist() == [1, 4, 3]


def test_the_second_device_counts_reads(second_device):
    x = second_device(torch.arange(6.0))
    y = x * 2 + torch.where(x > 2, x, 0.0)
    assert second_device.reads == 0
    reads = (
        lambda: y.sum().item(),
        lambda: y.cpu(),
        lambda: y.tolist(),
        lambda: bool((y > 1).any()),
        lambda: y[y > 3],
        lambda: y.nonzero(),
        lambda: torch.equal(y, x),
    )
    for i, read in enumerate(reads):
        read()
        assert second_device.reads == i + 1


def test_modules_move_to_the_second_device_and_back():
    energy = small_conv(channels=3)
    expected = energies(energy, X)
    with SecondDevice() as device:
        twin = device(copy.deepcopy(energy))
        assert {p.device for p in twin.parameters()} == {DEVICE}
        assert torch.equal(twin(device(X)).cpu(), expected)
        assert torch.equal(copy.deepcopy(twin)(device(X)).cpu(), expected)
        twin.load_state_dict(energy.state_dict())
        assert twin.double()(device(X.double())).dtype == torch.float64
        assert {p.device.type for p in twin.cpu().parameters()} == {"cpu"}
