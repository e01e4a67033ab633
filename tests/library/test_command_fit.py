"""`ebmlib fit`: one file, what was found in words, and what will hurt."""

import shutil

import numpy as np
import pytest
from drawn_parts import QUICK, ebmlib, part, photographs, told
from PIL import Image

from ebmlib.detector import EnergyDetector
from ebmlib.runlog import TrainingLog


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("parts") / "good", 40)


def test_a_folder_becomes_a_file_and_a_few_sentences(good, tmp_path):
    output = tmp_path / "part.safetensors"
    said = ebmlib("fit", good, "-o", output, *QUICK).output
    for word in ("Layout.", "Resolution.", "Threshold.", "It can not see"):
        assert word in said
    assert "48 x 48 resized to 32 x 32 px" in said
    assert "from 19 photographs held out. At most 5 %" in said
    assert "between 0.27 % and 15 % of them" in said
    assert "warning" not in said
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert EnergyDetector.load(output).image_size == 32


def test_json_holds_the_numbers(good, tmp_path):
    output = tmp_path / "part.safetensors"
    words = ["fit", good, "-o", output, *QUICK, "--false-alarms", "0.01", "--json"]
    found = told(*words)
    assert found["photographs"] == 40 and found["held_out"] == 20
    assert found["needed"] == 99 and found["promised"] is False
    assert found["layout"].startswith("still") and found["gray"] is True
    assert found["pixels_in_one"] == 1.5


def test_a_promise_that_cannot_be_kept_is_said(good, tmp_path):
    words = ["fit", good, "-o", tmp_path / "p.safetensors", *QUICK]
    said = ebmlib(*words, "--false-alarms", "0.01").output
    assert "A false-alarm rate of 1 % takes 99, so it is NOT promised" in said


def test_what_will_hurt_is_warned_of(good, tmp_path):
    few = photographs(tmp_path / "few", 8)
    shutil.copy(few / "003.png", few / "copy.png")
    Image.fromarray(part(60, side=64)).save(few / "large.png")
    photographs(few / "more", 1)
    said = ebmlib("fit", few, "-o", tmp_path / "p.safetensors", *QUICK).output
    for text in (
        "warning: 10 photographs are few",
        "warning: 003.png and copy.png hold the same pixels",
        "2 sizes (9 of 48 x 48, 1 of 64 x 64 px",
        "warning: 1 images in subfolders",
    ):
        assert text in said
    assert said.count("NOT promised") == 1 and "held-out normal images" not in said


def test_twelve_bits_are_warned_of_once(tmp_path):
    for index in range(8):
        path = photographs(tmp_path / "deep", 1, index) / f"{index:03}.png"
        Image.fromarray(part(index).astype(np.uint16) * 16).save(path)
    words = ["fit", tmp_path / "deep", "-o", tmp_path / "p.safetensors", *QUICK]
    said = ebmlib(*words).output
    assert said.count("give --bits 12") == 1 and "Pass bits" not in said
    assert "bits 12" not in ebmlib(*words, "--bits", "12").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "part.pt"], "part.pt: the name must end in .safetensors"),
        (["-o", "no/part.safetensors"], "a file name in a folder that exists"),
        (["--size", "32.5"], "such as 256x640; got '32.5'"),
        (["--size", "0"], "positive whole number of pixels"),
        (["--recipe", "best"], "recipe must be one of"),
        (["--recipe", "fields", "--steps", "5"], "has no --steps; leave it out"),
        (["--recipe", "experts"], "the recipe 'experts' has no --features; leave it"),
        (["--false-alarms", "2"], "strictly between 0 and 1"),
        (["--bits", "7"], "from 8 to 16"),
        (["--seed", "-1"], "seed must be a whole number"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(words, said, good, tmp_path):
    where = ["-o", tmp_path / "part.safetensors"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = ebmlib("fit", good, *where, *QUICK, *words, code=2)
    assert said in done.output and "learning" not in done.output
    assert [*tmp_path.iterdir()] == []


def test_a_number_of_steps_is_one_at_least(good, tmp_path):
    words = ["fit", good, "-o", tmp_path / "p.safetensors", "--recipe", "experts"]
    said = ebmlib(*words, "--steps", "0", code=2).output
    assert "steps must be a whole number >= 1" in said


def test_a_folder_without_photographs_is_named(tmp_path):
    where = ["-o", tmp_path / "part.safetensors"]
    assert "no such file or folder" in ebmlib("fit", "none", *where, code=2).output
    assert "no images here" in ebmlib("fit", tmp_path, *where, code=2).output


def test_a_broken_photograph_is_named_or_left_out(tmp_path):
    folder = photographs(tmp_path / "good", 12)
    (folder / "000.png").write_bytes((folder / "000.png").read_bytes()[:200])
    words = ["fit", folder, "-o", tmp_path / "part.safetensors", *QUICK]
    (line,) = ebmlib(*words, code=2).output.splitlines()
    assert "000.png: damaged or truncated" in line and line.endswith("copy it again")
    assert not (tmp_path / "part.safetensors").exists()
    said = ebmlib(*words, "--skip-errors").output
    assert f"skipped: {folder / '000.png'}: damaged" in said
    assert "learning from 11 photographs" in said


def test_photographs_without_contrast_are_refused(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    for index in range(5):
        Image.fromarray(np.full((40, 40), 128, np.uint8)).save(folder / f"{index}.png")
    words = ["fit", folder, "-o", tmp_path / "part.safetensors", *QUICK]
    said = ebmlib(*words, code=2).output
    assert "nearly one even tone" in said and "hold no contrast" in said


def test_a_full_disk_leaves_the_old_file(good, tmp_path, monkeypatch):
    output = tmp_path / "part.safetensors"
    output.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device", str(output))

    monkeypatch.setattr("ebmlib.checkpoint.os.fsync", full)
    said = ebmlib("fit", good, "-o", output, *QUICK, code=2).output
    assert said.splitlines()[-1].endswith("free some space and repeat the command")
    assert output.read_bytes() == b"old" and [*tmp_path.iterdir()] == [output]


def test_a_stopped_training_goes_on_to_the_same_detector(tmp_path, monkeypatch):
    folder = photographs(tmp_path / "good", 12)
    words = ["fit", folder, "--recipe", "contrast", "--steps", "12", "--size", "16"]
    whole, part_ = (tmp_path / f"{n}.safetensors" for n in ("whole", "part"))
    ebmlib(*words, "-o", whole)
    add = TrainingLog.add

    def stop(self, step, figures):
        add(self, step, figures)
        if step == 11:  # the guard has a copy of step 10
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "add", stop)
        said = ebmlib(*words, "-o", part_, code=130).output
    unfinished = tmp_path / "part.safetensors.unfinished"
    assert f"goes on from {unfinished}" in said and not part_.exists()
    other = ebmlib(*words, "--seed", "1", "-o", part_, code=2).output
    assert f"To start anew, delete {unfinished}" in other
    assert "going on from" in ebmlib(*words, "-o", part_).output
    assert not unfinished.exists()
    one, two = (EnergyDetector.load(path) for path in (whole, part_))
    assert one.threshold_ == two.threshold_
