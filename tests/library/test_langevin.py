"""Langevin chains against closed forms; the replay buffer; starting points."""

import math

import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from ebmlib.langevin import ChainDiverged, langevin
from ebmlib.networks import ConvEnergy
from ebmlib.replay import ReplayBuffer, corrupted_images, fitted_gaussian, uniform_noise
from ebmlib.toy import GaussianEnergy

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
QUADRATIC = GaussianEnergy(MEAN, COVARIANCE)
IDENTITY = torch.eye(2, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def origin(n):
    return torch.zeros(n, 2, dtype=torch.float64)


def flat(x):
    return 0.0 * x.flatten(1).sum(1)


def network(channels=1):
    torch.manual_seed(0)
    return ConvEnergy(channels, width=4, depth=2)


def assert_covariance(x, expected, n):
    # The standard error of a covariance of n Gaussian draws (Isserlis).
    d = expected.diagonal()
    error = ((d[:, None] * d + expected**2) / n).sqrt()
    assert ((torch.cov(x.T) - expected).abs() < 5 * error).all()


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("step_size", [0.05, 0.5])
def test_chain_on_a_quadratic_has_the_closed_form_mean_and_covariance(step_size):
    # x' = mean + M (x - mean) + noise with M = I - step A, A = covariance^-1, so
    # S = M S M^T + 2 step I: the known bias of an unadjusted chain.
    n, m = 20_000, IDENTITY - step_size * QUADRATIC.precision
    q = 2 * step_size * IDENTITY
    expected = torch.from_numpy(solve_discrete_lyapunov(m.numpy(), q.numpy()))
    chain = langevin(
        QUADRATIC, origin(n), steps=200, step_size=step_size, generator=seeded()
    )
    assert_covariance(chain.x, expected, n)
    error = (expected.diagonal() / n).sqrt()
    forgotten = torch.linalg.matrix_power(m, 200) @ (origin(1)[0] - MEAN)
    assert ((chain.x.mean(0) - MEAN - forgotten).abs() < 5 * error).all()
    if step_size == 0.5:  # the bias is real: the target is not what is sampled
        assert expected[0, 0] > 1.2 * COVARIANCE[0, 0]


def test_the_mean_on_the_way_is_the_closed_form_too():
    n, steps, step_size = 20_000, 7, 0.1
    m = IDENTITY - step_size * QUADRATIC.precision
    chain = langevin(
        QUADRATIC,
        origin(n),
        steps=steps,
        step_size=step_size,
        generator=seeded(),
        trajectory=True,
    )
    assert chain.trajectory.shape == (steps + 1, n, 2)
    for t in range(steps + 1):
        expected = MEAN - torch.linalg.matrix_power(m, t) @ MEAN
        x = chain.trajectory[t]
        assert ((x.mean(0) - expected).abs() <= 5 * x.std(0) / n**0.5).all()
    assert torch.equal(chain.trajectory[-1], chain.x)
    assert torch.equal(chain.trajectory[0], origin(n))


def test_cold_noise_samples_a_lower_temperature():
    # S = M S M^T + noise^2 I, that is noise^2 / (2 step) times the exact-noise S.
    n, step_size, noise = 20_000, 0.1, 0.1
    m = IDENTITY - step_size * QUADRATIC.precision
    q = noise**2 * IDENTITY
    expected = torch.from_numpy(solve_discrete_lyapunov(m.numpy(), q.numpy()))
    chain = langevin(
        QUADRATIC,
        origin(n),
        steps=150,
        step_size=step_size,
        noise=noise,
        generator=seeded(),
    )
    assert_covariance(chain.x, expected, n)


def test_without_noise_it_is_gradient_descent():
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    m = IDENTITY - 0.3 * QUADRATIC.precision
    expected = MEAN + (x - MEAN) @ torch.linalg.matrix_power(m, 9).T
    chain = langevin(QUADRATIC, x, steps=9, step_size=0.3, noise=0.0)
    torch.testing.assert_close(chain.x, expected)
    assert chain.health.drift_to_noise == math.inf
    assert chain.health.energy_end < chain.health.energy_start


# ------------------------------------------------------------------------ options


@pytest.mark.parametrize("noise", [None, 0.005])
def test_snr_sets_the_stated_ratio(noise):
    x = torch.rand(4, 1, 16, 16, generator=seeded())
    chain = langevin(
        network(), x, steps=1, snr=0.3, noise=noise, generator=seeded(), autocast=False
    )
    assert chain.health.drift_to_noise == pytest.approx(0.3, rel=1e-5)
    step_size, used = chain.health.step_size, chain.health.noise
    assert used == pytest.approx(noise or math.sqrt(2 * step_size))


def test_snr_keeps_the_step_fixed_after_the_start():
    steps_seen = set()
    langevin(
        QUADRATIC,
        origin(8),
        steps=5,
        snr=0.2,
        generator=seeded(),
        callback=lambda t, info: steps_seen.add(info["step_size"]),
    )
    assert len(steps_seen) == 1


def test_clipping_bounds_the_drift_and_is_reported():
    x = torch.tensor([[10.0, 0.0], [0.05, -10.0]])
    unit = GaussianEnergy(torch.zeros(2), torch.eye(2))
    chain = langevin(unit, x, steps=1, step_size=0.5, noise=0.0, clip_grad=0.1)
    expected = torch.tensor([[9.95, 0.0], [0.025, -9.95]])
    torch.testing.assert_close(chain.x, expected)
    assert chain.health.clip_fraction == 0.5


def test_bounds_hold_and_saturation_is_reported():
    def ramp(x):
        return -x.flatten(1).sum(1)

    chain = langevin(
        ramp,
        torch.full((2, 1, 4, 4), 0.5),
        steps=20,
        step_size=0.1,
        noise=0.01,
        bounds=(0.0, 1.0),
        generator=seeded(),
        trajectory=True,
    )
    assert chain.trajectory.min() >= 0 and chain.trajectory.max() <= 1
    assert chain.health.saturated == pytest.approx(1.0)


def test_spread_is_the_rms_difference_of_two_chains():
    x = torch.randn(6, 3, generator=seeded(), dtype=torch.float64)
    chain = langevin(flat, x, steps=1, step_size=1.0, noise=0.0)
    pairs = torch.pdist(chain.x).square().mean() / 3
    assert chain.health.spread == pytest.approx(pairs.sqrt().item(), rel=1e-5)
    one = langevin(flat, x[:1], steps=1, step_size=1.0, noise=0.0)
    assert one.health.spread == 0.0


def test_the_same_seed_gives_the_same_chain_and_the_input_is_untouched():
    x = torch.rand(2, 1, 16, 16, generator=seeded())
    before = x.clone()

    def run(seed):
        return langevin(network(), x, steps=3, step_size=0.1, generator=seeded(seed)).x

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(x, before)


def test_bfloat16_gradients_point_the_same_way():
    x = torch.rand(2, 1, 16, 16, generator=seeded())
    options = {"steps": 1, "step_size": 1.0, "noise": 0.0}
    exact = langevin(network(), x, **options).x - x
    coarse = langevin(network(), x, autocast=True, **options).x - x
    assert coarse.dtype == torch.float32
    assert torch.cosine_similarity(exact.flatten(), coarse.flatten(), dim=0) > 0.999


def test_the_callback_sees_each_step_before_it_is_taken():
    seen = []
    chain = langevin(
        QUADRATIC,
        origin(3),
        steps=4,
        step_size=0.1,
        generator=seeded(),
        trajectory=True,
        callback=lambda t, info: seen.append((t, info["x"], info["energy"])),
    )
    assert [t for t, _, _ in seen] == [0, 1, 2, 3]
    for t, x, value in seen:
        assert torch.equal(x, chain.trajectory[t])
        torch.testing.assert_close(value, QUADRATIC(x))


# ------------------------------------------------------------- modules and failure


@pytest.mark.parametrize("interruption", [None, KeyboardInterrupt, ValueError])
def test_a_module_is_put_back_as_it_was_even_when_interrupted(interruption):
    energy = network()
    energy.layers[0].bias.requires_grad_(False)
    energy.layers[1].eval()
    flags = [p.requires_grad for p in energy.parameters()]
    modes = [m.training for m in energy.modules()]

    def interrupt(t, info):
        assert not energy.training
        assert not any(p.requires_grad for p in energy.parameters())
        if t == 1 and interruption:
            raise interruption

    def run():
        x = torch.rand(2, 1, 16, 16, generator=seeded())
        langevin(
            energy, x, steps=3, step_size=0.1, generator=seeded(), callback=interrupt
        )

    if interruption:
        with pytest.raises(interruption):
            run()
    else:
        run()
    assert flags == [p.requires_grad for p in energy.parameters()]
    assert modes == [m.training for m in energy.modules()]
    assert all(p.grad is None for p in energy.parameters())
    assert torch.is_grad_enabled()


def test_a_chain_keeps_no_graph():
    x = torch.rand(2, 1, 16, 16, generator=seeded()).requires_grad_()
    chain = langevin(network(), x, steps=2, step_size=0.1, generator=seeded())
    assert not chain.x.requires_grad and x.grad is None


def test_a_diverging_chain_says_where_and_what_to_change():
    def quartic(x):
        return x.pow(4).sum(1)

    with pytest.raises(ChainDiverged, match=r"step \d+: .* Lower step_size"):
        langevin(quartic, torch.full((2, 2), 3.0), steps=50, step_size=1.0, noise=0.0)


def test_clipping_does_not_hide_an_infinite_gradient():
    def broken(x):
        return (x * math.inf).sum(1)

    with pytest.raises(ChainDiverged, match="step 0"):
        langevin(
            broken,
            torch.ones(2, 2),
            steps=2,
            step_size=0.1,
            noise=0.0,
            clip_grad=1.0,
            bounds=(0, 1),
        )


@pytest.mark.parametrize(
    "options,message",
    [
        ({}, "exactly one of step_size and snr"),
        ({"step_size": 0.1, "snr": 0.1}, "exactly one of step_size and snr"),
        ({"step_size": -0.1}, "step_size must be positive"),
        ({"step_size": math.nan}, "step_size must be positive"),
        ({"snr": 0.1, "noise": 0.0}, "snr needs noise"),
        ({"step_size": 0.1, "noise": -1.0}, "noise must be"),
        ({"step_size": 0.1, "clip_grad": 0.0}, "clip_grad must be positive"),
        ({"step_size": 0.1, "bounds": (1.0, 0.0)}, "low < high"),
        ({"step_size": 0.1, "steps": 0}, "steps must be"),
        ({"step_size": 0.1, "generator": None}, "give generator="),
    ],
)
def test_wrong_options_get_a_clear_message(options, message):
    options = {"steps": 2, "generator": seeded()} | options
    with pytest.raises(ValueError, match=message):
        langevin(QUADRATIC, origin(2), **options)


def test_a_flat_energy_cannot_set_the_step():
    with pytest.raises(ValueError, match="gradient is zero"):
        langevin(flat, origin(2), steps=2, snr=0.1, generator=seeded())


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
    with pytest.raises(ValueError, match="fresh in"):
        new_buffer(fresh=1.5)


# ---------------------------------------------------------------- starting points


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

    def whiten(x, generator):
        masks = torch.rand(len(x), 8, 8, generator=generator) < 0.5
        return torch.where(masks[:, None], 1.0, x), masks

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
