"""Files become the right pixels, or an error that names the way out."""

import contextlib
import io
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from ebmlib.data.images import (
    ImageError,
    image_size,
    images_to_tensor,
    read_image,
    read_mask,
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


# ---------------------------------------------------------------- bits of a camera


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_bits_say_what_white_is(tmp_path, name, bits):
    white = 2**bits - 1
    values = np.array([[0, 1, white // 2, white]], dtype=np.uint16)
    path = save(tmp_path / name, values)
    image = read_image(path, channels=1, bits=bits)
    np.testing.assert_allclose(image[0], values / white, atol=1e-7)
    assert torch.equal(
        read_image(path, channels=1), read_image(path, channels=1, bits=16)
    )


def test_a_value_above_white_is_an_error(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 4096]], dtype=np.uint16))
    with pytest.raises(ImageError, match=r"a\.png: holds the value 4096, above .*4095"):
        read_image(path, bits=12)


def test_bits_change_no_file_of_eight_bits(tmp_path):
    for suffix in ("png", "bmp", "tif", "webp", "ppm"):
        path = save(tmp_path / f"a.{suffix}", random_pixels(5, 6, 3), lossless=True)
        assert torch.equal(read_image(path, bits=12), read_image(path))


def test_a_pnm_file_says_itself_what_white_is(tmp_path):
    values = np.array([[0, 1, 2048, 4095]], dtype=">u2")
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 4 1 4095\n" + values.tobytes())
    image = read_image(path, channels=1, bits=12)
    np.testing.assert_allclose(image[0], values / 4095, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(images_to_tensor(path)[0], image)


def test_sixteen_bit_color_cannot_be_read_with_fewer_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (4, 5, 3))
    path = write_png(tmp_path / "a.png", values, 2)
    assert torch.equal(read_image(path, bits=16), read_image(path))
    with pytest.raises(ImageError, match=r"only the upper 8 bits .* 12-bit values"):
        read_image(path, bits=12)
    (tmp_path / "a.ppm").write_bytes(b"P6 5 4 65535\n" + values.astype(">u2").tobytes())
    for name in ("a.png", "a.ppm"):
        with pytest.warns(UserWarning, match="as 12-bit data in 16-bit files would"):
            images_to_tensor(tmp_path / name)


@pytest.mark.parametrize("bits", [0, 7, 17, 12.0, True, "12"])
def test_bits_are_a_number_from_8_to_16(tmp_path, bits):
    path = save(tmp_path / "a.png", random_pixels(4, 4))
    with pytest.raises(ValueError, match="bits must be a whole number from 8 to 16"):
        read_image(path, bits=bits)
    with pytest.raises(ValueError, match="bits must be a whole number from 8 to 16"):
        images_to_tensor(path, bits=bits)


def deep_folder(folder, top, *, count=4):
    """16-bit files of values from 0 to `top`."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        values = np.random.default_rng(index).integers(0, top + 1, (6, 7))
        values[0, 0] = top if index == 0 else 0
        save(folder / f"{index}.png", values.astype(np.uint16))
    return folder


@pytest.mark.parametrize(
    "top, likely",
    [(200, 8), (255, 8), (256, 10), (1023, 10), (4095, 12), (3900, 12), (16383, 14)],
)
def test_sixteen_bit_files_that_use_a_quarter_at_most_are_noticed(
    tmp_path, top, likely
):
    folder = deep_folder(tmp_path / "photos", top)
    with pytest.warns(UserWarning) as caught:
        images_to_tensor(folder)
    (warning,) = caught  # once for all files
    assert re.search(
        rf"no value above {top} of 65535 .*as {likely}-bit .*bits={likely} to make "
        rf"{2**likely - 1} white, or bits=16",
        str(warning.message),
    )


def test_nothing_is_noticed_where_white_is_known(tmp_path):
    folder = deep_folder(tmp_path / "photos", 4095)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = images_to_tensor(folder, bits=12)
        images_to_tensor(folder, bits=16)
        read_image(folder / "0.png")  # one image may be dark
        save(folder / "bright.png", np.array([[16384] * 7] * 6, dtype=np.uint16))
        assert images_to_tensor(folder).shape == (5, 1, 6, 7)
        save(tmp_path / "dark.png", np.full((4, 4), 3, dtype=np.uint8))  # 8 bits
        images_to_tensor(tmp_path)
    assert images.max() == 1


# ---------------------------------------------------------------- other kinds of files


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


# Every way to store a picture, and the options that write it.
STORED = {
    "png": ("a.png", {}),
    "tiff": ("a.tif", {}),
    "tiff, packed": ("a.tif", {"compression": "tiff_lzw"}),
    "tiff, as jpeg": ("a.tif", {"compression": "jpeg"}),
    "webp": ("a.webp", {"lossless": True}),
    "jpeg": ("a.jpg", {"quality": 95}),
    "mpo": ("a.jpg", {"format": "MPO"}),
    "bmp": ("a.bmp", {}),
    "gif": ("a.gif", {}),
    "ppm": ("a.ppm", {}),
}
NO_EXIF = ("bmp", "gif", "ppm")
DEEP = ("png", "tiff", "tiff, packed")  # 16 bits
TURNED = {  # from what is stored to what is upright, as (H, W) moves
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}
STORED_AS = [
    *((kind, "color") for kind in STORED),
    *((kind, "gray") for kind in STORED),
    *((kind, "16 bits") for kind in DEEP),
]


def save_turned(path, pixels, tag, **options):
    """Save with an orientation, also one that the writer of TIFF refuses."""
    exif = Image.Exif()
    exif[0x0112] = tag if 1 <= tag <= 8 else 2
    save(path, pixels, exif=exif, **options)
    if exif[0x0112] != tag:
        data = bytearray(path.read_bytes())
        for order in "<>":
            entry = data.find(struct.pack(f"{order}HHI", 0x0112, 3, 1))
            if entry >= 0:
                data[entry + 8 : entry + 10] = struct.pack(f"{order}H", tag)
        if path.suffix == ".png":
            fix_checksums(data)
        path.write_bytes(data)
    return path


def fix_checksums(data):
    """Those of all chunks of a PNG, in place."""
    start = 8
    while start < len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        end = start + 8 + length
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
        start = end + 4


@pytest.mark.parametrize("tag", [*range(10), 99])
@pytest.mark.parametrize("kind, dtype", STORED_AS)
def test_exif_orientation_is_applied_once(tmp_path, kind, dtype, tag):
    pixels = random_pixels(16, 24, 3)
    if dtype == "gray":
        pixels = pixels[..., 0]
    elif dtype == "16 bits":
        pixels = pixels[..., 0].astype(np.uint16) * 257
    name, options = STORED[kind]
    plain = read_image(save(tmp_path / f"plain_{name}", pixels, **options))
    path = save_turned(tmp_path / name, pixels, tag, **options)
    if kind not in NO_EXIF:
        assert Image.open(path).getexif()[0x0112] == tag
    turn = TURNED.get(tag) if kind not in NO_EXIF else None
    expected = plain.permute(1, 2, 0).numpy()
    expected = turn(expected) if turn else expected
    image = read_image(path)
    assert np.array_equal(image.permute(1, 2, 0), expected)
    assert image_size(path) == tuple(image.shape[1:])
    assert torch.equal(images_to_tensor(Image.open(path), channels=3)[0], image)


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("kind", ["tiff", "tiff, packed", "webp", "jpeg", "png"])
def test_an_orientation_in_xmp_turns_no_image_a_second_time(tmp_path, kind, tagged):
    """Photo editors write both; without the EXIF tag, the versions of Pillow differ."""
    pixels = random_pixels(16, 24, 3)
    packet = b'<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'
    name, options = STORED[kind]
    plain = read_image(save(tmp_path / f"plain_{name}", pixels, **options))
    options = dict(options, exif=Image.Exif()) if tagged else dict(options)
    if tagged:
        options["exif"][0x0112] = 6
    if kind == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode())
    elif kind.startswith("tiff"):
        options["tiffinfo"] = {700: packet} | ({0x0112: 6} if tagged else {})
    else:
        options["xmp"] = packet
    path = save(tmp_path / name, pixels, **options)
    image = read_image(path)
    assert image_size(path) == tuple(image.shape[1:])
    turned = torch.from_numpy(np.rot90(plain, -1, (1, 2)).copy())
    assert torch.equal(image, turned) or (not tagged and torch.equal(image, plain))


def shape_or_error(measure, path):
    try:
        return tuple(measure(path))
    except ImageError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:.*EXIF", "ignore:Metadata", "ignore:Truncated")
@pytest.mark.parametrize("field", range(1, 13))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_an_orientation_of_another_type_means_one_shape(tmp_path, name, field):
    """Field types of TIFF: 1 byte, 2 text, 4 long, 5 fraction ... 12 double."""
    path = save_turned(tmp_path / name, random_pixels(16, 24, 3), 6)
    data = bytearray(path.read_bytes())
    for order in "<>":
        entry = data.find(struct.pack(f"{order}HHI", 0x0112, 3, 1))
        if entry >= 0:
            data[entry + 2 : entry + 4] = struct.pack(f"{order}H", field)
    if name.endswith("png"):
        fix_checksums(data)
    path.write_bytes(data)
    read = shape_or_error(lambda path: read_image(path).shape[1:], path)
    assert shape_or_error(image_size, path) == read


@pytest.mark.filterwarnings("ignore:.*EXIF")
def test_a_damaged_exif_block_is_said_by_both(tmp_path):
    exif = b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"
    path = save(tmp_path / "a.jpg", random_pixels(16, 24, 3), exif=exif)
    read = shape_or_error(lambda path: read_image(path).shape[1:], path)
    assert shape_or_error(image_size, path) == read


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


@pytest.mark.filterwarnings("ignore:Image size")
def test_reading_changes_no_warning_filter(tmp_path, monkeypatch):
    """`warnings.catch_warnings` changes those of all threads."""
    write_cases(tmp_path)
    monkeypatch.setattr(warnings, "catch_warnings", None)
    for name in ("bomb.png", "big.png"):
        with pytest.raises(ImageError, match="more than 89,478,485 pixels"):
            read_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Image size")
def test_the_limit_of_pixels_is_pillows(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", random_pixels(10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path).shape == (3, 10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(ImageError, match="more than 99 pixels"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).shape == (3, 10, 10)


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


BAD_SIZES = [
    *(0, -3, 2.5, 32.9, 16.0, True, "8"),
    *((4,), (4, 0), (4, 5.0), (True, 4), (4, 5, 6)),
]


@pytest.mark.parametrize("size", BAD_SIZES)
def test_size_must_be_pixels(tmp_path, size):
    path = save(tmp_path / "a.png", random_pixels(4, 4))
    with pytest.raises(ValueError, match="size must be a positive whole number"):
        read_image(path, size=size)
    with pytest.raises(ValueError, match="size must be a positive whole number"):
        images_to_tensor(path, size=size)


def test_a_size_is_one_side_or_height_and_width(tmp_path):
    path = save(tmp_path / "a.png", random_pixels(12, 20, 3))
    assert read_image(path, size=8).shape == (3, 8, 8)
    assert read_image(path, size=(6, 10)).shape == (3, 6, 10)
    assert read_image(path, size=[6, 10]).shape == (3, 6, 10)
    assert read_image(path, size=np.int64(8)).shape == (3, 8, 8)


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
