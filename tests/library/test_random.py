"""Draws: one generator, the same numbers as PyTorch's, nothing global."""

import math

import pytest
import torch
from small import seeded

from ebmlib import random
from ebmlib.random import (
    check_generator,
    choice,
    rand,
    randint,
    randn,
    randperm,
)

WEIGHTS = torch.tensor([1.0, 0.0, 3.0])
DRAWS = {
    "randn": lambda g: randn((3, 5), g),
    "rand": lambda g: rand([3, 5], g),
    "randint": lambda g: randint(7, (11,), g),
    "randperm": lambda g: randperm(9, g),
    "choice": lambda g: choice(WEIGHTS, 20, g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_gives_the_numbers_of_pytorch_and_nothing_global_changes(name):
    expected = {
        "randn": torch.randn(3, 5, generator=seeded()),
        "rand": torch.rand(3, 5, generator=seeded()),
        "randint": torch.randint(7, (11,), generator=seeded()),
        "randperm": torch.randperm(9, generator=seeded()),
        "choice": torch.multinomial(WEIGHTS, 20, True, generator=seeded()),
    }[name]
    before = torch.get_rng_state()
    assert torch.equal(DRAWS[name](seeded()), expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("draw", [randn, rand])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_is_that_of_like(draw, dtype):
    like = torch.zeros(2, dtype=dtype)
    drawn = draw((4,), seeded(), like)
    assert drawn.dtype == dtype and drawn.shape == (4,)
    assert not drawn.requires_grad


def test_choice_has_the_frequencies_of_the_weights():
    drawn = choice(WEIGHTS, 40_000, seeded())
    share = (drawn == 2).float().mean().item()
    assert share == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / 40_000))
    assert not (drawn == 1).any()


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("wrong", [None, 7, torch])
def test_what_is_no_generator_is_refused_with_the_cure(name, wrong):
    with pytest.raises(ValueError, match=r"give generator=torch.Generator\(\)"):
        DRAWS[name](wrong)


def test_a_generator_passes_its_check():
    generator = seeded()
    assert check_generator(generator) is generator


def test_seeded_modules_repeat_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    with random.seeded(3) as generator:
        first = torch.nn.Linear(4, 4).weight
        assert generator is torch.default_generator
    assert torch.equal(torch.get_rng_state(), state)
    with random.seeded(3):
        assert torch.equal(torch.nn.Linear(4, 4).weight, first)
    torch.manual_seed(3)
    assert torch.equal(torch.nn.Linear(4, 4).weight, first)
    torch.set_rng_state(state)


def test_no_generator_of_another_device_is_seeded(monkeypatch):
    def refuse(seed):
        raise AssertionError(f"seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    monkeypatch.setattr(torch, "manual_seed", refuse)
    with random.seeded(0):
        torch.nn.Linear(2, 2)
