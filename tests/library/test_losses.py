"""Facts about the losses: closed-form gradients and minima, and known answers."""

import math

import pytest
import torch
from torch import nn

from ebmlib.losses import (
    contrastive_divergence,
    denoising_score_matching,
    image_cross_entropy,
    mask_cover,
    noise_contrastive,
    patch_cross_entropy,
    read_figures,
    refine_negatives,
    restoration,
)
from ebmlib.networks import PatchEnergy
from ebmlib.objectives import DenoisingScoreMatching
from ebmlib.toy import GaussianMixtureEnergy
from ebmlib.training import train

torch.set_num_threads(1)  # small tensors: more threads only wait for each other


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Quadratic(nn.Module):
    """E(x) = k |x - m|^2 / 2 + c with k = exp(log_k)."""

    def __init__(self, k=1.0, d=1, mean=0.0, free_constant=False):
        super().__init__()
        self.log_k = nn.Parameter(torch.tensor(math.log(k)))
        self.mean = nn.Parameter(torch.full((d,), mean))
        self.constant = nn.Parameter(torch.zeros(()), requires_grad=free_constant)

    @property
    def k(self):
        return self.log_k.exp()

    def forward(self, x):
        square = (x.flatten(1) - self.mean).square().sum(1)
        return 0.5 * self.k * square + self.constant


class MLP(nn.Module):
    def __init__(self, d=2, width=64):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Linear(d, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, 1),
            )

    def forward(self, x):
        return self.layers(x).squeeze(1)


def patch_energy():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PatchEnergy(3, width=8)


def gray_box(images, generator):
    """Rows and columns 8..19 become noise."""
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, 8:20, 8:20] = True
    noise = torch.rand(images.shape, generator=generator)
    return torch.where(masks[:, None], noise, images), masks


# contrastive divergence


def test_the_gradient_of_contrastive_divergence_is_the_closed_form():
    x, negatives = torch.randn(50, 1, generator=seeded()), torch.full((7, 1), 2.0)
    energy = Quadratic(k=1.0)
    contrastive_divergence(energy, x, negatives, penalty=0.0).loss.backward()
    # dL/dk = (mean x+^2 - mean x-^2) / 2, and k = exp(log_k) = 1.
    expected = (x.square().mean() - negatives.square().mean()) / 2
    torch.testing.assert_close(energy.log_k.grad, expected)


def test_the_penalty_adds_the_mean_squares_and_nothing_else():
    x, negatives = torch.randn(5, 2), torch.randn(9, 2)
    energy = Quadratic(d=2)
    plain = contrastive_divergence(energy, x, negatives, penalty=0.0).loss
    result = contrastive_divergence(energy, x, negatives, penalty=0.3)
    squares = energy(x).square().mean() + energy(negatives).square().mean()
    torch.testing.assert_close(result.loss, plain + 0.3 * squares)
    assert result.health["gap"] == pytest.approx(plain.item())
    assert all(type(value) is float for value in result.health.values())


def test_a_step_lowers_the_energy_of_data_and_raises_that_of_samples():
    energy, x, negatives = MLP(), torch.zeros(8, 2), torch.full((8, 2), 0.5)
    before = (energy(x) - energy(negatives)).mean()
    contrastive_divergence(energy, x, negatives, penalty=0.0).loss.backward()
    with torch.no_grad():
        for p in energy.parameters():
            p -= 0.01 * p.grad
    assert (energy(x) - energy(negatives)).mean() < before


def test_no_gradient_flows_into_the_chain():
    start = torch.randn(4, 2, requires_grad=True)
    negatives = 2 * start
    contrastive_divergence(Quadratic(d=2), torch.zeros(4, 2), negatives).loss.backward()
    assert start.grad is None


def test_data_noise_has_its_standard_deviation():
    energy = Quadratic(k=2.0)  # the mean energy of N(0, s^2) is s^2
    x = torch.zeros(20_000, 1)
    result = contrastive_divergence(
        energy, x, torch.zeros(1, 1), data_noise=0.5, generator=seeded()
    )
    assert result.health["energy_data"] == pytest.approx(0.25, rel=0.03)


# denoising score matching


