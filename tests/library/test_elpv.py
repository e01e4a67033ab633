"""Photographs of solar cells: the split by modules, and a package that is not whole."""

import importlib.util
import json
import sys
from collections import defaultdict

import pytest
import torch

from ebmlib import benchmark
from ebmlib.data import elpv, load
from ebmlib.data.elpv import MODULES, ElpvError, load_elpv, read_cells, split_of
from ebmlib.data.images import images_to_tensor

INSTALLED = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None,
    reason='needs the package elpv-dataset: pip install "ebmlib[photos]"',
)
COUNTS = {  # training, good test, defective test, left out with 1/3 and with 2/3
    ("mono", "modules"): (451, 137, 313, 117, 56),
    ("mono", "cells"): (441, 147, 313, 117, 56),
    ("poly", "modules"): (731, 189, 402, 178, 50),
    ("poly", "cells"): (690, 230, 402, 178, 50),
}


# ------------------------------------------------------------------------ the split


def test_the_files_are_cut_into_44_modules():
    assert len(MODULES) == 44 and sum(cells for _, cells in MODULES) == 2624
    kinds = [kind for kind, _ in MODULES]
    assert (kinds.count("mono"), kinds.count("poly")) == (18, 26)


@INSTALLED
@pytest.mark.parametrize("name, split", COUNTS)
def test_a_split_has_the_counts_of_its_rule_and_no_cell_twice(name, split):
    found = split_of(name, split)
    train, good, defective, thirds, two_thirds = COUNTS[name, split]
    parts = (found.train, found.good, found.defective)
    assert tuple(map(len, parts)) == (train, good, defective)
    images = [cell.image for part in parts for cell in part]
    assert len(set(images)) == len(images)
    assert all(part == sorted(part) for part in parts)  # by file name
    assert {cell.probability for cell in found.train + found.good} == {0}
    assert {cell.probability for cell in found.defective} == {1}
    assert found.notes[0] == (
        f"left out: {thirds} cells with the defect probability 1/3 and {two_thirds} "
        "with 2/3"
    )
    cells = 588 if name == "mono" else 920
    assert train + good == cells


@INSTALLED
@pytest.mark.parametrize("name", elpv.CATEGORIES)
def test_normal_cells_of_one_module_are_on_one_side_only(name):
    found = split_of(name)
    tested = {cell.module for cell in found.good}
    assert not tested & {cell.module for cell in found.train}
    assert sorted(tested) == list(range(4, 17 if name == "mono" else 25, 4))
    leaky = split_of(name, "cells")
    assert {c.module for c in leaky.good} <= {c.module for c in leaky.train}


@INSTALLED
@pytest.mark.parametrize("name", elpv.CATEGORIES)
def test_every_fourth_good_cell_in_the_order_of_file_names_is_tested(name):
    found = split_of(name, "cells")
    sure = sorted(found.train + found.good)
    assert found.good == sure[3::4]


@INSTALLED
def test_cells_of_one_module_look_alike_which_is_why_it_is_not_split():
    """A module is a block of numbers: its own cells are the nearest ones."""
    data = load("elpv/poly", size=75, split="cells")
    found = split_of("poly", "cells")
    train, good = (
        torch.nn.functional.normalize(x - x.mean(1, keepdim=True))
        for x in (data.train.flatten(1), data.test[~data.labels].flatten(1))
    )
    nearest = (good @ train.T).argmax(1)
    same = [
        cell.module == found.train[at].module
        for cell, at in zip(found.good, nearest.tolist(), strict=True)
    ]
    assert 0.55 < sum(same) / len(same) < 0.7  # 0.08 by chance


# ------------------------------------------------------------------------ images


@pytest.fixture
def few(monkeypatch):
    """Eight cells of each part: reading all takes seconds."""

    def split_of_few(name, split="modules"):
        whole = split_of(name, split)
        parts = {
            part: getattr(whole, part)[:8] for part in ("train", "good", "defective")
        }
        return whole._replace(**parts)

    monkeypatch.setattr(elpv, "split_of", split_of_few)


@INSTALLED
def test_images_are_gray_in_order_and_without_masks():
    data = load("elpv/mono", size=12)
    found = split_of("mono")
    assert data.name == "elpv/mono" and data.image_shape == (1, 12, 12)
    assert data.train.dtype == torch.float32 and data.train.min() >= 0
    assert data.train.max() <= 1 and data.train.std() > 0.05
    assert (len(data.train), len(data.test)) == (451, 137 + 313)
    assert data.kinds == ["good"] * 137 + ["defective"] * 313
    assert data.labels.tolist() == [kind == "defective" for kind in data.kinds]
    assert not data.has_masks and data.masks.shape == (450, 12, 12)
    assert data.notes == found.notes
    shown = [found.train[7].image, found.good[3].image, found.defective[-1].image]
    expected = images_to_tensor(shown, size=12)
    assert torch.equal(expected[0], data.train[7])
    assert torch.equal(expected[1], data.test[3])
    assert torch.equal(expected[2], data.test[-1])


@INSTALLED
def test_sizes_and_channels_are_those_asked_for(few):
    assert load("elpv/mono").image_shape == (1, 128, 128)
    assert load("elpv/mono", size=(6, 10)).image_shape == (1, 6, 10)
    color = load_elpv("mono", 6, channels=3)
    assert color.image_shape == (3, 6, 6)
    assert torch.equal(color.train[:, 0], color.train[:, 2])
    with pytest.raises(ValueError, match="size must be"):
        load("elpv/mono", size=0)


