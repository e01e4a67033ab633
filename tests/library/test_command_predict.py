"""`ebmlib predict`: a row and two pictures a photograph, and every kind of bad file."""

import numpy as np
import pytest
import torch
from drawn_parts import QUICK, ebmlib, part, photographs, told
from PIL import Image
from safetensors.torch import save_file

from ebmlib.checkpoint import write_checkpoint
from ebmlib.commands import predict
from ebmlib.data.watching import FolderWatch
from ebmlib.detector import FORMAT, EnergyDetector
from ebmlib.prediction_table import PredictionTable, read_rows
from ebmlib.regions import largest_region


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    good = photographs(folder / "good", 40)
    ebmlib("fit", good, "-o", folder / "part.safetensors", *QUICK)
    return folder / "part.safetensors"


@pytest.fixture
def new(tmp_path):
    """Five photographs of 60 px, of which 102.png has a hole."""
    folder = photographs(tmp_path / "new", 5, 100, side=60)
    Image.fromarray(part(102, side=60, defect=True)).save(folder / "102.png")
    return folder


def test_every_photograph_has_a_row_that_agrees_with_the_library(
    detector, new, tmp_path
):
    ebmlib("predict", detector, new, "--out", tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "scores.csv")
    expected = EnergyDetector.load(detector).predict(str(new))
    assert [row.path for row in rows] == expected.names
    found = np.array([[float(row.score), float(row.p_value)] for row in rows])
    np.testing.assert_allclose(found[:, 0], expected.scores, rtol=1e-4)
    np.testing.assert_allclose(found[:, 1], expected.p_values, rtol=1e-4)
    verdicts = [row.verdict == "anomalous" for row in rows]
    assert verdicts == expected.anomalous.tolist()
    region = largest_region(expected.photo_mask(2))
    assert rows[2].verdict == "anomalous" and region.area > 10
    assert rows[2][4:9] == tuple(map(str, region))
    assert expected.photo_mask(2)[30, 48]  # in the hole


def test_pictures_have_the_size_of_the_photograph(detector, new, tmp_path):
    out = tmp_path / "out"
    ebmlib("predict", detector, new, "--out", out)
    loaded = EnergyDetector.load(detector)
    expected = loaded.predict(str(new / "102.png"))
    gray = np.asarray(Image.open(out / "maps" / "102.png.png"))
    assert gray.shape == (60, 60)
    flagged = expected.photo_map(0).numpy() > loaded.pixel_threshold_
    assert (gray[flagged] >= 16384).all() and (gray[~flagged] <= 16384).all()
    assert Image.open(out / "overlays" / "102.png.png").size == (60, 60)
    assert len([*(out / "maps").iterdir()]) == 5


@pytest.mark.parametrize(("which", "count"), [("anomalous", 1), ("none", 0)])
def test_fewer_pictures_can_be_asked_for(which, count, detector, new, tmp_path):
    out = tmp_path / "out"
    ebmlib("predict", detector, new / "102.png", "--out", out, "--maps", which)
    assert len([*out.glob("maps/*.png")]) == len([*out.glob("overlays/*.png")]) == count


def test_exit_code_1_only_where_it_is_asked_for(detector, new, tmp_path):
    words = ["predict", detector, new, "--maps", "none", "--out", tmp_path / "out"]
    found = told(*words, "--json")
    assert found["photographs"] == 5 and found["anomalous"] >= 1
    assert found["normal"] + found["anomalous"] == 5 and found["errors"] == []
    again = told(*words, "--json", "--exit-code", code=1)
    assert again["before"] == 5 and again["photographs"] == 5


