"""Facts about the loss that teaches the gradient to undo a corruption."""

import pytest
import torch

from ebmlib.losses import denoising_score_matching, restoration, restoration_error
from ebmlib.networks import ConvEnergy


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spring(center, stiffness):
    """E(y) = stiffness |y - center|^2 / 2, the exact answer for one clean image."""
    return lambda y: stiffness / 2 * (y - center).square().flatten(1).sum(1)


def test_a_spring_to_the_clean_image_is_the_minimum():
    x = torch.rand(1, 3, 8, 8, generator=generator()).expand(4, -1, -1, -1)
    y = (x + 0.3 * torch.rand(4, 3, 8, 8, generator=generator(1))).clamp(0, 1)
    assert restoration(spring(x[:1], 7.0), x, y, stiffness=7.0).loss < 1e-10
    twice = restoration(spring(x[:1], 14.0), x, y, stiffness=7.0).loss.item()
    assert twice == pytest.approx(1.0, abs=1e-5)


def test_a_flat_energy_scores_one_on_corrupted_and_zero_on_clean_images():
    x, y = torch.rand(2, 3, 3, 8, 8, generator=generator())
    health = restoration(lambda z: 0 * z.sum((1, 2, 3)), x, y).health
    assert health == {"force_corrupted": 1.0, "force_normal": 0.0}


def test_a_step_of_one_over_kappa_leads_to_the_mean_of_the_possible_originals():
    """Two originals, one corrupted image: the best force points to their mean."""
    originals = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    y = torch.full((2, 1, 4, 4), 0.9)
    aim = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([aim], 0.05)

    def constant_force(z):  # slope 10 (0.9 - aim), whatever z: one free force
        return (10 * (0.9 - aim) * z).sum((1, 2, 3))

    for _ in range(200):
        optimizer.zero_grad()
        # Equal weights need equal sizes of the two corruptions: compare squared errors.
        slope = torch.autograd.grad(
            constant_force(y.requires_grad_()).sum(), y, create_graph=True
        )[0]
        (slope - 10 * (y - originals)).square().sum().backward()
        optimizer.step()
    step = y[:1] - (1 / 10) * 10 * (0.9 - aim)
    assert torch.allclose(step, originals.mean(0, keepdim=True), atol=1e-3)


def test_for_gaussian_noise_it_is_denoising_score_matching():
    """With kappa = 1/sigma^2: |dE - kappa s e|^2 = |s dE - e|^2 / s^2."""
    sigma, x = 0.1, torch.rand(6, 1, 8, 8, generator=generator())
    energy = ConvEnergy(channels=1, width=4, depth=2)
    draws = generator(3)
    score_matching = denoising_score_matching(
        energy, x, sigmas=[sigma], generator=generator(3)
    ).loss
    torch.randint(1, (6,), generator=draws)
    noise = torch.randn(x.shape, generator=draws)
    y = (x + sigma * noise).detach().requires_grad_()
    slope = torch.autograd.grad(energy(y).sum(), y)[0]
    force = (slope - noise / sigma).square().flatten(1).sum(1).mean()
    assert torch.allclose(score_matching, force * sigma**2, rtol=1e-5)


def test_its_gradient_is_that_of_finite_differences():
    """With respect to the weights, through the gradient with respect to the input."""
    energy = ConvEnergy(channels=1, width=4, depth=2).double()
    x, y = torch.rand(2, 3, 1, 8, 8, generator=generator(), dtype=torch.float64)
    weight = energy.layers[0].weight
    restoration(energy, x, y).loss.backward()
    for place in [(0, 0, 0, 0), (2, 0, 3, 1)]:
        step = torch.zeros_like(weight)
        step[place] = 1e-5
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step
            losses.append(restoration(energy, x, y).loss.item())
            with torch.no_grad():
                weight -= sign * step
        slope = (losses[0] - losses[1]) / 2e-5
        assert weight.grad[place].item() == pytest.approx(slope, rel=1e-5)


def test_a_faint_corruption_does_not_count_in_full():
    """Below a mean square change of 4e-5 the error is no longer relative."""
    x, flat = torch.full((2, 1, 8, 8), 0.5), torch.zeros(4, 1, 8, 8)
    for change, expected in ((4e-5**0.5 * 2, 1.0), (4e-5**0.5 / 2, 0.25)):
        _, terms = restoration_error(flat, x, x + change, 10.0)
        assert terms["force_corrupted"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, x: restoration(e, x, x[:1]), "needs its corrupted copy"),
        (lambda e, x: restoration(e, x, x, stiffness=0), "stiffness must be positive"),
        (
            lambda e, x: restoration(lambda z: e(z).detach(), x, x),
            "detach",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(ConvEnergy(width=4, depth=2), torch.rand(2, 3, 8, 8))
