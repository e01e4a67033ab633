"""Training goes on in another process, to the same bits, even after SIGKILL."""

import os
import random
import time

import pytest
from children import start
from resumable import KINDS, contents, run, same

from ebmlib.checkpoint import read_checkpoint

PARTS = {"model", "averaged", "optimizer", "generator", "random", "order", "log"}


def run_all(folder):
    for kind in KINDS:
        run(kind, folder / f"{kind}.safetensors")


def test_three_steps_and_three_in_a_new_process_are_six(tmp_path):
    for kind in KINDS:
        with pytest.raises(KeyboardInterrupt):
            run(kind, tmp_path / f"{kind}.safetensors", stop_at=3)
        run(kind, tmp_path / f"{kind}.whole.safetensors")
    process = start(run_all, tmp_path)
    process.join(timeout=100)
    assert process.exitcode == 0
    for kind in KINDS:
        resumed = contents(tmp_path / f"{kind}.safetensors")
        whole = contents(tmp_path / f"{kind}.whole.safetensors")
        names = set(whole[0])
        assert {name.split("/")[1] for name in names} >= PARTS
        if kind == "contrastive_divergence":
            assert {"/objective/buffer/pixels", "/objective/buffer/ages"} <= names
        assert same(resumed, whole), kind


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    path, options = tmp_path / "run.safetensors", {"steps": 40, "checkpoint_every": 1}
    chance, reached = random.Random(0), [0]
    for _ in range(2):
        process = start(run, "score_matching", path, **options)
        while process.is_alive() and step_of(path) <= reached[-1]:
            time.sleep(0.02)  # until this process has written something
        time.sleep(0.05 * chance.random())
        process.kill()
        process.join()
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
