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
    with pytest.raises(ValueError, match=r"write 'synthetic/nut', .* 'mvtec/bottle'"):
        load(name)


def test_a_category_of_ones_own_may_come_without_masks(root):
    shutil.rmtree(root / "plate/ground_truth")
    plate = load_mvtec(root, "plate", size=SIDE)
    assert not plate.has_masks
    assert plate.labels.sum() == 5
    report = validate(root)
    assert report.ok
    assert report.notes == ["plate: no masks: localization cannot be measured"]


def test_an_official_category_may_not(tmp_path):
    folder = draw_category(tmp_path, "bottle", defects={"broken_large": 2})
    shutil.rmtree(folder / "ground_truth")
    said = "'bottle' is a category of MVTec AD, .* your own another category name"
    with pytest.raises(LayoutError, match=said):
        load_mvtec(tmp_path, "bottle", size=SIDE)
    problems = validate(tmp_path, "bottle").problems
    assert len([problem for problem in problems if re.search(said, problem)]) == 1
    assert not any("has no mask" in problem for problem in problems)


def test_a_mask_may_have_the_name_of_its_image(root):
    whole = load_mvtec(root, "plate", size=SIDE)
    for path in (root / "plate/ground_truth").rglob("*_mask.png"):
        path.rename(path.with_name(path.name.replace("_mask", "")))
    again = load_mvtec(root, "plate", size=SIDE)
    assert again.has_masks
    assert torch.equal(again.masks, whole.masks)


# ---------------------------------------------------------------- sizes and bits


@pytest.mark.parametrize("size", [0, -3, 32.9, 16.0, True, (8,), (8, 9.0), "8"])
def test_a_size_is_whole_pixels(root, size):
    for call in (
        lambda: load_mvtec(root, "plate", size=size),
        lambda: load("mvtec/plate", root=root, size=size),
        lambda: load("synthetic/nut", size=size),
    ):
        with pytest.raises(ValueError, match="size must be a positive whole number"):
            call()


def test_real_images_may_be_oblong_and_drawn_ones_not(root):
    plate = load("mvtec/plate", root=root, size=(8, 12))
    assert plate.image_shape == (3, 8, 12)
    assert plate.masks.shape[1:] == (8, 12)
    assert torch.equal(plate.test, load_mvtec(root, "plate", (8, 12)).test)
    with pytest.raises(ValueError, match="drawn images are square"):
        load("synthetic/nut", size=(32, 48))


