"""Facts about the recipes: what their settings mean in pixels and in noise."""

import pytest
import torch

from ebmlib.energy import input_gradient
from ebmlib.recipes import RECIPES


def make(method, size=32):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, size, size, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RECIPES[method](images, True, generator, 10), generator


def test_the_first_drift_of_the_chains_is_a_twenty_fifth_of_their_noise():
    recipe, generator = make("contrastive_divergence")
    chains = recipe.objective
    gradient = input_gradient(recipe.energy, chains.buffer.start(64, generator))
    drift = chains.step_size * gradient.square().mean().sqrt().item()
    assert drift / chains.noise == pytest.approx(1 / 25, rel=0.2)


def test_maps_of_the_contrast_are_smoothed_by_two_pixels_of_128():
    assert make("contrast")[0].smoothing * 128 == 2
