"""A run that is stopped ends in the same bits as one that was not."""

import functools

import pytest
import torch
from resumable import KINDS, Dropping, box, run

from ebmlib.checkpoint import CheckpointError
from ebmlib.data.corruption import corrupt
from ebmlib.global_random import (
    global_random,
    private_global_random,
    seed_global_random,
)
from ebmlib.networks import PatchEnergy
from ebmlib.objectives import (
    ContrastAndRestoration,
    DenoisingScoreMatching,
    PersistentContrastiveDivergence,
)
from ebmlib.replay import ReplayBuffer, uniform_noise
from ebmlib.training import train


def test_the_log_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(KINDS[0], path, stop_at=5)  # goes back to the snapshot of step 3
    energy, log = run(KINDS[0], path)
    whole, full_log = run(KINDS[0])
    assert log.steps == full_log.steps and log.health == full_log.health
    for name, value in whole.state_dict().items():
        assert torch.equal(energy.state_dict()[name], value)


def test_dropout_depends_on_the_seed_of_the_run_alone():
    state = torch.get_rng_state()
    one, log = run("dropout", chance=1)
    after = torch.rand(3)
    other, again = run("dropout", chance=2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)  # the rest of the program goes on as ever
    assert log == again
    assert torch.equal(one.inner[2].weight, other.inner[2].weight)
    torch.set_rng_state(state)


def test_the_global_state_of_other_devices_is_not_seeded(monkeypatch):
    def never(*args):
        pytest.fail("every device was seeded")

    for name in ("manual_seed", "cuda.manual_seed", "cuda.manual_seed_all"):
        monkeypatch.setattr(f"torch.{name}", never)
    energy = Dropping()
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    train(energy, images, DenoisingScoreMatching([0.1]), steps=2, device="cpu")


@pytest.mark.parametrize(
    "name", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
)
def test_the_global_state_is_borrowed_and_given_back(name):
    device = torch.device(name)
    before = global_random(device)
    drawn = []
    for _ in range(2):
        with pytest.raises(KeyError), private_global_random(device):
            seed_global_random(device, 5)
            drawn.append(torch.rand(4, device=device))
            raise KeyError
        after = global_random(device)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[kind], before[kind]) for kind in before)
    generator = torch.Generator(device).manual_seed(5)
    assert torch.equal(*drawn)
    assert torch.equal(drawn[0], torch.rand(4, device=device, generator=generator))


# The life of a notebook: an objective in one cell, the training in the next.


@pytest.mark.parametrize("kind", ["contrast", "contrastive_divergence"])
def test_the_same_objective_is_used_again_after_a_stop_and_after_the_end(
    tmp_path, kind
):
    path, objective = tmp_path / "run.safetensors", objective_of(kind)
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def cell(objective, path, stop_at=None):
        def stop(step, info):
            if step == stop_at:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        energy = PatchEnergy(3, width=4)
        options = {"batch_size": 4, "checkpoint_every": 2, "device": "cpu"}
        options |= {"checkpoint": path, "callback": stop}
        return energy, train(energy, images, objective, steps=6, **options)

    with pytest.raises(KeyboardInterrupt):
        cell(objective, path, stop_at=3)
    energy, log = cell(objective, path)
    assert log.events == ["resumed at step 2"]
    again, second = cell(objective, path)
    assert second.events[-1] == "resumed at step 6"  # finished; nothing was computed
    whole, full = cell(objective_of(kind), None)
    assert log.health == second.health == full.health
    for name, value in whole.state_dict().items():
        assert torch.equal(energy.state_dict()[name], value)
        assert torch.equal(again.state_dict()[name], value)


def objective_of(kind, **options):
    if kind == "contrast":
        options = {"restoration": 0.3, "stiffness": None, "warmup": 2} | options
        return ContrastAndRestoration(**{"corrupt": box} | options)
    generator = torch.Generator().manual_seed(2)
    buffer = ReplayBuffer(
        12, uniform_noise((3, 16, 16)), generator=generator, **options
    )
    return PersistentContrastiveDivergence(buffer, steps=2, snr=0.5, noise=0.01)


@pytest.mark.parametrize(
    ("kind", "first", "second", "words"),
    [
        ("chains", {"fresh": 0.05}, {"fresh": 1.0}, "objective.buffer.fresh was 0.05"),
        (
            "contrast",
            {"corrupt": functools.partial(corrupt, second=0)},
            {"corrupt": functools.partial(corrupt, second=1)},
            r"objective.corrupt.keywords.second was 0, is 1\.",
        ),
        ("contrast", {"warmup": 2}, {"warmup": 3}, "objective.warmup was 2, is 3"),
    ],
)
def test_another_objective_is_refused_by_its_content(
    tmp_path, kind, first, second, words
):
    path = tmp_path / "run.safetensors"
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    options = {"steps": 2, "batch_size": 4, "device": "cpu", "checkpoint": path}
    train(PatchEnergy(3, width=4), images, objective_of(kind, **first), **options)
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match=words):
        train(PatchEnergy(3, width=4), images, objective_of(kind, **second), **options)
    assert path.read_bytes() == content
    train(PatchEnergy(3, width=4), images, objective_of(kind, **first), **options)
