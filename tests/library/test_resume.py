"""A run that is stopped, or killed, ends in the same bits as one that was not."""

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

from ebmlib.checkpoint import read_checkpoint
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
KINDS = ("contrastive_divergence", "score_matching", "contrast")


def box(images, generator):
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, 4:12, 4:12] = True
    noise = torch.rand(images.shape, generator=generator)
    return torch.where(masks[:, None], noise, images), masks


def jitter(images, generator):
    shift = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (images + shift).clamp(0, 1)


def run(kind, path=None, steps=6, stop_at=None, checkpoint_every=3):
    """Train a small energy; interrupt it after step `stop_at`."""
    torch.manual_seed(0)  # initial weights only
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    if kind == "contrast":
        energy, objective = (
            PatchEnergy(3, width=4),
            ContrastAndRestoration(box, refine_steps=1, restoration=0.1, warmup=4),
        )
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
        for part in ("/model/", "/averaged/", "/optimizer/", "/generator", "/order"):
            assert any(name.startswith(part) for name in names), part
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


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    path, options = tmp_path / "run.safetensors", {"steps": 60, "checkpoint_every": 1}
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