def test_twelve_bits_in_sixteen_are_noticed_once_and_read(root):
    whole = load_mvtec(root, "plate", size=SIDE, channels=1)
    for path in (root / "plate").rglob("*.png"):
        if "ground_truth" not in path.parts:
            gray = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
            draw(path, gray * 16 + gray // 16)
    with pytest.warns(UserWarning) as caught:
        load_mvtec(root, "plate", size=SIDE)
    (warning,) = caught
    assert "bits=12 to make 4095 white" in str(warning.message)
    plate = load("mvtec/plate", root=root, size=SIDE, bits=12)
    assert plate.image_shape == (1, SIDE, SIDE)
    assert torch.allclose(plate.train, whole.train, atol=1 / 255)
    assert torch.allclose(plate.test, whole.test, atol=1 / 255)


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
    for folder in ("cup/train/ok", "mug/train", "jar"):
        draw(root / folder / "000.png", np.zeros((4, 4), dtype=np.uint8))
    for name, found in (("cup", "train/ok"), ("mug", "no folder in train/")):
        with pytest.raises(LayoutError, match=f"no folder {name}/train/good.*{found}"):
            load_mvtec(root, name)
        (problem,) = validate(root, name).problems
        assert f"no folder {name}/train/good" in problem and found in problem
    with pytest.raises(LayoutError, match=r"no folder jar/train/good.*found: nothing"):
        load_mvtec(root, "jar")


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


def damage_twins(folder):
    shutil.copy(folder / "test/hole/000.png", folder / "test/hole/000.bmp")
    return r"test/hole: two images share a stem, 000\.bmp and 000\.png, .*rename one"


def damage_twins_without_mask(folder):
    shutil.copy(folder / "test/hole/000.png", folder / "test/hole/000.bmp")
    (folder / "ground_truth/hole/000_mask.png").unlink()
    return r"test/hole: two images share a stem, 000\.bmp and 000\.png"


def damage_second_mask(folder):
    masks = folder / "ground_truth/hole"
    shutil.copy(masks / "000_mask.png", masks / "000_mask.bmp")
    return r"ground_truth/hole: 000_mask\.bmp and 000_mask\.png are both masks of 000"


def damage_second_name_of_a_mask(folder):
    masks = folder / "ground_truth/hole"
    shutil.copy(masks / "000_mask.png", masks / "000.png")
    return r"ground_truth/hole: 000_mask\.png and 000\.png are both masks of 000\.png"


def damage_a_folder_of_good_images_by_another_name(folder):
    shutil.copytree(folder / "test/good", folder / "test/ok")
    return (
        "test/ok holds 2 images and ground_truth/ok no mask: every folder of test/ but "
        "test/good is a kind of defect"
    )


def damage_images_without_folders(folder):
    for path in (folder / "test").rglob("*.png"):
        path.rename(folder / "test" / f"{path.parent.name}_{path.name}")
    for kind in ("good", "hole", "scratch"):
        (folder / "test" / kind).rmdir()
    return "test/ holds images but no folders; put them in test/good"


DAMAGES = [
    value for name, value in list(globals().items()) if name.startswith("damage_")
]


def said(lines):
    """Problems with paths as POSIX writes them."""
    return [line.replace("\\", "/") for line in lines]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_refused_by_load_and_named_by_validate(root, damage):
    message = damage(root / "plate")
    with pytest.raises((LayoutError, ImageError)) as caught:
        load_mvtec(root, "plate", size=8)
    assert re.search(message, *said([str(caught.value)]))
    report = validate(root)
    assert not report.ok
    assert any(re.search(message, problem) for problem in said(report.problems))
    assert len(set(report.problems)) == len(report.problems)


# ---------------------------------------------------------------- what is noted


def note_subfolder(folder):
    images = folder / "train/good/cam2"
    shutil.copytree(folder / "test/good", images)
    return "2 images in train/good/cam2/ not read: only those directly in train/good"


def note_deep_subfolder(folder):
    shutil.copytree(folder / "test/good", folder / "test/hole/day/shift")
    return "2 images in test/hole/day/shift/ not read"


def note_subfolder_of_masks(folder):
    draw(folder / "ground_truth/hole/old/000_mask.png", np.zeros((4, 4), np.uint8))
    return "1 image in ground_truth/hole/old/ not read"


def note_image_above_the_folders(folder):
    draw(folder / "test/000.png", np.zeros((4, 4), np.uint8))
    return "1 image in test/ not read"


def note_no_normal_test_image(folder):
    shutil.rmtree(folder / "test/good")
    return r"no normal test images \(test/good\): AUROC cannot be measured"


def note_no_defective_test_image(folder):
    for kind in ("hole", "scratch"):
        shutil.rmtree(folder / "test" / kind)
        shutil.rmtree(folder / "ground_truth" / kind)
    return "no defective test images: AUROC cannot be measured"


def note_good_by_another_name(folder, name="ok"):
    shutil.rmtree(folder / "ground_truth")
    (folder / "test/good").rename(folder / "test" / name)
    return f"test/{name} is taken as a kind of defect: normal test images belong in"


def note_good_in_capitals(folder):
    return note_good_by_another_name(folder, "Good")


def note_defect_free(folder):
    return note_good_by_another_name(folder, "defect_free")


NOTES = [value for name, value in list(globals().items()) if name.startswith("note_")]


@pytest.mark.parametrize("arrange", NOTES, ids=lambda arrange: arrange.__name__)
def test_what_may_not_be_meant_is_noted_by_both(root, arrange):
    message = arrange(root / "plate")
    report = validate(root)
    assert report.ok
    assert any(re.search(f"^plate: .*{message}", note) for note in report.notes)
    with pytest.warns(UserWarning, match=f"plate: .*{message}"):
        plate = load_mvtec(root, "plate", size=SIDE)
    assert any(re.search(message, note) for note in plate.notes)


def test_hidden_files_and_other_files_are_no_images(root):
    draw(root / "plate/train/good/.cache/a.png", np.zeros((4, 4), np.uint8))
    draw(root / "plate/train/._a.png", np.zeros((4, 4), np.uint8))
    (root / "plate/test/readme.txt").write_text("text")
    assert validate(root).notes == []


# ---------------------------------------------------------------- forms of Unicode


COMPOSED, DECOMPOSED = "Naht \u00e4", "Naht a\u0308"


@pytest.mark.parametrize("image", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("mask", [COMPOSED, DECOMPOSED])
def test_masks_pair_whatever_the_form_of_their_names(root, image, mask):
    """macOS stores decomposed names; a copy elsewhere may hold both forms."""
    whole = load_mvtec(root, "plate", size=SIDE)
    for part, name, ending in (("test", image, ""), ("ground_truth", mask, "_mask")):
        folder = root / "plate" / part
        path = folder / "hole" / f"000{ending}.png"
        path.rename(path.with_name(f"{name}{ending}.png"))
        (folder / "hole").rename(folder / f"trou {name}")
    (root / "plate").rename(root / f"plate {image}")
    for name in (COMPOSED, DECOMPOSED):
        plate = load_mvtec(root, f"plate {name}", size=SIDE)
        assert plate.kinds == ["good"] * 2 + ["scratch"] * 3 + [f"trou {COMPOSED}"] * 2
        assert torch.equal(plate.masks, (plate.test > 0.9).all(1))
        assert plate.masks.sum() == whole.masks.sum()
        report = validate(root, f"plate {name}")
        assert report.ok and report.notes == []
        (counts,) = report.counts.values()
        assert counts[f"ground_truth/trou {COMPOSED}"] == 2


def test_two_names_that_look_equal_share_a_stem(root):
    for name in (COMPOSED, DECOMPOSED):
        draw(root / f"plate/test/hole/{name}.png", np.zeros((SIDE, SIDE), np.uint8))
    if len(list((root / "plate/test/hole").glob("Naht*"))) < 2:
        pytest.skip("this file system knows one form only")
    assert any("two images share a stem" in line for line in validate(root).problems)


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
    report = validate(tmp_path, "toothbrush")
    assert any("give images of your own another category" in n for n in report.notes)
    assert report.problems == [
        "toothbrush: train/good: 59 files of 60; missing: 017",
        "toothbrush: test/good: 13 files, 12 expected; extra: 900",
        "toothbrush: test/defective: 29 files of 30; missing: 003",
        "toothbrush: ground_truth/defective: 29 files of 30; missing: 003_mask",
    ]


def test_missing_categories(root):
    report = validate(root, ["plate", "bottle"])
    (problem,) = report.problems
    assert problem.startswith("bottle: no folder bottle/train/good, where the normal")
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
