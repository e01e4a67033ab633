"""The two networks: shapes, invariances, receptive fields, scale, precision."""

import pytest
import torch
from small import images, seeded, small_conv, small_patch
from torch import nn

from ebmlib.energy import energies, energy_maps, input_gradient
from ebmlib.networks import CHROMA, ConvEnergy, PatchEnergy, _conv, opponent

NETS = [small_conv, small_patch]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("channels,height,width", [(1, 16, 40), (3, 33, 47), (5, 8, 8)])
def test_any_size_and_channel_count(net, channels, height, width):
    x = torch.rand(2, channels, height, width, generator=seeded())
    assert net(channels=channels)(x).shape == (2,)


@pytest.mark.parametrize("net", NETS)
def test_images_of_a_batch_do_not_depend_on_each_other(net):
    energy, x = net(), images(4)
    one_by_one = torch.cat([energy(image[None]) for image in x])
    torch.testing.assert_close(energy(x), one_by_one)


@pytest.mark.parametrize("net", NETS)
def test_config_builds_a_twin(net):
    energy = net()
    twin = type(energy)(**energy.config())
    twin.load_state_dict(energy.state_dict())
    assert torch.equal(energy(images()), twin(images()))


@pytest.mark.parametrize("net", NETS)
def test_wrong_images_get_a_clear_message(net):
    with pytest.raises(ValueError, match=r"takes images \(B, 2, H, W\)"):
        net()(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="at least 8 px"):
        net()(torch.rand(1, 2, 32, 7))
    with pytest.raises(ValueError, match="width must be a whole number"):
        net(width=0)
    with pytest.raises(
        TypeError, match=r"float64, the energy's weights torch\.float32"
    ):
        net()(images(dtype=torch.float64))
    with pytest.raises(TypeError, match="uint8"):
        net()((images() * 255).to(torch.uint8))


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
    colors = torch.tensor([0.2, 0.7], dtype=torch.float64)
    x = colors.view(1, 2, 1, 1).expand(1, 2, 32, 32)
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
    x = torch.rand(2, 3, 4, 4, generator=seeded())
    turned = opponent(x)
    squares = x.square().sum(1)
    luminance, color = turned[:, 0].square(), turned[:, 1:].square().sum(1)
    assert torch.allclose(luminance + color / CHROMA**2, squares, rtol=1e-5)
    gray = opponent(x[:, :1].expand(-1, 3, -1, -1))
    assert gray[:, 1:].abs().max() < 1e-6


@pytest.mark.parametrize("stride,widths", [(4, [2, 6, 12]), (8, [2, 3, 6, 12])])
def test_layers_before_the_blocks_double_their_channels(stride, widths):
    downs = small_patch(width=6, stride=stride).downs
    assert [downs[0].in_channels, *(down.out_channels for down in downs)] == widths


def test_an_untrained_patch_is_called_normal():
    normal = torch.sigmoid(-small_patch().logits(images()))
    assert normal.mean().item() == pytest.approx(0.88, abs=0.02)


@pytest.mark.parametrize("net", NETS)
def test_channels_last_weights_change_nothing_but_rounding(net):
    energy, x = net(), images(3)
    value, gradient = energies(energy, x), input_gradient(energy, x)
    energy.to(memory_format=torch.channels_last)
    torch.testing.assert_close(energies(energy, x), value)
    torch.testing.assert_close(input_gradient(energy, x), gradient)


@pytest.mark.parametrize("net", NETS)
def test_energies_of_bfloat16_passes_are_float32_and_close(net):
    energy, x = net(), images(8, size=64)
    exact = energies(energy, x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        value = energy(x)
    assert value.dtype == torch.float32
    assert 0 < (value - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("net", NETS)
def test_a_surrounding_autocast_changes_no_energy_gradient_or_map(net):
    energy, x = net(), images(3)

    def measured():
        yield energies(energy, x)
        yield input_gradient(energy, x)
        if hasattr(energy, "energy_map"):
            yield energy_maps(energy, x)

    exact = list(measured())
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, measured(), exact))


@pytest.mark.parametrize("net", NETS)
def test_networks_of_double_precision_work_as_a_default(net):
    x = images(2)
    try:
        torch.set_default_dtype(torch.float64)
        energy = net()
        with pytest.raises(TypeError, match=r"energy\.to"):
            energies(energy, x)
        assert energies(energy, x.double()).dtype == torch.float64
        single = energy.to(x.dtype)
        assert energies(single, x).dtype == torch.float32
        assert input_gradient(single, x).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
