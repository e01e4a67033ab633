"""Files and arrays become the right pixels, or an error that names the way out."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ebmlib.data.images import (
    ImageError,
    batches,
    count_images,
    image_size,
    images_to_tensor,
    list_images,
    read_image,
    read_mask,
    stored_channels,
)
from ebmlib.data.resizing import resize_area, resize_mask


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def as_tensor(pixels):
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)


# ---------------------------------------------------------------- the right pixels


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_lossless_formats_keep_every_value(tmp_path, suffix):
    pixels = random_pixels(7, 5, 3)
    path = save(tmp_path / f"a.{suffix}", pixels, lossless=True)
    image = read_image(path)
    assert image.dtype == torch.float32
    assert torch.equal(image, as_tensor(pixels))


def test_gray_file_fills_three_equal_channels(tmp_path):
    path = save(tmp_path / "a.png", random_pixels(4, 6))
    image = read_image(path, channels=3)
    assert image.shape == (3, 4, 6)
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    assert torch.equal(read_image(path, channels=1)[0], image[0])


def test_color_to_gray_is_bt601_luma(tmp_path):
    pixels = random_pixels(4, 6, 3)
    gray = read_image(save(tmp_path / "a.png", pixels), channels=1)[0]
    luma = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(gray, luma, atol=1e-6)


def test_sixteen_bit_gray_uses_the_sixteen_bit_range(tmp_path):
    values = np.array([[0, 1, 257, 32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        image = read_image(save(tmp_path / name, values), channels=1)
        np.testing.assert_allclose(image[0], values / 65535, atol=1e-7)


def write_png(path, values, color_type):
    """A 16-bit PNG by hand; Pillow reads the color kind but does not write it."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + (
            kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks))
    return path


def test_sixteen_bit_color_keeps_eight_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3))
    image = read_image(write_png(tmp_path / "a.png", values, 2))
    np.testing.assert_allclose(image.permute(1, 2, 0), values / 65535, atol=1 / 255)
    gray = read_image(write_png(tmp_path / "b.png", values[..., 0], 0), channels=1)
    np.testing.assert_allclose(gray[0], values[..., 0] / 65535, atol=1e-7)


@pytest.mark.parametrize("tag, value", [(262, 0), (258, 12)])
def test_sixteen_bit_tiff_of_another_meaning_is_refused(tmp_path, tag, value):
    values = np.arange(20, dtype=np.uint16).reshape(4, 5)
    path = save(tmp_path / "a.tif", values)
    data = bytearray(path.read_bytes())
    entry = data.index(struct.pack("<HHI", tag, 3, 1))
    data[entry + 8 : entry + 10] = struct.pack("<H", value)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.tif: gray of 12 bits, or"):
        read_image(path)


def test_one_bit_image(tmp_path):
    bits = np.array([[True, False], [False, True]])
    image = read_image(save(tmp_path / "a.png", bits), channels=1)
    assert torch.equal(image[0], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def test_palette_image_has_its_colors_not_its_indices(tmp_path):
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[0, 0], pixels[1, 2] = (255, 0, 0), (10, 200, 30)
    for name in ("a.png", "a.gif"):
        Image.fromarray(pixels).quantize(8).save(tmp_path / name)
        assert torch.equal(read_image(tmp_path / name), as_tensor(pixels))


def test_transparent_pixels_lie_over_white(tmp_path):
    rgba = random_pixels(5, 5, 4)
    image = read_image(save(tmp_path / "rgba.png", rgba))
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] / 255 * alpha + (1 - alpha)
    np.testing.assert_allclose(image.permute(1, 2, 0), expected, atol=1e-6)
    la = rgba[..., :2].copy()
    gray = read_image(save(tmp_path / "la.png", la), channels=1)[0]
    alpha = la[..., 1] / 255
    np.testing.assert_allclose(gray, la[..., 0] / 255 * alpha + 1 - alpha, atol=1e-6)


