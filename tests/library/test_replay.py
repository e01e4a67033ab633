"""The replay buffer, and where chains start."""

import math

import pytest
import torch
from small import assert_covariance, seeded

from ebmlib.replay import (
    ReplayBuffer,
    UniformNoise,
    corrupted_images,
    fitted_gaussian,
    uniform_noise,
)

# ------------------------------------------------------------------------- buffer


def new_buffer(size=20, shape=(2, 3, 5), fresh=0.0, seed=0):
    start = uniform_noise(shape)
    return ReplayBuffer(size, start, fresh=fresh, generator=seeded(seed))


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 7)])
def test_quantization_is_within_one_level_and_stable(shape):
    buffer = new_buffer(shape=shape)
    x = torch.rand(6, *shape, generator=seeded(1))
    x[0], x[1] = 0.0, 1.0
    index = torch.tensor([3, 1, 4, 15, 9, 2])
    buffer.write(index, x)
    assert buffer.pixels.dtype == torch.uint8
    stored = buffer.pixels.clone()
    drawn, where = buffer.sample(20, seeded(2))
    assert drawn.min() >= 0 and drawn.max() < 1
    for row, i in enumerate(index):
        assert (drawn[where == i][0] - x[row]).abs().max() <= 1 / 256
    buffer.write(where, drawn)  # what was drawn goes back to the same level
    assert torch.equal(buffer.pixels, stored)


def test_dequantization_fills_the_level_uniformly():
    buffer = new_buffer(size=4, shape=(1, 100, 100))
    buffer.pixels.fill_(128)
    x, _ = buffer.sample(4, seeded())
    jitter = x * 256 - 128
    assert jitter.mean() == pytest.approx(0.5, abs=0.01)
    assert jitter.var() == pytest.approx(1 / 12, abs=0.002)


def test_chains_are_drawn_without_repetition_and_written_back_by_index():
    buffer = new_buffer()
    before = buffer.pixels.clone()
    x, index = buffer.sample(8, seeded(1))
    assert len(index.unique()) == 8
    buffer.write(index, torch.zeros_like(x))
    others = torch.ones(20, dtype=torch.bool)
    others[index] = False
    assert (buffer.pixels[index] == 0).all()
    assert torch.equal(buffer.pixels[others], before[others])


def test_ages_count_rounds_since_the_last_start():
    buffer = new_buffer()
    total = 0
    for seed in range(5):
        x, index = buffer.sample(8, seeded(seed))
        buffer.write(index, x)
        total += 8
    assert buffer.ages.sum() == total
    buffer.fresh = 1.0
    x, index = buffer.sample(8, seeded(9))
    assert (buffer.ages[index] == 0).all()
    buffer.write(index, x)
    assert (buffer.ages[index] == 1).all()


def test_fresh_chains_come_from_the_start_and_nowhere_else():
    buffer = new_buffer(size=400, shape=(1, 4, 4), fresh=0.25)
    buffer.pixels.zero_()
    buffer.start = lambda n, generator: torch.ones(n, 1, 4, 4)
    x, index = buffer.sample(400, seeded(3))
    started = x.flatten(1).min(1).values > 0.9
    # Binomial: 100 expected, standard deviation sqrt(400 * 3 / 16).
    assert abs(int(started.sum()) - 100) < 4 * (400 * 3 / 16) ** 0.5
    assert (x[~started] < 1 / 256).all()
    assert (buffer.pixels[index[started]] == 255).all()


def test_a_loaded_buffer_goes_on_exactly():
    def rounds(buffer, generator, n):
        for _ in range(n):
            x, index = buffer.sample(8, generator)
            buffer.write(index, (0.9 * x + 0.02).clamp(0, 1))

    straight, generator = new_buffer(fresh=0.3), seeded(7)
    rounds(straight, generator, 3)
    saved, rng = straight.state_dict(), generator.get_state()
    rounds(straight, generator, 3)

    resumed, other = new_buffer(fresh=0.3, seed=99), seeded()
    resumed.load_state_dict(saved)
    other.set_state(rng)
    rounds(resumed, other, 3)
    assert torch.equal(resumed.pixels, straight.pixels)
    assert torch.equal(resumed.ages, straight.ages)
    assert all(isinstance(value, torch.Tensor) for value in saved.values())