def broken(folder):
    """A file of every kind that cannot be read; its name and what is said of it."""
    good = (folder / "100.png").read_bytes()
    Image.fromarray(part(1)).convert("CMYK").save(folder / "cmyk.tif")
    frames = [Image.fromarray(part(seed)) for seed in (1, 2)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((200, 10), np.uint8)).save(folder / "strip.png")
    contents = {
        "cut.png": good[: len(good) // 2],
        "empty.png": b"",
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\n",
        "flipped.png": good[:200] + bytes([good[200] ^ 255]) + good[201:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    return {
        "cut.png": "damaged or truncated",
        "empty.png": "the file is empty (0 bytes); copy it again",
        "page.jpg": "not an image",
        "pointer.png": "not an image",
        "flipped.png": "damaged",
        "cmyk.tif": "color mode CMYK",
        "moving.gif": "2 frames",
        "strip.png": "changes its shape 20-fold; crop it first",
        "folder.png": "a folder, not an image file",
        "dangling.png": "no such file",
    }


def test_every_kind_of_bad_file_is_one_line_and_exit_code_2(detector, new, tmp_path):
    for name, said in broken(new).items():
        words = ["predict", detector, new / name, "--out", tmp_path / name]
        if (new / name).is_dir() or not (new / name).exists():
            said = "no "  # as a folder of images, or nothing at all
        (line,) = ebmlib(*words, code=2).output.splitlines()
        assert line.startswith(f"Error: {new / name}: ") and said in line
        assert not [*(tmp_path / name).rglob("*.png")]


def test_bad_files_are_skipped_and_listed(detector, new, tmp_path):
    expected = broken(new)
    out = tmp_path / "out"
    words = ["predict", detector, new, "--out", out, "--batch", "4"]
    assert "Error: " in ebmlib(*words, code=2).output
    done = ebmlib(*words, "--skip-errors")
    assert "15 photographs, " in done.output and "10 unreadable" in done.output
    problems = {
        row.path.rsplit("/")[-1]: row.problem
        for row in read_rows(out / "scores.csv")
        if row.verdict == "unreadable"
    }
    assert problems.keys() == expected.keys()
    for name, said in expected.items():
        assert said in problems[name]
        assert f"unreadable: {new / name}: {problems[name]}" in done.output


def test_a_repaired_file_is_judged_by_the_same_command(detector, new, tmp_path):
    good = (new / "100.png").read_bytes()
    (new / "100.png").write_bytes(good[:100])
    words = ["predict", detector, new, "--out", tmp_path / "out", "--skip-errors"]
    assert "1 unreadable" in ebmlib(*words).output
    (new / "100.png").write_bytes(good)
    assert "unreadable" not in ebmlib(*words).output
    assert len(read_rows(tmp_path / "out" / "scores.csv")) == 5


def test_where_nothing_can_be_read_every_file_is_listed(detector, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"no image")
    words = ["predict", detector, folder, "--out", tmp_path / "out", "--skip-errors"]
    assert "2 photographs, 2 unreadable" in ebmlib(*words).output


def bad_detectors(detector, folder):
    """Files that are no whole detector of this version: path and what is said."""

    class Trap:
        def __reduce__(self):
            return (folder / "owned").mkdir, ()

    header = {"format_version": 99}
    torch.save(Trap(), folder / "code.pt")
    save_file({"w": torch.ones(2)}, folder / "foreign.safetensors")
    write_checkpoint(folder / "newer.safetensors", {}, header, FORMAT)
    write_checkpoint(folder / "older.safetensors", {}, {"format_version": 1}, FORMAT)
    write_checkpoint(folder / "hollow.safetensors", {}, {"format_version": 4}, FORMAT)
    content = detector.read_bytes()
    (folder / "cut.safetensors").write_bytes(content[:-100])
    (folder / "flipped.safetensors").write_bytes(
        content[:-1] + bytes([content[-1] ^ 1])
    )
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "folder.safetensors").mkdir()
    return {
        "code.pt": "Pickled files (.pt, .pth, .ckpt) are refused",
        "foreign.safetensors": "a safetensors file from elsewhere",
        "newer.safetensors": "has detector format 99; this version of ebmlib reads",
        "older.safetensors": "Fit the detector anew",
        "hollow.safetensors": "holds no whole detector",
        "cut.safetensors": "is not a whole safetensors file",
        "flipped.safetensors": "is damaged: its content fails the checksum",
        "empty.safetensors": "is not a whole safetensors file",
        "folder.safetensors": "is a folder",
        "nowhere.safetensors": "no checkpoint at",
    }


def test_a_file_that_is_no_detector_is_refused_in_words(detector, new, tmp_path):
    for name, said in bad_detectors(detector, tmp_path).items():
        words = ["predict", tmp_path / name, new, "--out", tmp_path / "out"]
        (line,) = ebmlib(*words, code=2).output.splitlines()
        assert str(tmp_path / name) in line and said in line
    assert not (tmp_path / "owned").exists() and not (tmp_path / "out").exists()


def test_results_of_another_detector_or_folder_are_not_mixed(detector, new, tmp_path):
    words = ["--out", tmp_path / "out", "--maps", "none"]
    ebmlib("predict", detector, new, *words)
    other = photographs(tmp_path / "other", 1)
    said = ebmlib("predict", detector, other, *words, code=2).output
    assert "holds the rows of other photographs; name another folder" in said


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    detector, new, tmp_path
):
    (tmp_path / "file").touch()
    words = ["predict", detector, new, "--out", tmp_path / "file" / "out"]
    (line,) = ebmlib(*words, code=2).output.splitlines()
    assert "cannot be written" in line and "name a folder that can" in line


def test_a_full_disk_leaves_whole_rows_and_pictures(
    detector, new, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    words = ["predict", detector, new, "--out", out, "--batch", "2"]
    left = iter(range(5))
    real = Image.Image.save

    def save(self, *arguments, **options):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", save)
        said = ebmlib(*words, code=2).output
    assert "free some space" in said
    assert len(read_rows(out / "scores.csv")) == 2
    assert [*out.rglob("*.tmp")] == [*out.rglob(".*")] == []
    ebmlib(*words)
    assert len(read_rows(out / "scores.csv")) == len([*(out / "maps").iterdir()]) == 5


def test_ctrl_c_says_that_the_same_command_goes_on(
    detector, new, tmp_path, monkeypatch
):
    words = ["predict", detector, new, "--out", tmp_path / "out", "--batch", "2"]
    append = PredictionTable.append

    def stop(self, rows):
        append(self, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PredictionTable, "append", stop)
        said = ebmlib(*words, code=130).output
    assert said.endswith("stopped; the same command goes on from there\n")
    assert told(*words, "--json")["before"] == 2


def test_a_watched_folder_is_judged_as_it_fills(detector, new, tmp_path, monkeypatch):
    """A half photograph becomes a whole one; the clock only goes on in waits."""
    whole = (new / "104.png").read_bytes()
    (new / "104.png").write_bytes(whole[:300])
    (new / "never.png").write_bytes(b"no image")
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 8:
            (new / "104.png").write_bytes(whole)

    monkeypatch.setattr(predict.time, "sleep", sleep)
    settings = (1.0, 20.0, lambda: sum(waits))
    monkeypatch.setattr(FolderWatch.__init__, "__defaults__", settings)
    out = tmp_path / "out"
    words = ["predict", detector, new, "--out", out, "--watch", "--maps", "none"]
    said = ebmlib(*words, "--idle", "60").output
    assert 60 < sum(waits) < 70
    rows = {row.path.rsplit("/")[-1]: row for row in read_rows(out / "scores.csv")}
    assert len(rows) == len(read_rows(out / "scores.csv")) == 6
    assert rows["104.png"].verdict != "unreadable"
    assert rows["never.png"].verdict == "unreadable"
    assert "anomalous" in said and "never.png: not an image" in said


def test_options_that_say_nothing_together_are_refused(detector, new, tmp_path):
    words = ["predict", detector, new, "--out", tmp_path / "out"]
    assert "--idle belongs to --watch" in ebmlib(*words, "--idle", 1, code=2).output
    words = ["predict", detector, new / "100.png", "--out", tmp_path / "out"]
    assert "--watch needs a folder" in ebmlib(*words, "--watch", code=2).output