def test_the_minimum_of_score_matching_on_a_gaussian_is_known():
    # At E = |x|^2 / (2 (s^2 + sigma^2)) the loss is D s^2 / (s^2 + sigma^2), and
    # its gradient with respect to the parameters vanishes.
    s, sigma, d = 0.8, 0.5, 2
    x = s * torch.randn(40_000, d, generator=seeded())
    energy = Quadratic(k=1 / (s**2 + sigma**2), d=d)
    result = denoising_score_matching(energy, x, sigmas=[sigma], generator=seeded(1))
    result.loss.backward()
    expected = d * s**2 / (s**2 + sigma**2)
    assert result.loss.item() == pytest.approx(expected, rel=0.02)
    assert result.health["residual"] == pytest.approx(expected / d, rel=0.02)
    assert energy.log_k.grad.abs().item() < 0.02
    assert energy.mean.grad.abs().max().item() < 0.02


def test_a_flat_energy_has_residual_one():
    energy = Quadratic(k=1e-12, d=3)
    x = torch.randn(20_000, 3, generator=seeded())
    result = DenoisingScoreMatching([0.1, 1.0])(energy, x, seeded())
    assert result.health["residual"] == pytest.approx(1.0, rel=0.02)


def test_score_matching_learns_the_noisy_gaussian():
    s, sigma = 0.5, 0.5
    x = 1.0 + s * torch.randn(2000, 2, generator=seeded())
    energy = Quadratic(k=1.0, d=2)
    objective = DenoisingScoreMatching([sigma])
    train(energy, x, objective, steps=150, batch_size=256, learning_rate=0.1)
    assert energy.k.item() == pytest.approx(1 / (s**2 + sigma**2), rel=0.05)
    torch.testing.assert_close(energy.mean.detach(), x.mean(0), atol=0.05, rtol=0)


def test_a_learned_2d_energy_agrees_with_the_known_one():
    s, sigma = 0.5, 0.3
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
    data = GaussianMixtureEnergy(means, torch.full((3,), s), torch.ones(3) / 3)
    x = data.sample(4000, seeded())
    energy = MLP()
    train(
        energy,
        x,
        DenoisingScoreMatching([sigma]),
        steps=250,
        batch_size=256,
        learning_rate=2e-2,
        ema=0.95,
    )
    # What it learns is the density of the noisy data: the stds add in squares.
    wide = torch.full((3,), math.hypot(s, sigma))
    known = GaussianMixtureEnergy(means, wide, torch.ones(3) / 3)
    axis = torch.linspace(-2, 2, 25)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        pair = torch.stack([energy(grid), known(grid)])
    assert torch.corrcoef(pair)[0, 1].item() > 0.98


# noise contrast


