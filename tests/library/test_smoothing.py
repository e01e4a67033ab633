"""Facts about Gaussian smoothing: SciPy's values, on any device, with gradients."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ebmlib.smoothing import gaussian_smooth


def noise(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("shape", [(33, 20), (3, 16, 16), (2, 3, 1, 50), (2, 5, 7)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.7, 9.0])  # 9 px: wider than the images
@pytest.mark.parametrize("truncate", [3.0, 4.0])
def test_it_equals_scipy_with_mirrored_borders(shape, sigma, truncate):
    x = noise(*shape)
    widths = (0.0,) * (len(shape) - 2) + (sigma, sigma)
    expected = gaussian_filter(x.numpy(), widths, mode="reflect", truncate=truncate)
    assert np.abs(gaussian_smooth(x, sigma, truncate).numpy() - expected).max() < 1e-5
    precise = gaussian_filter(
        x.double().numpy(), widths, mode="reflect", truncate=truncate
    )
    found = gaussian_smooth(x.double(), sigma, truncate)
    assert np.abs(found.numpy() - precise).max() < 1e-12


def test_constants_and_the_mean_are_kept():
    assert torch.allclose(gaussian_smooth(torch.ones(4, 9, 11), 2.0), torch.ones(1))
    x = noise(4, 9, 11)
    means = gaussian_smooth(x, 3.0).mean((1, 2))
    assert torch.allclose(means, x.mean((1, 2)), atol=1e-6)
    assert gaussian_smooth(x, 0) is x


def test_it_is_its_own_transpose_also_in_the_gradient():
    x, y = noise(8, 12).requires_grad_(), noise(8, 12).flip(0)
    (gradient,) = torch.autograd.grad((gaussian_smooth(x, 1.5) * y).sum(), x)
    assert torch.allclose(gradient, gaussian_smooth(y, 1.5), atol=1e-6)


def test_it_runs_where_its_input_lies_and_keeps_the_type():
    assert (
        gaussian_smooth(torch.rand(2, 8, 8, device="meta"), 1.0).device.type == "meta"
    )
    assert gaussian_smooth(noise(8, 8, dtype=torch.float64), 1.0).dtype == torch.float64


@pytest.mark.parametrize(
    ("x", "options", "match"),
    [
        (torch.rand(8), {"sigma": 1.0}, "floating point tensor"),
        (torch.ones(8, 8, dtype=torch.int64), {"sigma": 1.0}, "floating point tensor"),
        (torch.rand(8, 8), {"sigma": -1.0}, "sigma"),
        (torch.rand(8, 8), {"sigma": float("nan")}, "sigma"),
        (torch.rand(8, 8), {"sigma": 1.0, "truncate": 0}, "truncate"),
    ],
)
def test_wrong_arguments_are_refused(x, options, match):
    with pytest.raises(ValueError, match=match):
        gaussian_smooth(x, **options)