def test_opaque_alpha_changes_nothing(tmp_path):
    rgba = random_pixels(5, 5, 4)
    rgba[..., 3] = 255
    image = read_image(save(tmp_path / "a.png", rgba))
    assert torch.equal(image, as_tensor(rgba[..., :3]))


def test_palette_and_gray_with_a_transparent_entry(tmp_path):
    indices = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    indices.putpalette([200, 0, 0, 0, 0, 100])
    indices.save(tmp_path / "p.png", transparency=0)
    image = read_image(tmp_path / "p.png")
    assert image[:, 0, 0].tolist() == [1, 1, 1]
    assert image[:, 0, 1].tolist() == pytest.approx([0, 0, 100 / 255])
    save(tmp_path / "l.png", np.array([[7, 90]], dtype=np.uint8), transparency=7)
    gray = read_image(tmp_path / "l.png", channels=1)
    assert gray.flatten().tolist() == pytest.approx([1, 90 / 255])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = random_pixels(4, 6, 3)
    stored = {  # how a camera stores the upright picture under each orientation tag
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    assert torch.equal(read_image(path), as_tensor(upright))
    assert image_size(path) == (4, 6)


def test_a_camera_file_with_a_preview_is_its_photo(tmp_path):
    photo, preview = (Image.fromarray(random_pixels(n, n, 3)) for n in (16, 8))
    photo.save(tmp_path / "plain.jpg")
    photo.save(tmp_path / "mpo.jpg", "MPO", save_all=True, append_images=[preview])
    assert torch.equal(
        read_image(tmp_path / "mpo.jpg"), read_image(tmp_path / "plain.jpg")
    )


def test_thirty_thousand_pixels_wide(tmp_path):
    pixels = random_pixels(3, 30_000)
    path = save(tmp_path / "wide.png", pixels)
    assert torch.equal(read_image(path, channels=1), as_tensor(pixels))
    small = read_image(path, size=(1, 3), channels=1)
    means = pixels.reshape(3, 3, 10_000).mean((0, 2)) / 255
    np.testing.assert_allclose(small[0, 0], means, atol=1e-4)
    with pytest.raises(ImageError, match=r"wide\.png: 3 x 30000 .* 10000-fold; crop"):
        read_image(path, size=64)


# ---------------------------------------------------------------- clear errors


def write_cases(folder):
    """One file for each kind of badness: (path, what the message must say)."""
    pixels = random_pixels(16, 16, 3)
    save(folder / "whole.png", pixels)
    whole = (folder / "whole.png").read_bytes()
    (folder / "zero.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "flipped.png").write_bytes(
        whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
    )
    (folder / "text.png").write_text("hello, this is no image")
    (folder / "vector.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9"
    )
    Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels).convert("LAB").save(folder / "lab.tif")
    save(folder / "float.tif", pixels[..., 0].astype(np.float32))
    save(folder / "int32.tif", pixels[..., 0].astype(np.int32))
    frames = [Image.fromarray(random_pixels(8, 8, seed=s)) for s in range(3)]
    for name in ("moving.gif", "moving.png", "pages.tif", "moving.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    (folder / "folder.png").mkdir()
    (folder / "bomb.png").write_bytes(png_header(100_000, 100_000))
    (folder / "big.png").write_bytes(png_header(10_000, 10_000))
    return {
        "missing.png": "no such file",
        "zero.png": r"empty \(0 bytes\); copy it again",
        "cut.png": "damaged or truncated .*; copy it again",
        "flipped.png": "damaged or truncated",
        "text.png": "not an image, .*begins with b'hello, this ",
        "vector.png": "not an image, .*Readable formats: PNG",
        "cmyk.jpg": "color mode CMYK .*convert it to 8-bit RGB",
        "lab.tif": "color mode LAB",
        "float.tif": "color mode F ",
        "int32.tif": "color mode I ",
        "moving.gif": "3 frames .*save the frame you mean",
        "moving.png": "3 frames",
        "pages.tif": "3 frames",
        "moving.webp": "3 frames",
        "folder.png": "cannot be read",
        "bomb.png": "more than 89,478,485 pixels.*shrink it first",
        "big.png": "more than 89,478,485 pixels",
    }


def png_header(width, height):
    """A PNG that announces a size and holds almost nothing."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_every_bad_file_is_named_with_problem_and_way_out(tmp_path):
    for name, message in write_cases(tmp_path).items():
        for read in (read_image, read_mask):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(ImageError, match=message) as caught:
                    read(tmp_path / name)
            assert str(tmp_path / name) in str(caught.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "gif", "webp", "ppm"])
def test_no_truncation_ever_yields_wrong_pixels(tmp_path, suffix):
    whole = save(tmp_path / f"whole.{suffix}", random_pixels(12, 12))
    pixels, data = read_image(whole), whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    refused = 0
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        try:
            assert torch.equal(read_image(cut), pixels)
        except ImageError:
            refused += 1
    assert refused > 0


def test_no_flipped_bit_in_a_png_yields_wrong_pixels(tmp_path):
    whole = save(tmp_path / "whole.png", random_pixels(6, 6))
    pixels, data = read_image(whole), bytearray(whole.read_bytes())
    bad = tmp_path / "bad.png"
    for position in range(0, len(data), 2):
        flipped = data.copy()
        flipped[position] ^= 1 << (position % 8)
        bad.write_bytes(flipped)
        with contextlib.suppress(ImageError):
            assert torch.equal(read_image(bad), pixels)


@pytest.mark.parametrize("size", [0, -3, 2.5, (4,), (4, 0), "8"])
def test_size_must_be_pixels(tmp_path, size):
    path = save(tmp_path / "a.png", random_pixels(4, 4))
    with pytest.raises(ValueError, match="size must be"):
        read_image(path, size=size)


def test_channels_must_be_one_or_three(tmp_path):
    with pytest.raises(ValueError, match=r"channels must be 1 .* got 4"):
        read_image(save(tmp_path / "a.png", random_pixels(4, 4)), channels=4)


# ---------------------------------------------------------------- resizing


def literal_area_mean(pixels, height, width):
    """Slow and literal: enlarge so far that every new pixel is a whole block."""
    fine = pixels.repeat(height, axis=0).repeat(width, axis=1)
    blocks = fine.reshape(height, pixels.shape[0], width, pixels.shape[1], -1)
    return blocks.mean((1, 3))


@pytest.mark.parametrize("size", [(3, 5), (7, 4), (11, 13), (1, 1), (20, 16)])
def test_area_resizing_equals_the_literal_mean(size):
    pixels = random_pixels(10, 8, 3).astype(np.float32) / 255
    np.testing.assert_allclose(
        resize_area(pixels, size), literal_area_mean(pixels, *size), atol=2e-6
    )


def test_area_resizing_keeps_the_mean():
    pixels = random_pixels(90, 90, 1).astype(np.float32) / 255
    assert resize_area(pixels, 13).mean() == pytest.approx(pixels.mean(), abs=1e-6)


def test_a_finer_pattern_than_the_new_pixels_becomes_gray():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), 32)[None, :, None].repeat(64, 0)
    np.testing.assert_allclose(resize_area(stripes, 16), 0.5, atol=1e-6)


# ---------------------------------------------------------------- masks


def test_mask_majority_counts_one_half_as_defective():
    mask = np.zeros((8, 8), dtype=bool)
    mask[0:2, 0:1] = True  # half of new pixel (0, 0)
    mask[4, 4] = True  # a quarter of (2, 2)
    mask[6:8, 6:8] = True
    mask[6, 6] = False  # three quarters of (3, 3)
    small, vanished = resize_mask(mask, 4)
    assert np.argwhere(small).tolist() == [[0, 0], [3, 3]]
    assert vanished == [(4, 4, 1)]


@pytest.mark.parametrize("old, new", [(900, 128), (1024, 256), (700, 64), (10, 7)])
def test_mask_majority_equals_area_of_at_least_one_half(old, new):
    mask = np.zeros((old, old), dtype=bool)
    mask[old // 5 : old // 2, old // 3 : -old // 7] = True
    small, vanished = resize_mask(mask, new)
    share = resize_area(mask[..., None].astype(np.float32), new)[..., 0]
    assert vanished == []
    assert (small == (share > 0.4999)).all()


def test_vanished_regions_touch_diagonally_as_one():
    mask = np.zeros((40, 40), dtype=bool)
    mask[10, 10] = mask[11, 11] = True  # one region by the 8-neighborhood
    mask[30, 5] = True
    small, vanished = resize_mask(mask, 4)
    assert not small.any()
    assert sorted(area for _, _, area in vanished) == [1, 2]


def test_read_mask_warns_of_vanished_regions(tmp_path):
    pixels = np.zeros((32, 32), dtype=np.uint8)
    pixels[20, 9] = 255
    path = save(tmp_path / "a_mask.png", pixels)
    assert read_mask(path).sum() == 1
    with pytest.warns(UserWarning, match=r"1 defect region .* 1 px at \(20, 9\)"):
        assert not read_mask(path, 8).any()


@pytest.mark.parametrize("high", [1, 128, 255])
def test_a_mask_has_two_levels_whatever_the_high_one(tmp_path, high):
    pixels = np.array([[0, high], [high, 0]], dtype=np.uint8)
    mask = read_mask(save(tmp_path / "m.png", pixels))
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[False, True], [True, False]]


def test_gray_or_colored_masks_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"two levels, .* this one has 3"):
        read_mask(save(tmp_path / "g.png", np.array([[0, 9, 255]], dtype=np.uint8)))
    with pytest.raises(ImageError, match="has colors"):
        read_mask(save(tmp_path / "c.png", random_pixels(4, 4, 3)))
    with pytest.raises(ImageError, match="transparent pixels has no clear meaning"):
        read_mask(save(tmp_path / "t.png", random_pixels(4, 4, 4)))


# ---------------------------------------------------------------- folders and batches


def test_list_images_is_sorted_and_skips_what_is_no_image(tmp_path):
    for name in ("b.png", "a.PNG", "c.jpg", ".hidden.png", "._b.png"):
        save(tmp_path / name, random_pixels(2, 2), format="PNG")
    (tmp_path / "readme.txt").write_text("text")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path)] == ["a.PNG", "b.png", "c.jpg"]


def test_folder_without_images(tmp_path):
    with pytest.raises(ImageError, match="no images here"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match="no such folder"):
        list_images(tmp_path / "nothing")


def test_one_picture_is_the_same_from_every_kind_of_source(tmp_path):
    pixels = random_pixels(5, 9, 7, 3)
    for index, image in enumerate(pixels):
        save(tmp_path / f"{index:03d}.png", image)
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    sources = {
        "folder": tmp_path,
        "text": str(tmp_path),
        "files": list_images(tmp_path),
        "uint8 array": pixels,
        "float array": pixels.astype(np.float64) / 255,
        "uint8 tensor": channels_first,
        "float tensor": channels_first.float() / 255,
    }
    expected = channels_first.float() / 255
    for name, source in sources.items():
        found = list(batches(source, batch_size=2))
        assert [len(batch) for batch in found] == [2, 2, 1], name
        assert torch.allclose(torch.cat(found), expected, atol=1e-7), name
        assert count_images(source) == 5
        small = images_to_tensor(source, size=4, channels=1)
        assert small.shape == (5, 1, 4, 4)
        assert torch.allclose(
            small, images_to_tensor(expected, size=4, channels=1), atol=1e-6
        )


def test_folder_channels_follow_the_files(tmp_path):
    save(tmp_path / "a.png", random_pixels(4, 4))
    assert stored_channels(list_images(tmp_path)) == 1
    assert images_to_tensor(tmp_path).shape == (1, 1, 4, 4)
    save(tmp_path / "b.png", random_pixels(4, 4, 3))
    assert images_to_tensor(tmp_path).shape == (2, 3, 4, 4)
    assert images_to_tensor(tmp_path / "b.png").shape == (1, 3, 4, 4)


def test_batches_read_no_file_before_it_is_due(tmp_path):
    save(tmp_path / "000.png", random_pixels(4, 4))
    save(tmp_path / "001.png", random_pixels(4, 4))
    stream = batches(tmp_path, batch_size=1, channels=1)
    next(stream)
    (tmp_path / "001.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"001\.png: the file is empty"):
        next(stream)


def test_memory_mapped_and_reversed_arrays(tmp_path):
    pixels = random_pixels(3, 4, 5)
    np.save(tmp_path / "a.npy", pixels)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert torch.equal(images_to_tensor(mapped), images_to_tensor(pixels))
    assert torch.equal(images_to_tensor(pixels[::-1])[0], images_to_tensor(pixels)[2])


def test_gray_arrays_need_no_channel_axis():
    pixels = random_pixels(3, 4, 5)
    assert images_to_tensor(pixels).shape == (3, 1, 4, 5)


def test_mixed_sizes_need_a_size(tmp_path):
    save(tmp_path / "a.png", random_pixels(4, 4))
    save(tmp_path / "b.png", random_pixels(4, 5))
    with pytest.raises(ImageError, match=r"b\.png: 4 x 5, but a\.png is 4 x 4 .*size="):
        images_to_tensor(tmp_path)
    assert images_to_tensor(tmp_path, size=4).shape == (2, 1, 4, 4)


ARRAYS = {
    "0..255 floats": (torch.full((2, 3, 4, 4), 200.0), ImageError, "divide by 255"),
    "standardized": (torch.full((2, 3, 4, 4), -1.5), ImageError, "neither standard"),
    "nan": (torch.full((2, 3, 4, 4), float("nan")), ImageError, "image 0 .* NaN"),
    "empty": (torch.zeros(0, 3, 4, 4), ImageError, "no images"),
    "empty array": (np.zeros((0, 4, 4, 3), np.uint8), ImageError, "no images"),
    "empty list": ([], ImageError, "list of files is empty"),
    "one image": (torch.zeros(3, 4, 4), ValueError, r"got \(3, 4, 4\): .*images\[None"),
    "channels last": (torch.zeros(2, 4, 4, 3), ValueError, "permute"),
    "channels first": (np.zeros((2, 3, 4, 4)), ValueError, "torch.from_numpy"),
    "alpha": (np.zeros((2, 4, 4, 4), np.uint8), ValueError, "drop the alpha"),
    "integers": (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, "int64"),
    "bool": (np.zeros((2, 4, 4), bool), TypeError, "got bool"),
    "objects": ([torch.zeros(3, 4, 4)], TypeError, "torch.stack"),
    "number": (7, TypeError, "got int"),
    "no folder": ("not/there", ImageError, "no such folder"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_unusable_arrays_are_refused(name):
    source, error, message = ARRAYS[name]
    with pytest.raises(error, match=message):
        images_to_tensor(source)


def test_nan_is_located_across_batches():
    images = torch.zeros(7, 1, 2, 2)
    images[5, 0, 1, 1] = float("inf")
    with pytest.raises(ImageError, match="image 5 "):
        list(batches(images, batch_size=3))


def test_other_channel_counts_pass_but_do_not_convert():
    images = torch.rand(2, 5, 8, 8)
    assert torch.equal(images_to_tensor(images), images)
    assert images_to_tensor(images, size=4).shape == (2, 5, 4, 4)
    with pytest.raises(ValueError, match="5 channels, not 3"):
        images_to_tensor(images, channels=3)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0])
def test_batch_size_is_checked_at_once(batch_size):
    with pytest.raises(ValueError, match="batch_size must be"):
        batches(torch.zeros(2, 1, 4, 4), batch_size=batch_size)
