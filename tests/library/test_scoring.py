"""Facts about scores and maps: closed forms, invariances, clear errors."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ebmlib.energy import input_gradient
from ebmlib.networks import ConvEnergy, PatchEnergy
from ebmlib.scoring import (
    MapStandardizer,
    energy_score,
    evaluate,
    gradient_map,
    image_score,
    patch_map,
    smooth,
    upsample_cells,
    weighted_map,
)


def quadratic(x):
    """E = |x|^2 / 2: the gradient is the image itself."""
    return x.square().sum((1, 2, 3)) / 2


@pytest.fixture
def images():
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_gradient_map_of_the_quadratic_energy_is_the_image(images):
    kwargs = {"smoothing": 0, "batch_size": 2}
    l2 = gradient_map(quadratic, images, norm="l2", **kwargs)
    assert torch.allclose(l2, images.square().sum(1).sqrt())
    assert torch.allclose(
        gradient_map(quadratic, images, norm="l1", **kwargs), images.sum(1)
    )
    assert torch.equal(
        gradient_map(quadratic, images, norm="max", **kwargs), images.amax(1)
    )


def test_energy_score_is_the_energy_in_any_batch_size(images):
    assert torch.allclose(energy_score(quadratic, images, 2), quadratic(images))


def test_gradient_map_is_where_a_local_energy_looks():
    """An energy that reads one pixel has a gradient at that pixel alone."""
    x = torch.rand(1, 1, 9, 9)
    found = gradient_map(lambda x: x[:, 0, 4, 2].square(), x, smoothing=0)
    assert found[0, 4, 2] == 2 * x[0, 0, 4, 2]
    assert torch.count_nonzero(found) == 1


def test_gradient_map_ignores_a_constant_in_the_energy(images):
    """E + const defines the same density, so it must localize alike."""
    base = gradient_map(quadratic, images)
    assert torch.equal(base, gradient_map(lambda x: quadratic(x) + 7.0, images))


def test_gradient_map_leaves_the_network_as_it_was(images):
    net = PatchEnergy(width=8, blocks=1).train()
    gradient_map(net, images)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_noise_copies_average_the_gradient(images):
    """For the quadratic energy the averaged gradient is x plus averaged noise."""
    found = gradient_map(
        quadratic,
        images,
        smoothing=0,
        norm="max",
        noise=0.1,
        copies=400,
        generator=torch.Generator().manual_seed(1),
    )
    exact = images.amax(1)
    assert (found - exact).abs().max() < 6 * 0.1 / 20


def test_signed_smoothing_cancels_opposite_gradients():
    checker = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    x = checker.expand(1, 1, 16, 16)
    assert gradient_map(quadratic, x, smoothing=2).min() > 0.99
    assert gradient_map(quadratic, x, smoothing=0, signed_smoothing=2).max() < 0.05


def test_smooth_agrees_with_scipy_and_keeps_the_mean():
    maps = torch.rand(3, 20, 30)
    expected = [
        gaussian_filter(m, 1.5, mode="reflect", truncate=3) for m in maps.numpy()
    ]
    assert np.allclose(smooth(maps, 1.5).numpy(), expected, atol=1e-6)
    assert torch.allclose(smooth(maps, 4).mean((1, 2)), maps.mean((1, 2)), atol=1e-5)
    assert smooth(maps, 0) is maps


@pytest.mark.parametrize("mode", ["position", "global"])
def test_standardized_training_maps_have_mean_0_and_variance_1(mode):
    maps = torch.randn(4000, 6, 6, generator=torch.Generator().manual_seed(2)) * 3 + 5
    z = MapStandardizer(mode, smoothing=0, floor=0).fit(maps)(maps)
    assert abs(z.mean()) < 1e-4
    assert abs(z.std() - 1) < 1e-3


def test_standardization_forgives_what_varies_in_training():
    """The same rise counts less where normal images vary more."""
    maps = torch.randn(200, 4, 8, generator=torch.Generator().manual_seed(3))
    maps[:, :, 4:] *= 10
    z = MapStandardizer("position", smoothing=0).fit(maps)
    rise = z(torch.full((1, 4, 8), 5.0))[0]
    assert rise[:, :4].mean() > 5 * rise[:, 4:].mean()


@pytest.mark.parametrize("mode", ["position", "global"])
def test_standardization_survives_maps_that_are_zero_everywhere(mode):
    # As those of an energy that holds all training images, which are equal.
    standardizer = MapStandardizer(mode).fit(torch.zeros(3, 16, 16))
    assert float(standardizer(torch.zeros(2, 16, 16)).abs().max()) == 0
    high = standardizer(torch.full((2, 16, 16), 1000.0))
    for kind in ("max", "top", "l2"):
        score = image_score(high, kind)
        assert score.isfinite().all() and float(score.min()) > 1e6


def test_standardization_survives_a_pixel_that_never_varied():
    maps = torch.rand(10, 4, 4)
    maps[:, 0, 0] = 1.0
    z = MapStandardizer("position", smoothing=0).fit(maps)
    assert torch.isfinite(z(torch.rand(1, 4, 4))).all()
    assert torch.isfinite(MapStandardizer().fit(torch.ones(3, 4, 4)).std_).all()


@pytest.mark.parametrize("floor", [0.5, 0.8])
def test_a_pixel_that_never_varied_is_judged_by_a_share_of_the_usual_spread(floor):
    maps = torch.rand(50, 8, 8, generator=torch.Generator().manual_seed(0))
    maps[:, 3, 5] = 0.5
    std = MapStandardizer(smoothing=0, floor=floor).fit(maps).std_
    assert std[3, 5].item() == pytest.approx(floor * std.median().item())


def test_image_scores_against_literal_definitions():
    maps = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(4))
    flat = maps.flatten(1).numpy()
    top = np.sort(flat, 1)[:, -5:].mean(1)
    assert np.allclose(image_score(maps, "max"), flat.max(1))
    assert np.allclose(image_score(maps, "top", share=0.05), top)
    assert np.allclose(image_score(maps, "l2"), np.sqrt((flat**2).mean(1)))
    assert np.allclose(image_score(maps, "mean"), flat.mean(1))
    assert torch.equal(image_score(maps, "top", share=1e-9), image_score(maps, "max"))


def test_image_scores_do_not_see_where_the_defect_is():
    """Every image score is unchanged when the pixels are permuted."""
    maps = torch.rand(2, 8, 8)
    shuffled = maps.flatten(1)[:, torch.randperm(64)].view(2, 8, 8)
    for kind in ("max", "top", "l2", "mean"):
        assert torch.allclose(image_score(maps, kind), image_score(shuffled, kind))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: gradient_map(quadratic, x, norm="l3"), "norm must be one of"),
        (lambda x: gradient_map(quadratic, x, noise=0.1), "needs a torch.Generator"),
        (lambda x: gradient_map(quadratic, x, copies=3), "set noise > 0"),
        (
            lambda x: gradient_map(quadratic, x, smoothing=-1),
            "sigma must be at least 0",
        ),
        (lambda x: MapStandardizer("pixel"), "mode must be one of"),
        (lambda x: MapStandardizer(floor=-1), "floor must be at least 0"),
        (lambda x: MapStandardizer()(x[:, 0]), r"call fit\(\) first"),
        (lambda x: MapStandardizer().fit(x[:1, 0]), "at least two maps"),
        (lambda x: MapStandardizer().fit(x[:, 0] / 0), "NaN or infinite"),
        (
            lambda x: MapStandardizer().fit(x[:, 0])(x[:, 0, :8]),
            "images of one size",
        ),
        (lambda x: image_score(x), r"shape \(N, H, W\)"),
        (lambda x: image_score(x[:, 0], "median"), "kind must be one of"),
        (lambda x: image_score(x[:, 0], "top", share=0), r"share must be in \(0, 1\]"),
    ],
)
def test_mistakes_get_a_clear_message(images, call, message):
    with pytest.raises(ValueError, match=message):
        call(images)


class OneHotPatches:
    """Patch energies that are 1 in a single cell of 4 x 4 pixels."""

    def energy_map(self, x):
        cells = torch.zeros(len(x), x.shape[2] // 4, x.shape[3] // 4)
        cells[:, 2, 5] = 1.0
        return cells


def test_patch_map_puts_each_patch_energy_in_its_place():
    maps = patch_map(
        OneHotPatches(), torch.rand(3, 3, 32, 32), smoothing=0, batch_size=2
    )
    assert maps.shape == (3, 32, 32)
    rows, columns = torch.nonzero(maps[0] == maps[0].max(), as_tuple=True)
    assert rows.float().mean() == 2 * 4 + 1.5  # the middle of the cell
    assert columns.float().mean() == 5 * 4 + 1.5


def test_weighted_map_is_the_geometric_mean_of_gradient_and_patches():
    net, x = PatchEnergy(width=8, blocks=1), torch.rand(3, 3, 32, 32)
    gradient, patches = gradient_map(net, x), patch_map(net, x)
    even = weighted_map(net, x, share=0.5)
    assert torch.allclose(even, (gradient * patches).sqrt())
    assert torch.allclose(weighted_map(net, x, share=1.0), gradient)
    assert torch.allclose(weighted_map(net, x, share=0.0), patches)
    assert torch.allclose(weighted_map(net, x) ** 4, gradient * patches**3, rtol=1e-3)
    with pytest.raises(ValueError, match="share must lie"):
        weighted_map(net, x, share=1.5)


@pytest.mark.parametrize("build", [ConvEnergy, PatchEnergy])
def test_one_pass_gives_energy_gradient_and_patches(build, images):
    net, calls = build(width=8), []
    net.register_forward_hook(lambda *_: calls.append(1))
    found = evaluate(net, images)
    assert len(calls) <= 1
    assert torch.allclose(found.energy, net(images), rtol=1e-5)
    assert torch.allclose(found.gradient, input_gradient(net, images), atol=1e-6)
    if build is PatchEnergy:
        assert torch.allclose(found.patches, net.energy_map(images), rtol=1e-5)
        assert found.stride == 4
    else:
        assert found.patches is None


@pytest.mark.parametrize("size", [(30, 41), (32, 32), (150, 97), (449, 70)])
def test_cells_lie_in_place_where_the_stride_does_not_divide_the_image(size):
    for stride in (4, 8):
        cells = torch.zeros(1, size[0] // stride, size[1] // stride)
        for row, column in ((0, 0), (cells.shape[1] - 1, cells.shape[2] // 2)):
            one = cells.clone()
            one[0, row, column] = 1.0
            maps = upsample_cells(one, size, stride)
            assert maps.shape == (1, *size)
            peak = torch.nonzero(maps[0] == maps.max()).float()
            if 0 < row < cells.shape[1] - 1:
                assert peak.mean(0)[0] == (row + 0.5) * stride - 0.5
            assert (peak[:, 0] - ((row + 0.5) * stride - 0.5)).abs().min() <= 0.5
            assert (peak[:, 1] - ((column + 0.5) * stride - 0.5)).abs().min() <= 0.5
    assert torch.equal(
        upsample_cells(torch.ones(2, 3, 5), (31, 47), 8), torch.ones(2, 31, 47)
    )


def test_maps_of_patches_need_patches(images):
    for build in (patch_map, weighted_map):
        with pytest.raises(TypeError, match="no energy_map"):
            build(ConvEnergy(width=4, depth=2), images)
