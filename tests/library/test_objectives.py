"""Facts about the objectives: what they add to the losses, and their state."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from ebmlib.data.corruption import corrupt, damage
from ebmlib.losses import mask_cover, noise_contrastive, restoration
from ebmlib.networks import ConvEnergy, PatchEnergy
from ebmlib.objectives import (
    MEASURED_CALLS,
    ContrastAndRestoration,
    DenoisingScoreMatching,
    NoiseContrastive,
    PersistentContrastiveDivergence,
)
from ebmlib.replay import ReplayBuffer, uniform_noise
from ebmlib.training import train

torch.set_num_threads(1)  # small tensors: more threads only wait for each other


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, size=32):
    return torch.rand(n, 3, size, size, generator=seeded())


def patch_energy(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PatchEnergy(**{"width": 8, "blocks": 1} | options)


def gray_box(images, generator):
    """Rows and columns 8..19 become noise."""
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, 8:20, 8:20] = True
    noise = torch.rand(images.shape, generator=generator)
    return torch.where(masks[:, None], noise, images), masks


class Precision(nn.Module):
    """E(x) = k |x - 1/2|^2 / 2 with k = exp(log_k)."""

    def __init__(self, k):
        super().__init__()
        self.log_k = nn.Parameter(torch.tensor(float(k)).log())

    def forward(self, x):
        return self.log_k.exp() * (x - 0.5).square().flatten(1).sum(1) / 2


class Spring:
    """A spring to gray, |y - 1/2|^2 times 3: its stiffness is known."""

    def __init__(self, factor):
        self.factor = torch.tensor(float(factor), requires_grad=True)

    def __call__(self, y):
        return 3 * self.factor * (y - 0.5).square().flatten(1).sum(1)


GRAY = torch.full((4, 1, 16, 16), 0.5)


# persistent contrastive divergence


def test_persistent_chains_learn_the_precision_of_gaussian_pixels():
    """With a step h, chains of precision k have the variance 1 / (k (1 - k h / 2))."""
    x, h = 0.5 + 0.1 * torch.randn(512, 1, 2, 2, generator=seeded()), 2e-3
    buffer = ReplayBuffer(256, uniform_noise((1, 2, 2)), generator=seeded(1))
    energy = Precision(30.0)
    objective = PersistentContrastiveDivergence(
        buffer, steps=5, step_size=h, penalty=0.0
    )
    options = {"batch_size": 128, "learning_rate": 0.1, "device": "cpu"}
    train(energy, x, objective, steps=80, **options)
    precision = 1 / (x - 0.5).square().mean().item()
    expected = (1 - (1 - 2 * h * precision) ** 0.5) / h
    assert energy.log_k.exp().item() == pytest.approx(expected, rel=0.08)


def test_sampling_leaves_no_gradient_and_the_chains_go_back_to_the_buffer():
    buffer = ReplayBuffer(16, uniform_noise((3, 16, 16)), generator=seeded())
    before = {name: value.clone() for name, value in buffer.state_dict().items()}
    energy = patch_energy()
    objective = PersistentContrastiveDivergence(buffer, steps=2, snr=1.0, noise=0.01)
    result = objective(energy, images(8, 16), seeded())
    assert all(p.grad is None for p in energy.parameters())
    assert energy.training
    after = buffer.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    assert {"gap", "chain_clip_fraction", "buffer_age"} <= set(result.health)


# noise contrast


def test_noise_contrast_separates_corrupted_patches():
    x = 0.5 + 0.02 * torch.randn(32, 3, 32, 32, generator=seeded())
    energy = patch_energy(blocks=3)
    train(
        energy,
        x.clamp(0, 1),
        NoiseContrastive(gray_box),
        steps=30,
        batch_size=8,
        learning_rate=3e-3,
        device="cpu",
    )
    negatives, masks = gray_box(x[:8], seeded(5))
    inside = mask_cover(masks, energy.logits(negatives).shape[1:]) == 1
    e = energy.energy_map(negatives)
    assert e[inside].mean() > e[~inside].mean() + 1


def test_fewer_clean_images_leave_the_corrupted_ones_as_they_were():
    x, energy = images(), patch_energy()
    found = NoiseContrastive(corrupt, clean=0.5)(energy, x, seeded(1))
    y, masks = corrupt(x, seeded(1))
    expected = noise_contrastive(energy, x[:2], y, masks)
    assert found.health == expected.health
    force = ContrastAndRestoration(corrupt, clean=0.5)
    health = force(energy, x, seeded(1)).health
    both = restoration(energy, x, y).health
    assert health["force_corrupted"] == pytest.approx(both["force_corrupted"], rel=1e-4)


def test_refined_negatives_have_a_lower_energy():
    x, energy = images(), patch_energy()
    options = {"refine_snr": 3.0, "refine_noise": 0.001}
    means = [
        NoiseContrastive(gray_box, refine_steps=steps, **options)(
            lambda y: energy(y), x, seeded(1)
        ).health["energy_negatives"]
        for steps in (0, 5)
    ]
    assert means[1] < means[0]


# contrast and restoration


@pytest.mark.parametrize(
    "energy", [patch_energy(), ConvEnergy(width=8, depth=2)], ids=["patches", "images"]
)
def test_contrast_and_restoration_adds_the_two_losses(energy):
    """One pass through the network gives the same as the two public losses."""
    x = images()
    both = ContrastAndRestoration(corrupt, restoration=0.3, stiffness=5.0)
    found = both(energy, x, seeded(1))
    y, masks = corrupt(x, seeded(1))
    masks = masks if isinstance(energy, PatchEnergy) else None
    contrast = noise_contrastive(energy, x, y, masks)
    force = restoration(energy, x, y, stiffness=5.0)
    expected = contrast.loss + 0.3 * force.loss
    assert torch.allclose(found.loss, expected, rtol=1e-5)
    assert found.health == pytest.approx(contrast.health | force.health, rel=1e-4)
    weights = [p for p in energy.parameters() if p.ndim > 1]
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
        for loss in (found.loss, expected)
    ]
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_after_training_the_gradient_points_at_the_corruption():
    x = torch.full((8, 1, 16, 16), 0.5)
    x = x + 0.02 * torch.randn(x.shape, generator=seeded())

    def blot(images, draws):
        corner = torch.randint(12, (len(images), 2), generator=draws)
        masks = torch.zeros(len(images), 16, 16, dtype=torch.bool)
        for mask, (i, j) in zip(masks, corner.tolist(), strict=True):
            mask[i : i + 4, j : j + 4] = True
        return torch.where(masks[:, None], 0.9, images), masks

    energy = patch_energy(channels=1, normalize=False)
    objective, draws = ContrastAndRestoration(blot), seeded(2)
    optimizer = torch.optim.Adam(energy.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        result = objective(energy, x, draws)
        result.loss.backward()
        optimizer.step()
    assert result.health["force_corrupted"] < 0.6
    y, masks = blot(x, seeded(9))
    y.requires_grad_()
    size = torch.autograd.grad(energy(y).sum(), y)[0].abs()[:, 0]
    assert size[masks].mean() > 5 * size[~masks].mean()


def test_the_warm_up_is_plain_contrast_and_is_remembered():
    x, energy = images(), patch_energy()
    plain = NoiseContrastive(corrupt)(energy, x, seeded(1))
    objective = ContrastAndRestoration(corrupt, warmup=2)
    first = objective(energy, x, seeded(1))
    assert torch.equal(first.loss, plain.loss)
    assert first.health["force_corrupted"] == 1.0  # that of a gradient of 0
    resumed = ContrastAndRestoration(corrupt, warmup=2)
    resumed.load_state_dict(objective.state_dict())
    for one in (objective, resumed):
        assert one(energy, x, seeded(1)).loss == plain.loss  # the second call
        assert one(energy, x, seeded(1)).loss > plain.loss  # the third


def test_the_measured_stiffness_is_that_of_the_energy_itself():
    plain = NoiseContrastive(gray_box)
    measured = ContrastAndRestoration(gray_box, restoration=2.0, stiffness=None)
    energy = Spring(1.0)  # dE/dy = 6 (y - x): a restoring force with constant 6
    for k in range(MEASURED_CALLS):
        loss = measured(energy, GRAY, seeded(k)).loss
        assert loss.item() == pytest.approx(
            plain(energy, GRAY, seeded(k)).loss.item(), rel=1e-6
        )
    ratio = measured.gradient_squares / measured.change_squares
    assert ratio == pytest.approx(36, rel=1e-5)
    taught = measured(energy, GRAY, seeded(99))
    assert taught.health["force_corrupted"] == pytest.approx(0, abs=1e-9)
    # The stiffness stays what was measured: a flatter energy is now pulled back.
    flat = measured(Spring(0.5), GRAY, seeded(99)).health["force_corrupted"]
    assert flat == pytest.approx(0.25, rel=1e-5)


def test_a_resumed_objective_goes_on_with_the_stiffness_it_measured():
    first = ContrastAndRestoration(gray_box, stiffness=None, warmup=2)
    for k in range(2 + MEASURED_CALLS):
        first(Spring(1.0), GRAY, seeded(k))
    second = ContrastAndRestoration(gray_box, stiffness=None, warmup=2)
    second.load_state_dict(first.state_dict())
    losses = [one(Spring(0.8), GRAY, seeded(7)).loss for one in (first, second)]
    assert losses[0] == losses[1]


def test_calls_change_the_state_and_no_setting():
    objective = ContrastAndRestoration(gray_box, stiffness=None, warmup=1)
    fresh = ContrastAndRestoration(gray_box, stiffness=None, warmup=1)
    settings = [f.name for f in dataclasses.fields(objective) if f.init]
    before = {name: getattr(objective, name) for name in settings}
    for k in range(2 + MEASURED_CALLS):
        objective(Spring(1.0), GRAY, seeded(k))
    assert {name: getattr(objective, name) for name in settings} == before
    assert objective.calls == 2 + MEASURED_CALLS and fresh.calls == 0
    assert objective == fresh and repr(objective) == repr(fresh)


# all


def test_objectives_draw_only_from_their_generator():
    x = images(8)
    buffer = ReplayBuffer(16, uniform_noise((3, 32, 32)), generator=seeded())
    chains = PersistentContrastiveDivergence(
        buffer, steps=2, snr=1.0, noise=0.01, data_noise=0.01
    )
    objectives = (
        DenoisingScoreMatching([0.1, 0.2]),
        NoiseContrastive(damage, refine_steps=2),
        ContrastAndRestoration(damage),
        chains,
    )
    for objective in objectives:
        state = torch.get_rng_state()
        energy, memory = patch_energy(), None
        if hasattr(objective, "state_dict"):
            memory = copy.deepcopy(objective.state_dict())
        first = objective(energy, x, seeded(3)).loss
        if memory is not None:
            objective.load_state_dict(memory)
        second = objective(energy, x, seeded(3)).loss
        assert torch.equal(first, second)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "objective",
    [
        DenoisingScoreMatching([0.1, 0.2]),
        NoiseContrastive(damage),
        ContrastAndRestoration(damage, clean=0.5),
        ContrastAndRestoration(damage, stiffness=None, warmup=1),
    ],
    ids=["score matching", "contrast", "restoration", "warm-up"],
)
@pytest.mark.parametrize("kind", [patch_energy, lambda: ConvEnergy(width=8, depth=2)])
def test_an_objective_is_the_same_on_a_second_device(objective, kind, second_device):
    energy, x = kind(), images()
    expected, again = (copy.deepcopy(objective) for _ in range(2))
    expected = expected(energy, x, seeded(3))
    there, x = second_device(energy), second_device(x)
    second_device.reads = 0
    found = again(there, x, seeded(3))
    # The figures, the input of `value_and_gradient`, and the masks of the corruption,
    # once for each round of redraws.
    assert second_device.reads <= 6
    assert found.health == pytest.approx(expected.health, rel=1e-4, abs=1e-6)
    found.loss.backward()
    assert all(p.grad is not None for p in there.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean": 0}, "clean must lie"),
        ({"restoration": 0}, "restoration must be positive"),
        ({"restoration": float("inf")}, "restoration must be positive"),
        ({"stiffness": -1.0}, "stiffness must be positive"),
        ({"warmup": -3}, "warmup must be"),
    ],
)
def test_mistakes_are_named_by_the_constructor(options, message):
    with pytest.raises(ValueError, match=message):
        ContrastAndRestoration(corrupt, **options)
