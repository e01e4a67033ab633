"""What a folder of good photographs holds that will hurt."""

import numpy as np
import pytest
from PIL import Image

from ebmlib.data.files import ImageError, list_images
from ebmlib.survey import in_subfolders, survey


def part(seed, side=96):
    """A drawn ring with a texture of its own, as uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    ring = np.abs(np.hypot(x, y) - 0.3) < 0.08
    return np.clip(60 + 100 * ring + 12 * rng.standard_normal(ring.shape), 1, 254)


@pytest.fixture
def folder(tmp_path):
    for seed in range(32):
        save(tmp_path / f"{seed:02}.png", part(seed))
    return tmp_path


def save(path, values, kind=np.uint8):
    white = np.iinfo(kind).max
    Image.fromarray(values.clip(0, white).astype(kind)).save(path)


def said(folder, **options):
    return survey(list_images(folder), 64, **options).warnings()


def test_healthy_photographs_need_no_word(folder):
    found = survey(list_images(folder), 64)
    assert found.warnings() == [] and len(found.paths) == 32
    assert dict(found.sizes) == {(96, 96): 32}


def test_few_photographs_are_said(folder):
    for path in list_images(folder)[5:]:
        path.unlink()
    (text,) = said(folder)
    assert text.startswith("5 photographs are few")


def test_copies_are_found_in_another_format_too(folder):
    save(folder / "copy.bmp", part(7))
    found = survey(list_images(folder), 64)
    ((one, other),) = found.duplicates
    assert one.endswith("07.png") and other.endswith("copy.bmp")
    assert found.near_duplicates == []
    (text,) = found.warnings()
    assert text.startswith("07.png and copy.bmp hold the same pixels")


def test_a_second_shot_of_one_part_is_a_near_duplicate(folder):
    noise = np.random.default_rng(99).standard_normal((96, 96))
    save(folder / "again.png", np.clip(1.05 * part(7) + noise, 0, 255))
    found = survey(list_images(folder), 64)
    ((one, other),) = found.near_duplicates
    assert one.endswith("07.png") and other.endswith("again.png")
    assert "almost the same pixels" in found.warnings()[0]


def test_other_sizes_are_listed(folder):
    save(folder / "large.png", part(50, side=128))
    (text,) = said(folder)
    assert "2 sizes (32 of 96 x 96, 1 of 128 x 128 px" in text


def test_what_is_overexposed_or_even_is_named(folder):
    save(folder / "white.png", part(51) + 170)
    save(folder / "cap.png", np.full((96, 96), 3))
    texts = said(folder)
    assert any(t.startswith("white.png holds far more pure white") for t in texts)
    assert any(t.startswith("cap.png holds nearly one even tone") for t in texts)


def test_a_background_of_pure_white_is_said_once(folder):
    for index, path in enumerate(list_images(folder)):
        values = part(index)
        values[:40] = 255
        save(path, values)
    (text,) = said(folder)
    assert text.startswith("42% of the pixels of the median photograph are pure white")


def test_twelve_bits_in_sixteen_are_said_unless_they_were_named(folder):
    for index, path in enumerate(list_images(folder)):
        save(path, part(index) * 16, np.uint16)
    (text,) = said(folder)
    assert text.endswith("give --bits 12")
    assert survey(list_images(folder), 64, 12).warnings(12) == []


def test_a_broken_file_is_named_or_skipped(folder):
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png: not an image"):
        survey(list_images(folder), 64)
    found = survey(list_images(folder), 64, skip_errors=True)
    ((name, problem),) = found.errors
    assert name.endswith("broken.png") and problem.startswith("not an image")
    with pytest.raises(ImageError, match="none of the 1 files could be read"):
        survey([folder / "broken.png"], 64, skip_errors=True)


def test_images_in_subfolders_are_counted(folder):
    (folder / "camera 2").mkdir()
    save(folder / "camera 2" / "a.png", part(0))
    assert in_subfolders(folder) == 1
