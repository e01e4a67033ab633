"""A run that is stopped, or killed, ends in the same bits as one that was not."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from ebmlib.checkpoint import CheckpointError, read_checkpoint
from ebmlib.data.corruption import corrupt
from ebmlib.global_random import (
    global_random,
    private_global_random,
    seed_global_random,
)
from ebmlib.networks import ConvEnergy, PatchEnergy
from ebmlib.objectives import (
    ContrastAndRestoration,
    DenoisingScoreMatching,
    PersistentContrastiveDivergence,
)
from ebmlib.replay import ReplayBuffer, uniform_noise
from ebmlib.training import train

torch.set_num_threads(1)  # also in the child processes: bits depend on the threads

HERE = Path(__file__).parent
KINDS = ("contrastive_divergence", "score_matching", "contrast", "dropout")


def box(images, generator):
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, 4:12, 4:12] = True
    noise = torch.rand(images.shape, generator=generator)
    return torch.where(masks[:, None], noise, images), masks


def jitter(images, generator):
    shift = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (images + shift).clamp(0, 1)


class Dropping(nn.Module):
    """An energy that draws from PyTorch's global random state while it is trained."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(768, 8),
            nn.RReLU(),
            nn.Dropout(0.5),
        )

    def forward(self, x):
        hidden = self.inner(x)
        return nn.functional.dropout(hidden, 0.2, self.training).square().sum(1)


def run(kind, path=None, steps=6, stop_at=None, checkpoint_every=3, chance=None):
    """Train a small energy; interrupt it after step `stop_at`."""
    torch.manual_seed(0)  # initial weights only
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    if kind == "contrast":
        energy, objective = (
            PatchEnergy(3, width=4),
            ContrastAndRestoration(box, refine_steps=1, restoration=0.1, warmup=4),
        )
    elif kind == "dropout":
        energy, objective = Dropping(), DenoisingScoreMatching([0.1, 0.3])
    elif kind == "score_matching":
        energy = ConvEnergy(3, width=4, depth=2)
        objective = DenoisingScoreMatching([0.1, 0.3])
    else:
        generator = torch.Generator().manual_seed(2)
        buffer = ReplayBuffer(12, uniform_noise((3, 16, 16)), generator=generator)
        energy = ConvEnergy(3, width=4, depth=2)
        objective = PersistentContrastiveDivergence(
            buffer, steps=2, snr=0.5, noise=0.01, data_noise=0.01
        )

    if chance is not None:
        torch.manual_seed(chance)  # of what is drawn in the rest of the program

    def stop(step, info):
        if step == stop_at:
            raise KeyboardInterrupt

    log = train(
        energy,
        images,
        objective,
        steps=steps,
        batch_size=4,
        ema=0.9,
        augment=jitter,
        checkpoint=path,
        checkpoint_every=checkpoint_every,
        device="cpu",
        callback=stop,
    )
    return energy, log


def child(code, **options):
    """Start a fresh interpreter with this file as a module."""
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", f"from test_resume import *\n{code}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        **options,
    )


def contents(path):
    """Everything in a checkpoint, without the list of events."""
    tensors, header = read_checkpoint(path, "ebmlib.training")
    header["state"]["log"].pop("events")
    return tensors, json.dumps(header, sort_keys=True)


def same(one, other):
    return (
        one[1] == other[1]
        and set(one[0]) == set(other[0])
        and all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    )


def test_three_steps_and_three_in_a_new_process_are_six(tmp_path):
    for kind in KINDS:
        with pytest.raises(KeyboardInterrupt):
            run(kind, tmp_path / f"{kind}.safetensors", stop_at=3)
        run(kind, tmp_path / f"{kind}.whole.safetensors")
    code = f"[run(kind, r'{tmp_path}/' + kind + '.safetensors') for kind in KINDS]"
    assert child(code).wait(timeout=100) == 0
    for kind in KINDS:
        resumed = contents(tmp_path / f"{kind}.safetensors")
        whole = contents(tmp_path / f"{kind}.whole.safetensors")
        names = set(whole[0])
        parts = {
            "model",
            "averaged",
            "optimizer",
            "generator",
            "random",
            "order",
            "log",
        }
        assert parts <= {name.split("/")[1] for name in names}
        if kind == "contrastive_divergence":
            assert {"/objective/buffer/pixels", "/objective/buffer/ages"} <= names
        assert same(resumed, whole), kind


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


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    path, options = tmp_path / "run.safetensors", {"steps": 40, "checkpoint_every": 1}
    code = f"run('score_matching', r'{path}', **{options})"
    chance, reached = random.Random(0), [0]
    for _ in range(2):
        process = child(code)
        while process.poll() is None and step_of(path) <= reached[-1]:
            time.sleep(0.02)  # until this process has written something
        time.sleep(0.05 * chance.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(step_of(path))  # reads all of it, and checks the checksum
    assert 0 < reached[1] < reached[2]
    run("score_matching", path, **options)
    whole = tmp_path / "whole.safetensors"
    run("score_matching", whole, **options)
    assert same(contents(path), contents(whole))


def step_of(path):
    if not path.exists():
        return 0
    return read_checkpoint(path, "ebmlib.training")[1]["state"]["step"]
