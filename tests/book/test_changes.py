"""Facts about benchmarks/changes.py: what is changed, and what is left alone."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ebmlib.data import Category, load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def changes():
    path = ROOT / "benchmarks" / "changes.py"
    spec = importlib.util.spec_from_file_location("changes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nut() -> Category:
    return load("synthetic/nut", size=32)


def small(kinds: list[str], train: int = 20) -> Category:
    """Images of constant gray value: 0 to train, then 1/100 for each test image."""
    count = len(kinds)
    gray = torch.arange(1, count + 1).float().div(100)[:, None, None, None]
    labels = torch.tensor([kind != "good" for kind in kinds])
    masks = torch.zeros(count, 8, 8, dtype=torch.bool)
    masks[labels, 2:4, 2:4] = True
    test = gray.expand(count, 1, 8, 8).contiguous()
    return Category("mvtec/x", torch.zeros(train, 1, 8, 8), test, labels, masks, kinds)


def test_every_change_leaves_its_argument_as_it_is(changes, nut):
    before = [nut.train.clone(), nut.test.clone(), nut.masks.clone()]
    for change in changes.CHANGES.values():
        changed = change(nut)
        assert not torch.equal(changed.test, nut.test)
        assert changed.name == nut.name and changed.image_shape == nut.image_shape
        assert all(map(torch.equal, before, (nut.train, nut.test, nut.masks)))
        assert changed.test.min() >= 0 and changed.test.max() <= 1


def test_only_contamination_changes_the_training_images(changes, nut):
    differs = {
        name: not torch.equal(change(nut).train, nut.train)
        for name, change in changes.CHANGES.items()
    }
    assert [name for name, differ in differs.items() if differ] == ["contaminated"]


def test_light_multiplies_and_clips(changes, nut):
    brighter = changes.CHANGES["light+10"](nut)
    torch.testing.assert_close(brighter.test, (nut.test * 1.1).clamp(max=1))
    darker = changes.CHANGES["light-10"](nut)
    torch.testing.assert_close(darker.test, nut.test * 0.9)
    assert torch.equal(darker.masks, nut.masks)


def test_a_shift_moves_images_and_masks_together(changes, nut):
    moved = changes.shift(nut, 4)
    assert torch.equal(moved.test[..., 4:, 4:], nut.test[..., :-4, :-4])
    assert torch.equal(moved.masks[:, 4:, 4:], nut.masks[:, :-4, :-4])
    assert torch.equal(
        moved.test[..., :4, 4:],
        nut.test[..., :1, :-4].expand_as(moved.test[..., :4, 4:]),
    )
    back = changes.shift(moved, -4)
    assert torch.equal(back.test[..., :-4, :-4], nut.test[..., :-4, :-4])


def test_jpeg_changes_little_and_keeps_a_constant_image(changes, nut):
    stored = changes.CHANGES["jpeg75"](nut)
    distance = (stored.test - nut.test).abs().mean()
    assert 0 < distance < 0.03
    gray = small(["good", "cut"])
    again = changes.jpeg(gray, 75)
    assert (again.test - gray.test).abs().max() <= 1.5 / 255


def test_contamination_takes_defects_of_every_kind_in_turn(changes):
    kinds = ["good", "cut", "cut", "cut", "hole", "hole", "hole"]
    category = small(kinds, train=40)
    changed = changes.contaminate(category, 0.1)
    assert changed.kinds == ["good", "cut", "hole"]
    assert torch.equal(changed.test, category.test[[0, 3, 6]])
    inside = changed.train[:, 0, 0, 0]
    assert inside.nonzero().flatten().tolist() == [5, 15, 25, 35]
    expected = category.test[[1, 4, 2, 5], 0, 0, 0]
    assert torch.equal(inside[inside > 0], expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("light", 0.0, "factor must be positive"),
        ("shift", 8, "cannot move by 8 px"),
        ("jpeg", 96, "quality must be between 1 and 95"),
        ("contaminate", 1.0, r"share must be in \(0, 1\)"),
        ("contaminate", 0.1, "one must stay"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, name, value, message):
    with pytest.raises(ValueError, match=message):
        getattr(changes, name)(small(["good", "cut", "cut"]), value)
