"""Langevin chains against closed forms; options, vital signs and failures."""

import math

import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from small import assert_covariance, seeded

from ebmlib.energy import input_gradient
from ebmlib.langevin import ChainDiverged, langevin, langevin_step
from ebmlib.networks import ConvEnergy
from ebmlib.toy import GaussianEnergy

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
QUADRATIC = GaussianEnergy(MEAN, COVARIANCE)
IDENTITY = torch.eye(2, dtype=torch.float64)


def origin(n):
    return torch.zeros(n, 2, dtype=torch.float64)


def flat(x):
    return 0.0 * x.flatten(1).sum(1)


def network(channels=1):
    torch.manual_seed(0)
    return ConvEnergy(channels, width=4, depth=2)


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


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_a_chain_is_its_step_repeated(bounds):
    energy, x = network(), torch.rand(3, 1, 16, 16, generator=seeded())
    options = {"step_size": 0.5, "noise": 0.02, "bounds": bounds}
    chain = langevin(energy, x, steps=4, generator=seeded(1), **options)
    generator, same = seeded(1), seeded(1)
    for _ in range(4):
        gradient = input_gradient(energy, x)
        after = x - 0.5 * gradient + 0.02 * torch.randn(x.shape, generator=same)
        kept = x.clone(), gradient.clone()
        next_x = langevin_step(x, gradient, generator=generator, **options)
        assert torch.equal(next_x, after if bounds is None else after.clamp(*bounds))
        assert torch.equal(x, kept[0]) and torch.equal(gradient, kept[1])
        x = next_x
    assert torch.equal(chain.x, x)


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


def test_a_surrounding_autocast_changes_no_chain():
    x = torch.rand(2, 1, 16, 16, generator=seeded())
    options = {"steps": 3, "step_size": 1.0, "noise": 0.01}
    exact = langevin(network(), x, generator=seeded(), **options)
    with torch.autocast("cpu", torch.bfloat16):
        chain = langevin(network(), x, generator=seeded(), **options)
    assert torch.equal(chain.x, exact.x) and chain.health == exact.health


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_chains_run_where_autograd_is_off(around):
    energy, x = network(), torch.rand(2, 1, 16, 16, generator=seeded())
    options = {"steps": 3, "step_size": 1.0, "noise": 0.01}
    expected = langevin(energy, x, generator=seeded(), **options).x
    with around():
        chain = langevin(energy, x + 0, generator=seeded(), **options)
        assert torch.equal(chain.x, expected)


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


@pytest.mark.parametrize("bad", [1, 13, 25])
@pytest.mark.parametrize("what", ["energy", "gradient"])
@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_the_first_bad_step_is_named(bad, what, clip_grad):
    """The energy is spoiled at its call number `bad`, and correct afterwards."""

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return torch.where(torch.arange(gradient.numel()) == 3, math.inf, gradient)

    calls = []

    def energy(x):
        calls.append(len(calls))
        if calls[-1] == bad and what == "gradient":
            x = Poison.apply(x.flatten()).view(x.shape)
        value = x.square().sum(1)
        spoil = calls[-1] == bad and what == "energy"
        return value + math.nan * torch.arange(len(x)).eq(1) if spoil else value

    steps_seen = []
    with pytest.raises(ChainDiverged, match=f"step {bad}: the {what} has"):
        langevin(
            energy,
            torch.ones(4, 2),
            steps=26,
            step_size=0.1,
            clip_grad=clip_grad,
            generator=seeded(),
            callback=lambda t, info: steps_seen.append(t),
        )
    assert steps_seen == list(range(bad))


def test_positions_that_overflow_in_the_last_step_are_found():
    def slope(x):
        return 1e18 * x.sum(1)

    with pytest.raises(ChainDiverged, match="step 0: x has"):
        langevin(slope, torch.zeros(2, 2), steps=1, step_size=1e25, noise=0.0)


def test_a_finite_gradient_of_any_size_can_be_clipped():
    def steep(x):
        return 1e38 * x.sum(1)

    options = {"steps": 3, "step_size": 0.1, "noise": 0.0}
    chain = langevin(steep, torch.zeros(2, 2), clip_grad=1.0, **options)
    torch.testing.assert_close(chain.x, torch.full((2, 2), -0.3))
    assert chain.health.clip_fraction == 1


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
