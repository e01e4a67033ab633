"""Gradients, batches, modes and precision of any energy; energies from their specs."""

import json
import math

import pytest
import torch
from small import images, seeded, small_conv, small_patch
from torch import nn

from ebmlib.energy import (
    all_finite,
    build_energy,
    device_of,
    energies,
    energy_maps,
    energy_spec,
    frozen,
    input_gradient,
    register_energy,
    value_and_gradient,
)

NETS = [small_conv, small_patch]


# ---------------------------------------------------------------------- gradients


@pytest.mark.parametrize("net", NETS)
def test_gradient_equals_finite_differences(net):
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


def test_parameters_receive_no_gradient_and_flags_and_modes_are_restored():
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


@pytest.mark.parametrize("net", NETS)
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


def test_empty_images_get_a_clear_message():
    with pytest.raises(ValueError, match="must be a batch"):
        energies(small_conv(), images()[:, :, :0])


def test_energy_maps_are_those_of_eval_mode_in_batches_of_any_size():
    class Noisy(nn.Module):
        """A map that depends on the mode, as one with dropout does."""

        def energy_map(self, x):
            return x.mean(1) + self.training

    energy, x = Noisy(), images(5)
    maps = energy_maps(energy, x, batch_size=2)
    torch.testing.assert_close(maps, x.mean(1))
    assert energy.training
    with pytest.raises(ValueError, match="NaN"):
        energy_maps(energy, x / 0 * 0)


def test_graphs_for_training_follow_a_surrounding_autocast():
    """Measured values do not; a user who trains in bfloat16 wants it."""
    energy, x = small_conv(), images(2)
    exact = input_gradient(energy, x)
    with torch.autocast("cpu", torch.bfloat16):
        measured = value_and_gradient(energy, x)[1]
        training = input_gradient(energy, x, create_graph=True)
    assert torch.equal(measured, exact)
    assert 0 < (training - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_bad_value_anywhere_is_found(bad, dtype):
    x = torch.linspace(-1, 1, 1001).to(dtype)
    for at in (0, 500, 1000):
        assert all_finite(x)
        y = x.clone()
        y[at] = bad
        assert not all_finite(y)
    big = torch.finfo(dtype).max
    assert all_finite(torch.tensor([-big, big], dtype=dtype))  # also the extremes


def test_a_module_lies_where_its_first_parameter_or_buffer_lies():
    assert device_of(nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")).type == "meta"
    assert device_of(nn.Flatten()) is None and device_of(lambda x: x) is None


def test_frozen_takes_plain_callables_too():
    with frozen(lambda x: x):
        pass


# ------------------------------------------------------------------------ registry


@register_energy
class Scaled(nn.Module):
    """A multiple of another energy: one module inside another."""

    def __init__(self, inner, scale=2.0):
        super().__init__()
        self.inner, self.scale = inner, scale

    def config(self):
        return {"inner": energy_spec(self.inner), "scale": self.scale}

    def forward(self, x):
        return self.scale * self.inner(x)


@pytest.mark.parametrize("net", [*NETS, lambda: Scaled(Scaled(small_patch(), 0.5), 3)])
def test_a_spec_through_json_and_the_state_make_a_twin(net):
    energy = net()
    spec = json.loads(json.dumps(energy_spec(energy)))
    twin = build_energy(**spec)
    twin.load_state_dict(energy.state_dict())
    assert type(twin) is type(energy) and energy_spec(twin) == energy_spec(energy)
    assert torch.equal(energies(twin, images()), energies(energy, images()))


def test_what_cannot_be_built_gets_a_clear_message():
    with pytest.raises(
        ValueError, match=r"'Conv'; known are ConvEnergy, .*PatchEnergy"
    ):
        build_energy("Conv", {})
    with pytest.raises(ValueError, match=r"ConvEnergy does not take .*heads"):
        build_energy("ConvEnergy", {"heads": 3})
    with pytest.raises(ValueError, match="unknown energy 'Gone'"):
        build_energy("Scaled", {"inner": {"name": "Gone", "config": {}}})
    with pytest.raises(ValueError, match="Linear cannot be described"):
        energy_spec(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="needs a method config"):
        register_energy(nn.Linear)


def test_a_name_belongs_to_one_class_but_a_cell_may_run_twice():
    def cell():
        @register_energy
        class FromACell(nn.Module):
            def config(self):
                return {}

        return FromACell

    cell()
    again = cell()
    assert type(build_energy("FromACell", {})) is again
    impostor = type("ConvEnergy", (nn.Module,), {"config": lambda self: {}})
    with pytest.raises(ValueError, match="networks has registered the name"):
        register_energy(impostor)
