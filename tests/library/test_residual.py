"""Facts about energies learned on whitened features, and how they are learned."""

import json
import math

import pytest
import torch

from ebmlib.energy import build_energy, energy_spec, input_gradient
from ebmlib.features import CosineFeatures
from ebmlib.fields import GaussianField
from ebmlib.objectives import (
    DenoisingScoreMatching,
    PersistentContrastiveDivergence,
    ReferenceContrast,
)
from ebmlib.replay import ReplayBuffer, StandardNormal
from ebmlib.residual import LearnedField, ResidualEnergy
from ebmlib.training import train

SIZE = (32, 40)


def two_heaps(count, seed=0):
    """Points of two heaps in the plane, of standard deviation .3 at (-1, 0), (1, 0)."""
    generator = torch.Generator().manual_seed(seed)
    points = 0.3 * torch.randn(count, 2, generator=generator)
    side = torch.rand(count, generator=generator).round() * 2 - 1
    points[:, 0] += side
    return points


def true_energy(z):
    """-log p - log(2 pi) of these heaps."""
    centers = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    squares = (z[:, None] - centers).square().sum(2) / (2 * 0.3**2)
    return -(-squares).logsumexp(1) + math.log(2) + 2 * math.log(0.3)


def learned(objective, steps=600):
    energy = ResidualEnergy(2, width=32)
    train(
        energy,
        two_heaps(4000),
        objective,
        steps=steps,
        batch_size=256,
        learning_rate=5e-3,
        device="cpu",
        progress=False,
    )
    return energy.eval()


def test_training_starts_at_the_reference():
    energy, z = ResidualEnergy(5), torch.randn(7, 5)
    assert torch.equal(energy(z), z.square().sum(1) / 2)
    assert torch.allclose(input_gradient(energy, z), z)


def test_noise_contrast_learns_the_energy_and_its_constant():
    energy, z = learned(ReferenceContrast(), steps=1500), two_heaps(500, seed=1)
    with torch.no_grad():
        gap = energy(z) - true_energy(z)
    assert abs(float(gap.mean())) < 0.1  # log Z is known
    assert float(gap.std()) < 0.3


@pytest.mark.parametrize("kind", ["chains", "scores"])
def test_chains_and_scores_learn_the_valley_between_two_heaps(kind):
    objective = DenoisingScoreMatching((0.2,))
    if kind == "chains":
        generator = torch.Generator().manual_seed(0)
        buffer = ReplayBuffer(
            1024, StandardNormal((2,)), fresh=0.1, exact=True, generator=generator
        )
        objective = PersistentContrastiveDivergence(
            buffer, steps=10, step_size=0.05, bounds=None, penalty=0.01
        )
    energy = learned(objective)
    points = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.0, 1.5]])
    with torch.no_grad():
        middle, left, right, beyond = energy(points)
    assert middle > max(left, right) + 0.5  # under N(0, I) it would be the lowest
    assert beyond > right + 0.5


def test_exact_buffers_keep_values_that_are_no_images():
    generator = torch.Generator().manual_seed(0)
    buffer = ReplayBuffer(
        8, StandardNormal((3,)), fresh=0.0, exact=True, generator=generator
    )
    far = torch.full((8, 3), -7.25)
    buffer.write(torch.arange(8), far)
    drawn, _ = buffer.sample(4, generator)
    assert torch.equal(drawn, far[:4])
    other = ReplayBuffer(8, StandardNormal((3,)), exact=True, generator=generator)
    other.load_state_dict(buffer.state_dict())
    assert torch.equal(other.pixels, buffer.pixels)


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(count, 3, *SIZE, generator=generator)
    return (0.3 + 0.4 * pattern + 0.05 * noise).clamp(0, 1)


def field(width=8):
    features = CosineFeatures(3, 8, frequencies=2)
    gaussian = GaussianField(features, SIZE, True, 0.2, relative=True)
    residual = ResidualEnergy(features.count, width)
    torch.nn.init.normal_(
        residual.last, generator=torch.Generator().manual_seed(3)
    )  # as if trained
    return LearnedField(gaussian.fit(pictures(12)), residual, least=-100.0)


def test_a_learned_field_sums_energies_of_whitened_features():
    both, x = field(), pictures(2, seed=1)
    z = both.gaussian.whiten(both.features(x))
    expected = both.residual(z[:, :, 1, 2]) + 100
    assert torch.allclose(both.energy_map(x)[:, 1, 2], expected, rtol=1e-5)
    assert torch.allclose(sum(both.terms(x).values()), both.energy_map(x))
    assert torch.allclose(both(x), both.energy_map(x).sum((1, 2)))
    twin = build_energy(**json.loads(json.dumps(energy_spec(both))))
    twin.load_state_dict(both.state_dict())
    assert torch.equal(twin(x), both(x))


def test_its_gradient_reaches_the_pixels():
    both, x = field().double(), pictures(1, seed=2).double()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).double()
    slope = (input_gradient(both, x) * way).sum()
    difference = (both(x + 1e-6 * way) - both(x - 1e-6 * way)) / 2e-6
    assert float(slope.detach()) == pytest.approx(float(difference.detach()), rel=1e-4)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="whole number"):
        ResidualEnergy(0)
    with pytest.raises(ValueError, match="spread must be positive"):
        ReferenceContrast(0)
    gaussian = field().gaussian
    with pytest.raises(ValueError, match="takes 7"):
        LearnedField(gaussian, ResidualEnergy(7))