@INSTALLED
def test_who_needs_masks_is_told_that_there_are_none(few):
    with pytest.raises(ValueError, match="elpv/mono has no masks, which are needed"):
        load("elpv/mono", size=4, need_masks=True)
    assert load("synthetic/nut", size=32, n_train=4, need_masks=True).has_masks


def test_another_name_or_rule_is_refused_with_the_ones_there_are():
    with pytest.raises(ValueError, match="'elpv/multi'; there are 'elpv/mono' and"):
        load("elpv/multi")
    with pytest.raises(ValueError, match="split must be 'modules' or 'cells'"):
        load("elpv/mono", split="random")


# ------------------------------------------------------------------------ the package


def test_a_missing_package_is_named_with_the_command_that_brings_it(
    monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(ElpvError, match=r'not installed; run: pip install "ebmlib\[ph'):
        load("elpv/poly")
    with pytest.raises(SystemExit):
        benchmark.main(["--categories", "elpv/*"])
    assert 'pip install "ebmlib[photos]"' in capsys.readouterr().err


def draw_package(folder):
    """A package of the known names with empty files: what `read_cells` looks at."""
    (folder / "images").mkdir(parents=True)
    kinds = [kind for kind, cells in MODULES for _ in range(cells)]
    lines = []
    for number, kind in enumerate(kinds, 1):
        (folder / f"images/cell{number:04d}.png").touch()
        lines.append(f"images/cell{number:04d}.png  {number % 4 / 3}  {kind}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return lines


def test_modules_are_counted_from_1_within_their_kind(tmp_path):
    draw_package(tmp_path)
    modules = defaultdict(list)
    for kind, cell in read_cells(tmp_path):
        modules[kind].append(cell.module)
    assert modules["mono"] == sorted(modules["mono"])
    assert set(modules["mono"]) == set(range(1, 19))
    assert set(modules["poly"]) == set(range(1, 27))
    assert [modules["mono"].count(m) for m in (9, 10, 17, 18)] == [60, 54, 72, 48]
    assert modules["poly"].count(15) == 50


@pytest.mark.parametrize(
    "at, line, problem",
    [
        (0, "images/cell0001.png 0.5 mono", "'images/cell0001.png 0.5 mono' where"),
        (0, "images/cell0001.png nan mono", "nan mono' where"),
        (0, "images/cell0001.png 2.0 mono", "2.0 mono' where"),
        (0, "images/cell0001.png 1.0 poly", "PROBABILITY mono' was expected"),
        (0, "images/cell0001.png", "'images/cell0001.png' where"),
        (2623, "images/cell9999.png 1.0 poly", "'images/cell2624.png PROBABILITY"),
        (5, "", "lists 2623 cells, expected 2624"),
    ],
)
def test_labels_that_are_not_the_known_ones_are_refused(tmp_path, at, line, problem):
    lines = draw_package(tmp_path)
    lines[at] = line
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(ElpvError, match="not whole") as caught:
        read_cells(tmp_path)
    assert problem in str(caught.value)
    assert 'then pip install "ebmlib[photos]"' in str(caught.value)


def test_a_package_without_its_files_is_refused(tmp_path, monkeypatch):
    (tmp_path / "elpv_dataset").mkdir()
    (tmp_path / "elpv_dataset" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    with pytest.raises(ElpvError, match=r"labels\.csv is missing\. Install it anew"):
        load("elpv/mono")  # found, and not imported
    draw_package(tmp_path / "elpv_dataset" / "data")
    assert len(split_of("mono").defective) > 0
    (tmp_path / "elpv_dataset" / "data" / "images" / "cell0100.png").unlink()
    with pytest.raises(ElpvError, match=r"cell0100\.png is missing"):
        load("elpv/mono")


# ------------------------------------------------------------------------ benchmark


@INSTALLED
def test_the_benchmark_measures_detection_and_says_what_it_cannot(few, tmp_path):
    words = ["--categories", "elpv/mono", "--methods", "brightness", "--size", "16x8"]
    asked = benchmark.parser().parse_args([*words, "--out", str(tmp_path)])
    (cell,) = benchmark.cells(asked, "a test")
    benchmark.run_here({**json.loads(json.dumps(cell)), "threads": 1})
    (path,) = tmp_path.rglob("*.json")
    assert path.parent.name == "elpv_16x8px"
    assert path.name == "elpv-mono_brightness_16x8px_seed0.json"
    result = json.loads(path.read_text())
    assert result["image_size"] == "16x8" and result["vanished_masks"] == 0
    assert result["metrics"]["image_auroc"] is not None
    assert not {"pixel_auroc", "au_pro"} & result["metrics"].keys()
    notes = benchmark.look_at("elpv/mono", None)
    assert notes[0].startswith("elpv/mono: pixel AUROC and AU-PRO need masks")
    assert "left out: 117 cells" in notes[1]


def test_the_benchmark_knows_the_names(capsys):
    assert benchmark.expand(["elpv/*", "elpv/mono"], None) == ["elpv/mono", "elpv/poly"]
    with pytest.raises(SystemExit):
        benchmark.main(["--categories", "elpv/multi"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("'elpv/multi'; there are 'elpv/mono' and 'elpv/poly'")
