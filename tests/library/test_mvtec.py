"""A tiny folder in MVTec layout: paired by name, sorted, and checked for wholeness."""

import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from ebmlib.data import Category, load
from ebmlib.data.images import ImageError
from ebmlib.data.mvtec import OFFICIAL_COUNTS, LayoutError, load_mvtec, main, validate
from ebmlib.data.mvtec_facts import official_sources

SIDE = 16


def draw(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def draw_category(root, name="plate", *, color=True, train=3, good=2, defects=None):
    """Normal images are gray noise; the n-th defect of a kind marks row n + 1."""
    rng = np.random.default_rng(0)
    folder, shape = root / name, (SIDE, SIDE, 3) if color else (SIDE, SIDE)

    def picture():
        return rng.integers(90, 110, shape, dtype=np.uint8)

    for index in range(train):
        draw(folder / f"train/good/{index:03d}.png", picture())
    for index in range(good):
        draw(folder / f"test/good/{index:03d}.png", picture())
    for kind, count in (defects or {"scratch": 3, "hole": 2}).items():
        for index in range(count):
            image, mask = picture(), np.zeros((SIDE, SIDE), dtype=np.uint8)
            row = index % (SIDE - 4) + 1
            image[row : row + 2], mask[row : row + 2] = 255, 255
            draw(folder / f"test/{kind}/{index:03d}.png", image)
            draw(folder / f"ground_truth/{kind}/{index:03d}_mask.png", mask)
    return folder


@pytest.fixture
def root(tmp_path):
    draw_category(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- loading


def test_shapes_types_and_order(root):
    plate = load_mvtec(root, "plate", size=SIDE)
    assert isinstance(plate, Category)
    assert plate.name == "mvtec/plate"
    assert plate.train.shape == (3, 3, SIDE, SIDE)
    assert plate.test.shape == (7, 3, SIDE, SIDE)
    assert plate.kinds == ["good"] * 2 + ["hole"] * 2 + ["scratch"] * 3
    assert plate.labels.tolist() == [False] * 2 + [True] * 5
    assert plate.masks.dtype == torch.bool and plate.notes == ()
    assert not plate.masks[~plate.labels].any()
    assert "plate" in repr(plate) and "2 hole" in repr(plate)


def test_every_mask_belongs_to_its_image(root):
    plate = load_mvtec(root, "plate", size=SIDE)
    assert torch.equal(plate.masks, (plate.test > 0.9).all(1))


def test_pairing_is_by_name_not_by_position(root):
    for number in ("000", "001", "002"):  # new numbers, the same order in no folder
        new = f"{9 - int(number)}00"
        for path in ("test/scratch/{}.png", "ground_truth/scratch/{}_mask.png"):
            (root / "plate" / path.format(number)).rename(
                root / "plate" / path.format(new)
            )
    plate = load_mvtec(root, "plate", size=SIDE)
    assert torch.equal(plate.masks, (plate.test > 0.9).all(1))


def test_reading_twice_gives_the_same(root):
    first, second = (load_mvtec(root, "plate", size=10) for _ in range(2))
    assert torch.equal(first.train, second.train)
    assert torch.equal(first.test, second.test)
    assert torch.equal(first.masks, second.masks)
    assert first.kinds == second.kinds


def test_gray_categories_have_one_channel_unless_asked(tmp_path):
    draw_category(tmp_path, "coin", color=False)
    assert load_mvtec(tmp_path, "coin", size=8).image_shape == (1, 8, 8)
    assert load_mvtec(tmp_path, "coin", size=8, channels=3).image_shape == (3, 8, 8)


def test_one_color_image_makes_the_category_color(tmp_path):
    folder = draw_category(tmp_path, "coin", color=False)
    draw(folder / "test/good/009.png", np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
    assert load_mvtec(tmp_path, "coin", size=8).image_shape == (3, 8, 8)


def test_vanished_regions_are_reported_and_stay_labeled(tmp_path):
    root = tmp_path
    draw_category(root, defects={"hole": 2, "scratch": 2})
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[5, 6] = 255
    draw(root / "plate/ground_truth/hole/001_mask.png", mask)
    with pytest.warns(UserWarning, match="vanished from 1 of 6 masks; see Category"):
        plate = load_mvtec(root, "plate", size=4)
    (note,) = plate.notes
    assert note.startswith("ground_truth/hole/001_mask.png: 1 defect region")
    assert "1 px at (5, 6)" in note
    assert plate.labels[3] and not plate.masks[3].any()


def test_nothing_is_reported_when_nothing_vanished(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_mvtec(root, "plate", size=8).notes == ()


def test_load_by_name_and_by_environment(root, monkeypatch):
    by_argument = load("mvtec/plate", root=root, size=8)
    monkeypatch.setenv("MVTEC_ROOT", str(root))
    by_environment = load("mvtec/plate", size=8)
    assert torch.equal(by_argument.test, by_environment.test)
    assert load("mvtec/plate").image_shape == (3, 128, 128)
    monkeypatch.delenv("MVTEC_ROOT")
    with pytest.raises(ValueError, match=r"pass root=.* or set .* MVTEC_ROOT"):
        load("mvtec/plate")


@pytest.mark.parametrize("name", ["nut", "mvtec", "mvtec/", "visa/candle", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="write 'synthetic/nut' or 'mvtec/bottle'"):
        load(name)


def test_a_category_of_ones_own_may_come_without_masks(root):
    shutil.rmtree(root / "plate/ground_truth")
    plate = load_mvtec(root, "plate", size=SIDE)
    assert not plate.has_masks
    assert plate.labels.sum() == 5
    report = validate(root)
    assert report.ok
    assert "plate: no masks, so nobody can measure localization" in report.notes


def test_an_official_category_may_not(tmp_path):
    folder = draw_category(tmp_path, "bottle", defects={"broken_large": 2})
    shutil.rmtree(folder / "ground_truth")
    with pytest.raises(LayoutError, match=r"broken_large/000\.png has no mask"):
        load_mvtec(tmp_path, "bottle", size=SIDE)


def test_a_mask_may_have_the_name_of_its_image(root):
    whole = load_mvtec(root, "plate", size=SIDE)
    for path in (root / "plate/ground_truth").rglob("*_mask.png"):
        path.rename(path.with_name(path.name.replace("_mask", "")))
    again = load_mvtec(root, "plate", size=SIDE)
    assert again.has_masks
    assert torch.equal(again.masks, whole.masks)


# ---------------------------------------------------------------- what cannot be loaded


def test_a_wrong_root_says_what_is_there(root):
    with pytest.raises(
        LayoutError, match=r"no category 'cup' .*categories found: plate"
    ):
        load_mvtec(root, "cup")
    with pytest.raises(LayoutError, match="pass the folder above it as root"):
        load_mvtec(root / "plate", "plate")
    with pytest.raises(LayoutError, match="no such folder"):
        load_mvtec(root / "nowhere", "plate")


def damage_missing_mask(folder):
    (folder / "ground_truth/scratch/001_mask.png").unlink()
    return r"test/scratch/001\.png has no mask 001_mask"


def damage_missing_image(folder):
    (folder / "test/hole/000.png").unlink()
    return r"ground_truth/hole/000_mask\.png has no test image"


def damage_missing_kind(folder):
    for path in (folder / "test/hole").iterdir():
        path.unlink()
    (folder / "test/hole").rmdir()
    return "ground_truth/hole has no folder test/hole"


def damage_training_folder(folder):
    draw(folder / "train/hole/000.png", np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
    return "train/hole: training images are normal ones"


def damage_unreadable(folder):
    (folder / "train/good/001.png").write_bytes(b"")
    return r"train/good/001\.png: the file is empty"


def damage_text_mask(folder):
    (folder / "ground_truth/hole/001_mask.png").write_text("no image")
    return r"hole/001_mask\.png: not an image"


def damage_mask_size(folder):
    mask = np.full((SIDE, SIDE - 1), 255, dtype=np.uint8)
    draw(folder / "ground_truth/hole/001_mask.png", mask)
    return r"001_mask\.png: mask of 16 x 15 for an image of 16 x 16"


def damage_black_mask(folder):
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    draw(folder / "ground_truth/hole/001_mask.png", mask)
    return r"001_mask\.png: the mask of a 'hole' image is all black"


def damage_good_mask(folder):
    mask = np.full((SIDE, SIDE), 255, dtype=np.uint8)
    draw(folder / "ground_truth/good/000_mask.png", mask)
    return r"the mask of a 'good' image marks a defect"


DAMAGES = [
    value for name, value in list(globals().items()) if name.startswith("damage_")
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_refused_by_load_and_named_by_validate(root, damage):
    message = damage(root / "plate")
    with pytest.raises((LayoutError, ImageError), match=message):
        load_mvtec(root, "plate", size=8)
    report = validate(root)
    assert not report.ok
    assert any(re.search(message, problem) for problem in report.problems)


# ---------------------------------------------------------------- validate


def test_a_whole_category_of_ones_own_has_no_problem(root):
    report = validate(root)
    assert report.ok and report.notes == []
    assert report.counts == {
        "plate": {
            "train/good": 3,
            "test/good": 2,
            "test/hole": 2,
            "test/scratch": 3,
            "ground_truth/hole": 2,
            "ground_truth/scratch": 3,
        }
    }
    assert str(report).endswith("ok")


def test_one_image_of_another_size_is_named(root):
    draw(root / "plate/train/good/001.png", np.zeros((9, 9), dtype=np.uint8))
    (problem,) = validate(root, "plate").problems
    assert "001.png: 9 x 9, but the others are 16 x 16" in problem


def test_official_counts_are_compared_and_missing_files_named(tmp_path):
    official = OFFICIAL_COUNTS["toothbrush"]
    folder = draw_category(
        tmp_path,
        "toothbrush",
        train=official.train,
        good=official.good,
        defects=official.defects,
    )
    report = validate(tmp_path, ["toothbrush"])
    assert report.ok
    assert report.notes == [
        "toothbrush: images are 16 x 16, official ones 1024 x 1024 (a resized copy)"
    ]
    (folder / "train/good/017.png").unlink()
    (folder / "test/defective/003.png").unlink()
    (folder / "ground_truth/defective/003_mask.png").unlink()
    draw(folder / "test/good/900.png", np.zeros((SIDE, SIDE), dtype=np.uint8))
    assert validate(tmp_path, "toothbrush").problems == [
        "toothbrush: train/good: 59 files of 60; missing: 017",
        "toothbrush: test/good: 13 files, 12 expected; extra: 900",
        "toothbrush: test/defective: 29 files of 30; missing: 003",
        "toothbrush: ground_truth/defective: 29 files of 30; missing: 003_mask",
    ]


def test_missing_categories(root):
    report = validate(root, ["plate", "bottle"])
    assert report.problems == ["bottle: no folder bottle/train/good"]
    draw_category(root, "bottle")
    notes = validate(root).notes
    assert any("official categories not here: cable, capsule" in note for note in notes)
    with pytest.raises(LayoutError, match="no category here"):
        validate(root / "plate")


def test_official_totals_are_the_published_ones():
    counts = OFFICIAL_COUNTS.values()
    assert len(OFFICIAL_COUNTS) == 15
    assert sum(count.train for count in counts) == 3629
    assert sum(count.good for count in counts) == 467
    assert sum(sum(count.defects.values()) for count in counts) == 1258
    assert sum(len(count.defects) for count in counts) == 73


def test_every_category_has_its_own_address_and_a_hashed_bundle():
    own = [official_sources(name)[0].url for name in OFFICIAL_COUNTS]
    assert len(set(own)) == 15
    for name, url in zip(OFFICIAL_COUNTS, own, strict=True):
        assert url.startswith("https://") and url.endswith(f"/{name}.tar.xz")
        assert len(official_sources(name)[-1].sha256) == 64


def test_command_line_validates(root, capsys):
    assert main(["validate", "--root", str(root)]) == 0
    assert capsys.readouterr().out.endswith("ok\n")
    damage_missing_mask(root / "plate")
    assert main(["validate", "--root", str(root), "plate"]) == 1
    assert "PROBLEM: plate: test/scratch/001.png" in capsys.readouterr().out
    assert main(["validate", "--root", str(root / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err


# ---------------------------------------------------------------- the Category itself


def test_a_category_refuses_what_contradicts_itself():
    images, masks = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    labels, kinds = torch.tensor([False, True]), ["good", "hole"]
    masks[1, 0, 0] = True
    Category("own/cup", images, images, labels, masks, kinds)
    wrong = {
        "float32": (images.double(), images, labels, masks, kinds),
        "one size": (images[..., :2], images, labels, masks, kinds),
        "labels must be bool": (images, images, labels.int(), masks, kinds),
        "masks must be bool": (images, images, labels, masks[:, :2], kinds),
        "2 test images but 1 kinds": (images, images, labels, masks, ["good"]),
        "but labeled": (images, images, ~labels, masks, kinds),
        "has a defect mask": (images, images, labels, masks.flip(0), kinds),
    }
    for message, fields in wrong.items():
        with pytest.raises(ValueError, match=message):
            Category("own/cup", *fields)
