"""Facts about the loss that teaches the gradient to undo a corruption."""

import pytest
import torch

from ebmlib.data.corruption import corrupt
from ebmlib.losses import denoising_score_matching, noise_contrastive, restoration
from ebmlib.networks import ConvEnergy, PatchEnergy
from ebmlib.objectives import (
    MEASURED_CALLS,
    ContrastAndRestoration,
    NoiseContrastive,
)


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


def test_the_objective_adds_the_two_losses():
    """One pass through the network gives the same as the two public losses."""
    x = torch.rand(4, 3, 32, 32, generator=generator())
    for energy in (PatchEnergy(width=8, blocks=1), ConvEnergy(width=8, depth=2)):
        both = ContrastAndRestoration(corrupt, restoration=0.3, stiffness=5.0)
        found = both(energy, x, generator(1)).loss
        y, masks = corrupt(x, generator(1))
        masks = masks if isinstance(energy, PatchEnergy) else None
        contrast = noise_contrastive(energy, x, y, masks).loss
        expected = contrast + 0.3 * restoration(energy, x, y, stiffness=5.0).loss
        assert torch.allclose(found, expected, rtol=1e-5)
        gradients = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
            for weights in [[p for p in energy.parameters() if p.ndim > 1]]
            for loss in (found, expected)
        ]
        assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_after_training_the_gradient_points_at_the_corruption():
    x = torch.full((16, 1, 16, 16), 0.5)
    x = x + 0.02 * torch.randn(x.shape, generator=generator())

    def blot(images, draws):
        corner = torch.randint(12, (len(images), 2), generator=draws)
        masks = torch.zeros(len(images), 16, 16, dtype=torch.bool)
        for mask, (i, j) in zip(masks, corner.tolist(), strict=True):
            mask[i : i + 4, j : j + 4] = True
        return torch.where(masks[:, None], 0.9, images), masks

    with torch.random.fork_rng():
        torch.manual_seed(0)
        energy = PatchEnergy(channels=1, width=8, blocks=1, normalize=False)
    objective, draws = ContrastAndRestoration(blot, restoration=1.0), generator(2)
    optimizer = torch.optim.Adam(energy.parameters(), 5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        result = objective(energy, x, draws)
        result.loss.backward()
        optimizer.step()
    assert result.health["force_corrupted"] < 0.6
    y, masks = blot(x, generator(9))
    y.requires_grad_()
    size = torch.autograd.grad(energy(y).sum(), y)[0].abs()[:, 0]
    assert size[masks].mean() > 5 * size[~masks].mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, x: restoration(e, x, x[:1]), "needs its corrupted copy"),
        (lambda e, x: restoration(e, x, x, stiffness=0), "stiffness must be positive"),
        (
            lambda e, x: ContrastAndRestoration(corrupt, restoration=-1),
            "restoration must be",
        ),
        (lambda e, x: NoiseContrastive(corrupt, clean=0), "clean must lie"),
        (
            lambda e, x: restoration(lambda z: e(z).detach(), x, x),
            "does not depend on x",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(ConvEnergy(width=4, depth=2), torch.rand(2, 3, 8, 8))


def test_fewer_clean_images_leave_the_corrupted_ones_as_they_were():
    x, energy = torch.rand(4, 3, 32, 32, generator=generator()), PatchEnergy(width=8)
    found = NoiseContrastive(corrupt, clean=0.5)(energy, x, generator(1))
    y, masks = corrupt(x, generator(1))
    expected = noise_contrastive(energy, x[:2], y, masks)
    assert found.health == expected.health
    force = ContrastAndRestoration(corrupt, restoration=1.0, clean=0.5)
    health = force(energy, x, generator(1)).health
    both = restoration(energy, x, y).health
    assert health["force_corrupted"] == pytest.approx(both["force_corrupted"], rel=1e-4)


def test_the_warm_up_is_plain_contrast_and_is_remembered():
    x, energy = torch.rand(4, 3, 32, 32, generator=generator()), PatchEnergy(width=8)
    plain = NoiseContrastive(corrupt)(energy, x, generator(1))
    objective = ContrastAndRestoration(corrupt, restoration=1.0, warmup=2)
    first = objective(energy, x, generator(1))
    assert torch.equal(first.loss, plain.loss)
    assert first.health["force_corrupted"] == 1.0  # a flat energy undoes nothing
    resumed = ContrastAndRestoration(corrupt, restoration=1.0, warmup=2)
    resumed.load_state_dict(objective.state_dict())
    for copy in (objective, resumed):
        assert copy(energy, x, generator(1)).loss == plain.loss  # the second call
        assert copy(energy, x, generator(1)).loss > plain.loss  # the third


class Spring:
    """A spring to gray with its logits: |y - 1/2|^2 times 3, so its slope is known."""

    def __init__(self, factor):
        self.factor = torch.tensor(float(factor), requires_grad=True)

    def __call__(self, y):
        return 3 * self.factor * (y - 0.5).square().flatten(1).sum(1)


def test_the_measured_constant_is_that_of_the_energy_itself():
    x = torch.full((4, 1, 16, 16), 0.5)
    plain = NoiseContrastive(corrupt)
    measured = ContrastAndRestoration(corrupt, restoration=2.0, stiffness=None)
    energy = Spring(1.0)  # dE/dy = 6 (y - x): a restoring force with constant 6
    for k in range(MEASURED_CALLS):
        loss = measured(energy, x, generator(k)).loss
        assert loss == plain(energy, x, generator(k)).loss
    assert measured.gradient_squares / measured.change_squares == pytest.approx(
        36, rel=1e-5
    )
    taught = measured(energy, x, generator(99))
    assert taught.health["force_corrupted"] == pytest.approx(0, abs=1e-9)
    # The constant stays where it was measured: a flatter energy is now pulled back.
    flat = measured(Spring(0.5), x, generator(99)).health["force_corrupted"]
    assert flat == pytest.approx(0.25, rel=1e-5)


def test_a_resumed_objective_goes_on_with_the_constant_it_measured():
    x = torch.full((4, 1, 16, 16), 0.5)
    first = ContrastAndRestoration(corrupt, restoration=1.0, stiffness=None, warmup=2)
    for k in range(2 + MEASURED_CALLS):
        first(Spring(1.0), x, generator(k))
    second = ContrastAndRestoration(corrupt, restoration=1.0, stiffness=None, warmup=2)
    second.load_state_dict(first.state_dict())
    losses = [one(Spring(0.8), x, generator(7)).loss for one in (first, second)]
    assert losses[0] == losses[1]