def test_noise_contrast_learns_the_log_density_ratio():
    # log N(x; 1, 1) - log N(x; 0, 1) = x - 1/2
    x = 1.0 + torch.randn(40_000, 1, generator=seeded())
    negatives = torch.randn(40_000, 1, generator=seeded(1))
    line = nn.Linear(1, 1)

    def energy(points):
        return -line(points).squeeze(1)

    optimizer = torch.optim.LBFGS(line.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = noise_contrastive(energy, x, negatives).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    assert line.weight.item() == pytest.approx(1.0, abs=0.03)
    assert line.bias.item() == pytest.approx(-0.5, abs=0.03)


def test_noise_contrast_with_a_known_noise_learns_the_partition_function():
    s = 0.5
    x = s * torch.randn(40_000, 1, generator=seeded())
    negatives = torch.randn(40_000, 1, generator=seeded(1))

    def log_normal(points):
        return -0.5 * points.square().sum(1) - 0.5 * math.log(2 * math.pi)

    energy = Quadratic(k=1.0, free_constant=True)
    optimizer = torch.optim.LBFGS(energy.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = noise_contrastive(energy, x, negatives, log_noise=log_normal).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    assert energy.k.item() == pytest.approx(1 / s**2, rel=0.03)
    # E = -log p includes the constant log Z = log(s sqrt(2 pi)).
    log_partition = math.log(s * math.sqrt(2 * math.pi))
    assert energy.constant.item() == pytest.approx(log_partition, abs=0.03)


def test_the_loss_of_normal_patches_is_their_energy():
    energy, x = patch_energy(), torch.rand(4, 3, 32, 32, generator=seeded())
    negatives = x.clone()
    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    masks[:] = True  # no normal patch in the negatives
    result = noise_contrastive(energy, x, negatives, masks)
    expected = energy.energy_map(x).mean().item()
    assert result.health["loss_normal"] == pytest.approx(expected, rel=1e-6)


def test_patches_are_classified_as_a_slow_loop_does_it():
    energy, x = patch_energy(), torch.rand(3, 3, 32, 32, generator=seeded())
    negatives, masks = gray_box(x, seeded(1))
    masks[0, 8:20, 20:22] = True  # half a column of 4-px cells: 50 %
    min_cover, weight = 0.6, 0.3
    loss = noise_contrastive(
        energy, x, negatives, masks, min_cover=min_cover, weight=weight
    ).loss
    cell = 32 // energy.logits(x).shape[-1]
    normal = energy.energy_map(x).flatten().tolist()
    corrupted = []
    for i, logits in enumerate(energy.logits(negatives).tolist()):
        for r, row in enumerate(logits):
            for c, f in enumerate(row):
                block = masks[i, cell * r : cell * (r + 1), cell * c : cell * (c + 1)]
                cover = block.float().mean().item()
                if cover == 0:
                    normal.append(math.log1p(math.exp(f)))
                elif cover >= min_cover:
                    corrupted.append(math.log1p(math.exp(-f)))
    expected = (1 - weight) * sum(normal) / len(normal)
    expected += weight * sum(corrupted) / len(corrupted)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_mask_cover_is_the_covered_fraction_of_each_cell():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 0, :2] = True
    cover = mask_cover(masks, (2, 2))
    assert cover.tolist() == [[[2 / 16, 0.0], [0.0, 0.0]]]


def test_a_mask_of_too_small_cover_gives_a_finite_loss_without_corrupted_patches():
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[:, 5, 5] = True
    images = torch.rand(2, 3, 32, 32)
    result = noise_contrastive(patch_energy(), images, images, masks, min_cover=1.0)
    assert result.health["corrupted_patches"] == 0
    assert math.isfinite(result.loss.item())


def test_a_single_corrupted_patch_weighs_as_much_as_all_normal_ones():
    energy, x = patch_energy(), torch.rand(2, 3, 32, 32, generator=seeded())
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[1, 8:12, 20:24] = True  # one cell of 4 px
    result = noise_contrastive(energy, x, x, masks)
    assert result.health["corrupted_patches"] == 1
    expected = nn.functional.softplus(-energy.logits(x)[1, 2, 5]).item()
    assert result.health["loss_corrupted"] == pytest.approx(expected, rel=1e-5)


def test_refinement_moves_only_the_masked_pixels_and_downhill():
    energy = patch_energy()
    images = torch.rand(4, 3, 32, 32, generator=seeded())
    negatives, masks = gray_box(images, seeded(1))
    refined = refine_negatives(
        energy, negatives, masks, steps=5, snr=3.0, noise=0.001, generator=seeded()
    )
    inside = masks[:, None].expand_as(negatives)
    assert torch.equal(refined[~inside], negatives[~inside])
    assert not torch.equal(refined[inside], negatives[inside])
    assert energy(refined).sum() < energy(negatives).sum()
    assert all(p.grad is None for p in energy.parameters())
    assert refined.min() >= 0 and refined.max() <= 1


def test_the_formulas_of_the_contrast_are_its_loss():
    energy, x = patch_energy(), torch.rand(2, 3, 32, 32, generator=seeded())
    negatives, masks = gray_box(x, seeded(1))
    options = {"min_cover": 0.5, "weight": 0.2}
    logits = energy.logits(torch.cat([x, negatives]))
    loss, figures = patch_cross_entropy(logits, masks, **options)
    expected = noise_contrastive(energy, x, negatives, masks, **options)
    assert torch.equal(loss, expected.loss)
    assert read_figures(figures) == expected.health
    loss, figures = image_cross_entropy(energy(x), energy(negatives), weight=0.2)
    expected = noise_contrastive(energy, x, negatives, weight=0.2)
    assert torch.equal(loss, expected.loss)
    assert read_figures(figures).items() <= expected.health.items()


def test_an_extreme_logit_of_an_ignored_patch_changes_nothing():
    """An ignored patch, partly covered, has neither loss nor gradient."""
    logits = torch.zeros(2, 2, 2, requires_grad=True)
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :4, :4], masks[0, 4:, 4] = True, True  # one cell full, one at a quarter
    options = {"min_cover": 0.5}
    loss, figures = patch_cross_entropy(logits, masks, **options)
    extreme = logits.detach().clone()
    extreme[1, 1, 1] = float("inf")
    extreme.requires_grad_()
    same, _ = patch_cross_entropy(extreme, masks, **options)
    assert same == loss
    same.backward()
    # Six normal patches and a corrupted one, each with half the weight and slope 1/2.
    expected = torch.full((2, 2, 2), 0.5 * 0.5 / 6)
    expected[1, 0, 0], expected[1, 1, 1] = -0.5 * 0.5, 0.0
    torch.testing.assert_close(extreme.grad, expected)
    assert figures["corrupted_patches"] == 1