def test_buffer_mistakes_get_a_clear_message():
    buffer = new_buffer()
    with pytest.raises(ValueError, match="n must be between 1 and the size 20"):
        buffer.sample(21, seeded())
    with pytest.raises(ValueError, match=r"bounds=\(0, 1\)"):
        buffer.write(torch.tensor([0]), torch.full((1, 2, 3, 5), 1.1))
    with pytest.raises(ValueError, match=r"bounds=\(0, 1\)"):
        buffer.write(torch.tensor([0]), torch.full((1, 2, 3, 5), math.nan))
    with pytest.raises(ValueError, match="expected index"):
        buffer.write(torch.tensor([0, 1]), torch.zeros(1, 2, 3, 5))
    with pytest.raises(ValueError, match="expected index"):
        buffer.write(torch.tensor([0]), torch.zeros(1, 2, 3, 6))
    with pytest.raises(ValueError, match="lacks 'ages'"):
        buffer.load_state_dict({"pixels": buffer.pixels})
    with pytest.raises(ValueError, match="saved size"):
        buffer.load_state_dict(new_buffer(size=21).state_dict())
    with pytest.raises(ValueError, match="fresh must lie in"):
        new_buffer(fresh=1.5)
    for size in (0, 2.5):
        with pytest.raises(ValueError, match="size must be a whole number"):
            new_buffer(size=size)
    with pytest.raises(ValueError, match="give generator="):
        ReplayBuffer(4, uniform_noise((1, 4, 4)), generator=7)
    with pytest.raises(ValueError, match="asked for in all, got 4"):
        ReplayBuffer(3, lambda n, g: torch.rand(n + 1, 2), generator=seeded())


def test_a_state_is_a_copy_both_ways_and_a_wrong_one_changes_nothing():
    buffer, other = new_buffer(), new_buffer(seed=1)
    state = buffer.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    other.load_state_dict(state)
    for mine in (buffer, other):  # neither writes to the state
        mine.write(torch.arange(20), torch.zeros(20, 2, 3, 5))
    assert all(torch.equal(state[name], before[name]) for name in state)
    with pytest.raises(ValueError, match="ages must be"):
        other.load_state_dict({"pixels": state["pixels"], "ages": state["ages"][:3]})
    assert (other.pixels == 0).all()


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600])
def test_a_buffer_is_filled_in_parts_of_any_number(size):
    asked = []

    def start(n, generator):
        asked.append(n)
        return torch.rand(n, 2, generator=generator)

    assert len(ReplayBuffer(size, start, generator=seeded())) == sum(asked) == size
    assert max(asked) <= 256


def test_draws_do_not_depend_on_the_default_dtype():
    images = torch.rand(5, 2, 3, 5, generator=seeded())
    buffers = [
        ReplayBuffer(20, fitted_gaussian(images), fresh=0.5, generator=seeded())
        for _ in range(2)
    ]
    x, index = buffers[0].sample(8, seeded(1))
    try:
        torch.set_default_dtype(torch.float64)
        y, other = buffers[1].sample(8, seeded(1))
    finally:
        torch.set_default_dtype(torch.float32)
    assert y.dtype == x.dtype and torch.equal(x, y) and torch.equal(index, other)


def test_the_description_tells_settings_apart_and_leaves_chains_out():
    """What the fingerprint of a run compares; the chains are in its state."""
    images, others = torch.rand(2, 5, 3, 8, 8, generator=seeded())
    one = ReplayBuffer(6, corrupted_images(images, whiten), generator=seeded())
    two = ReplayBuffer(6, corrupted_images(others, whiten), fresh=1, generator=seeded())
    assert one.describe() == {"size": 6, "fresh": 0.05, "start": one.start}
    assert two.describe()["fresh"] == 1
    assert one.start.images is images and one.start.corrupt is whiten
    assert uniform_noise((3, 8, 8)) == UniformNoise((3, 8, 8)) != UniformNoise((8, 8))
    with pytest.raises(AttributeError):  # frozen
        one.start.images = others


# ---------------------------------------------------------------- starting points


def whiten(x, generator):
    masks = torch.rand(len(x), 8, 8, generator=generator) < 0.5
    return torch.where(masks[:, None], 1.0, x), masks


def test_fitted_gaussian_has_the_mean_and_covariance_of_the_images():
    mixing = torch.tensor([[0.05, 0.03, 0.0], [0.0, 0.04, 0.02], [0.0, 0.0, 0.06]])
    images = 0.5 + torch.randn(50, 3, generator=seeded()) @ mixing
    images = images.view(50, 3, 1, 1)
    drawn = fitted_gaussian(images)(20_000, seeded(1))
    assert drawn.shape == (20_000, 3, 1, 1)
    expected = torch.cov(images.view(50, 3).T)
    assert_covariance(drawn.view(-1, 3), expected, 20_000)
    error = 5 * (expected.diagonal() / 20_000).sqrt()
    assert ((drawn.mean(0) - images.mean(0)).flatten().abs() < error).all()


def test_starts_are_images_and_follow_the_generator():
    images = torch.rand(5, 3, 8, 8, generator=seeded())
    for start in (
        uniform_noise((3, 8, 8)),
        fitted_gaussian(images),
        corrupted_images(images, whiten),
    ):
        x = start(4, seeded(1))
        assert x.shape == (4, 3, 8, 8) and x.min() >= 0 and x.max() <= 1
        assert torch.equal(x, start(4, seeded(1)))
        assert not torch.equal(x, start(4, seeded(2)))
        assert len(ReplayBuffer(6, start, generator=seeded())) == 6
    with pytest.raises(ValueError, match="at least 2 images"):
        fitted_gaussian(images[:1])
    with pytest.raises(ValueError, match="at least one image"):
        corrupted_images(images[:0], whiten)
