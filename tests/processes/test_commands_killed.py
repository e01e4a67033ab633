"""The real program, killed and stopped: no row lost or doubled, no half file."""

import os
import signal
import subprocess
import sys
import time

import pytest
from drawn_parts import QUICK, ebmlib, photographs, told

from ebmlib.prediction_table import read_rows

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")


def start(*words):
    """The program in a process of its own."""
    command = [sys.executable, "-m", "ebmlib", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert condition(), process.communicate()


def test_a_killed_prediction_goes_on_with_every_row_once(tmp_path):
    detector, out = tmp_path / "part.safetensors", tmp_path / "out"
    ebmlib("fit", photographs(tmp_path / "good", 40), "-o", detector, *QUICK)
    new = photographs(tmp_path / "new", 120, 100)
    (new / "200.png").write_bytes(b"no image")
    words = ["predict", detector, new, "--out", out, "--batch", 4, "--skip-errors"]
    table, process = out / "scores.csv", start(*words)
    wait_for(lambda: table.exists() and table.read_bytes().count(b"\n") > 9, process)
    process.kill()
    process.communicate()
    before = len(read_rows(table))
    assert 8 < before < 120
    found = told(*words, "--json")
    assert found["photographs"] == 120 and found["unreadable"] == 1
    names = sorted(row.path for row in read_rows(table))
    assert names == [str(new / f"{index}.png") for index in range(100, 220)]
    drawn = {path.stem for path in (out / "maps").glob("*.png.png")}
    assert (
        len(drawn) == len({path.stem for path in (out / "overlays").iterdir()}) == 119
    )


def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_ends_the_training(tmp_path):
    output, good = tmp_path / "part.safetensors", photographs(tmp_path / "good", 12)
    words = ["fit", good, "-o", output, "--size", 32, "--steps", 200]
    words += ["--recipe", "learned_features", "--features", "cosine"]
    unfinished = tmp_path / "part.safetensors.unfinished"
    process = start(*words)
    wait_for(unfinished.exists, process)  # written every 100 steps
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and not output.exists()
    assert f"the same command goes on from {unfinished}" in said
    assert f"going on from {unfinished}" in ebmlib(*words).output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", output.name]