def test_figures_are_read_whatever_their_type():
    figures = {
        "count": torch.tensor(3),
        "single": torch.tensor(0.1, requires_grad=True),
        "double": torch.tensor(0.1, dtype=torch.float64),
        "any": torch.tensor(True),
    }
    assert read_figures(figures) == {
        "count": 3.0,
        "single": torch.tensor(0.1).item(),
        "double": 0.1,
        "any": 1.0,
    }


CALLS = {
    "contrastive divergence": lambda e, x, y, m: contrastive_divergence(
        e, x, y, data_noise=0.1, generator=seeded(3)
    ),
    "score matching": lambda e, x, y, m: denoising_score_matching(
        e, x, sigmas=[0.1, 0.2], generator=seeded(3)
    ),
    "images": lambda e, x, y, m: noise_contrastive(e, x, y),
    "patches": lambda e, x, y, m: noise_contrastive(e, x, y, m),
    "restoration": lambda e, x, y, m: restoration(e, x, y),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_loss_is_the_same_on_a_second_device(name, second_device):
    energy, x = patch_energy(), torch.rand(4, 3, 32, 32, generator=seeded())
    y, masks = gray_box(x, seeded(1))
    expected = CALLS[name](energy, x, y, masks)
    there = [second_device(thing) for thing in (energy, x, y, masks)]
    second_device.reads = 0
    found = CALLS[name](*there)
    assert found.loss.device == second_device.device
    # One read for the figures; `value_and_gradient` also checks its input.
    assert second_device.reads <= 2
    assert found.health == pytest.approx(expected.health, rel=1e-5)


# all


X = torch.rand(2, 3, 32, 32)
MASKS = torch.ones(2, 32, 32, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: contrastive_divergence(e, X.byte(), X), TypeError, "floating"),
        (lambda e: contrastive_divergence(e, X, X[:, :1]), ValueError, "negatives"),
        (lambda e: contrastive_divergence(e, X, X, penalty=-1), ValueError, "penalty"),
        (
            lambda e: contrastive_divergence(e, X, X, data_noise=0.1),
            ValueError,
            "generator",
        ),
        (
            lambda e: contrastive_divergence(lambda x: x.sum(), X, X),
            ValueError,
            r"\(2,\)",
        ),
        (
            lambda e: denoising_score_matching(e, X, sigmas=[], generator=seeded()),
            ValueError,
            "sigmas",
        ),
        (lambda e: DenoisingScoreMatching([0.1, -0.1]), ValueError, "sigmas"),
        (
            lambda e: denoising_score_matching(
                lambda x: x.detach().sum((1, 2, 3)),
                X,
                sigmas=[0.1],
                generator=seeded(),
            ),
            ValueError,
            "detach",
        ),
        (lambda e: noise_contrastive(e, X, X, MASKS.float()), TypeError, "bool"),
        (lambda e: noise_contrastive(e, X, X, MASKS[:1]), ValueError, "masks"),
        (lambda e: noise_contrastive(e, X, X, ~MASKS), ValueError, "corrupted"),
        (
            lambda e: noise_contrastive(e, X, X, MASKS, min_cover=0),
            ValueError,
            "min_cover",
        ),
        (lambda e: noise_contrastive(e, X, X, MASKS, weight=1), ValueError, "weight"),
        (
            lambda e: noise_contrastive(e, X, X, MASKS, log_noise=e),
            ValueError,
            "log_noise",
        ),
        (
            lambda e: noise_contrastive(lambda x: x.sum((1, 2, 3)), X, X, MASKS),
            TypeError,
            "logits",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(patch_energy())
