import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from ebmlib.data import synthetic
from ebmlib.data.synthetic import CATEGORIES, KINDS, draw, make, write

SMALL = {"n_train": 4, "n_test": 2, "n_defective": 1}


@pytest.fixture(scope="module", params=CATEGORIES)
def default(request):
    """The default data set of each category; 32 px suffices for trivial figures."""
    return make(request.param, size=32)


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_image_does_not_depend_on_how_many_are_drawn(category):
    few = make(category, size=32, n_train=2, n_test=1, n_defective=1)
    more = make(category, size=32, n_train=4, n_test=3, n_defective=2)
    assert torch.equal(few.train, more.train[:2])
    for kind in ("good", *KINDS):
        i, j = few.kinds.index(kind), more.kinds.index(kind)
        assert torch.equal(few.test[i], more.test[j])
        assert torch.equal(few.masks[i], more.masks[j])


@pytest.mark.parametrize("category", CATEGORIES)
def test_seeds_and_indices_draw_different_images(category):
    images = [
        draw(category, kind, index, 32, seed).image.tobytes()
        for kind in ("train", "good")
        for index in range(3)
        for seed in range(3)
    ]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_outside_the_mask_the_defect_changed_nothing(category, kind):
    for index in range(4):
        drawing = draw(category, kind, index, 64)
        changed = (drawing.image != drawing.clean).any(axis=2)
        assert not changed[~drawing.mask].any()
        assert changed[drawing.mask].mean() > 0.7  # and inside nearly everything
        assert drawing.mask.sum() >= 3 and drawing.mask.mean() < 0.1
        step = np.abs(drawing.image.astype(int) - drawing.clean).max()
        assert step > synthetic.VISIBLE * 255


def test_a_pixel_is_defective_from_a_fifth_of_its_area_on(monkeypatch):
    def paint(rng, scene):
        cover = np.full(scene.image.shape[:2], 0.15, dtype=np.float32)
        cover[:, : cover.shape[1] // 2] = 0.25
        return 1 - scene.image, cover

    monkeypatch.setitem(synthetic.DEFECTS, KINDS[0], paint)
    mask = draw("nut", KINDS[0], 0, 32).mask
    assert mask[:, :16].all() and not mask[:, 16:].any()


@pytest.mark.parametrize("category", CATEGORIES)
def test_good_images_have_no_defect(category):
    drawing = draw(category, "good", 0, 32)
    assert np.array_equal(drawing.image, drawing.clean) and not drawing.mask.any()


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_geometry_is_the_same_at_every_size(category):
    small = draw(category, "train", 0, 64).image.astype(float)
    large = draw(category, "train", 0, 128).image.astype(float)
    reduced = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.97


def test_shapes_labels_and_levels(default):
    assert default.train.shape == (128, 3, 32, 32)
    assert default.test.shape == (84, 3, 32, 32) and len(default.kinds) == 84
    assert default.train.dtype == torch.float32 and default.masks.dtype == torch.bool
    levels = default.test * 255
    assert torch.equal(levels.round() / 255, default.test)
    is_good = torch.tensor([kind == "good" for kind in default.kinds])
    assert torch.equal(default.labels, ~is_good)
    assert torch.equal(default.masks.flatten(1).any(1), default.labels)
    assert default.name.startswith("synthetic/")


def test_brightness_is_a_shortcut_in_bolt_only(default):
    brightness = default.test.mean((1, 2, 3)).numpy()
    auroc = roc_auc_score(default.labels.numpy(), brightness)
    if default.name == "synthetic/bolt":
        assert auroc > 0.99  # like MVTec's screw: a lamp, not a defect
        assert default.test[~default.labels].mean() < default.train.mean() - 0.03
    else:
        assert 0.3 < auroc < 0.7


def test_a_per_pixel_gaussian_does_not_solve_it(default):
    mean, std = default.train.mean(0), default.train.std(0) + 0.01
    z = ((default.test - mean) / std).abs().mean(1)
    auroc = roc_auc_score(default.labels.numpy(), z.flatten(1).amax(1).numpy())
    assert auroc < 0.85


@pytest.mark.parametrize("category", CATEGORIES)
def test_files_hold_exactly_the_arrays(category, tmp_path):
    data = make(category, size=32, **SMALL)
    folder = write(tmp_path, category, size=32, **SMALL)
    assert folder == tmp_path / category
    train = [np.array(Image.open(p)) for p in sorted((folder / "train/good").iterdir())]
    assert torch.equal(as_tensor(train), data.train)
    seen: dict[str, int] = {}
    for image, mask, kind in zip(data.test, data.masks, data.kinds, strict=True):
        i = seen[kind] = seen.get(kind, -1) + 1
        stored = Image.open(folder / "test" / kind / f"{i:03d}.png")
        assert stored.mode == "RGB"
        assert torch.equal(as_tensor([np.array(stored)])[0], image)
        path = folder / "ground_truth" / kind / f"{i:03d}_mask.png"
        assert path.exists() == (kind != "good")
        if kind != "good":
            stored_mask = Image.open(path)
            assert stored_mask.mode == "L"
            assert np.array_equal(np.array(stored_mask), 255 * mask.numpy())
    assert {p.name for p in folder.iterdir()} == {"train", "test", "ground_truth"}


def as_tensor(images):
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


def test_an_empty_split_keeps_its_shape():
    data = make("nut", size=32, n_train=1, n_test=0, n_defective=0)
    assert data.test.shape == (0, 3, 32, 32) and data.masks.shape == (0, 32, 32)
    assert data.masks.dtype == torch.bool


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"category": "screw"}, "weave"),
        ({"size": 8}, "size"),
        ({"size": 64.5}, "size"),
        ({"n_train": -1}, "negative"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        make(**{"category": "nut", **SMALL, **options})


def test_unknown_kind_of_image():
    with pytest.raises(ValueError, match="scratch"):
        draw("nut", "crack", 0)
