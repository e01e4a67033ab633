"""Images from files, arrays, Pillow and PyTorch: the same pixels, or a clear error."""

import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ebmlib.data.images import (
    ImageError,
    ImageStream,
    batches,
    check_contrast,
    images_to_tensor,
    list_images,
    stored_channels,
)
from ebmlib.data.threads import READ_AHEAD, THREADS, ordered_map


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def save_all(folder, pixels):
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(pixels):
        save(folder / f"{index:03d}.png", image)
    return folder


class Items(Dataset):
    """A Dataset of the items of a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def as_list(batch):
    """A collate function for images of several sizes: it joins nothing."""
    return batch


def as_columns(batch):
    """The collate function of detection models."""
    return tuple(zip(*batch, strict=True))


# ---------------------------------------------------------------- folders


def test_list_images_is_sorted_and_skips_what_is_no_image(tmp_path):
    for name in ("b.png", "a.PNG", "c.jpg", ".hidden.png", "._b.png"):
        save(tmp_path / name, random_pixels(2, 2), format="PNG")
    (tmp_path / "readme.txt").write_text("text")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path)] == ["a.PNG", "b.png", "c.jpg"]


def test_a_path_without_images_says_why(tmp_path):
    file = save(tmp_path / "a.png", random_pixels(2, 2))
    (tmp_path / "empty").mkdir()
    for call in (list_images, images_to_tensor):
        with pytest.raises(ImageError, match="empty: no images here"):
            call(tmp_path / "empty")
        with pytest.raises(ImageError, match=r"b: no such file or folder$"):
            call(tmp_path / "b")
        with pytest.raises(ImageError, match="expanduser"):
            call("~/photos")
        with pytest.raises(ImageError, match="a pattern is not expanded"):
            call("photos/*.png")
    with pytest.raises(ImageError, match=r"a\.png: a file; pass the folder"):
        list_images(file)
    with pytest.raises(ImageError, match="the path is empty"):
        images_to_tensor("")
    with pytest.raises(ImageError, match="a folder, not an image file"):
        images_to_tensor([tmp_path])


def test_folder_channels_follow_the_files(tmp_path):
    save(tmp_path / "a.png", random_pixels(4, 4))
    assert stored_channels(list_images(tmp_path)) == 1
    assert images_to_tensor(tmp_path).shape == (1, 1, 4, 4)
    save(tmp_path / "b.png", random_pixels(4, 4, 3))
    assert images_to_tensor(tmp_path).shape == (2, 3, 4, 4)
    assert images_to_tensor(tmp_path / "b.png").shape == (1, 3, 4, 4)


# ---------------------------------------------------------------- every kind of source


def sources_of(folder, pixels):
    """The same images (N, H, W, C) from every kind of source."""
    first = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels first
    flat = pixels if pixels.shape[3] == 3 else pixels[..., 0]
    pictures = [Image.fromarray(image) for image in flat]
    files = list_images(save_all(folder, flat))
    pairs = [(image, 7) for image in first]
    return {
        "folder": folder,
        "text": str(folder),
        "files": files,
        "files as a tuple of text": tuple(map(str, files)),
        "uint8 array": flat,
        "array with channels": pixels,
        "float array": flat.astype(np.float64) / 255,
        "big-endian float array": (flat / 255).astype(">f4"),
        "uint16 array": flat.astype(np.uint16) * 257,
        "big-endian uint16 array": (flat.astype(np.uint16) * 257).astype(">u2"),
        "uint8 tensor": first,
        "uint16 tensor": (first.int() * 257).to(torch.uint16),
        "float tensor": first.float() / 255,
        "double tensor": first.double() / 255,
        "tensor with a gradient": (first.float() / 255).requires_grad_(),
        "list of arrays": list(flat),
        "list of tensors": list(first),
        "list of Pillow images": pictures,
        "list of Pillow images of files": [Image.open(path) for path in files],
        "mixed list": [files[0], flat[1], first[2], pictures[3], str(files[4])],
        "Dataset": Items(list(first)),
        "Dataset of Pillow images": Items(pictures),
        "Dataset with labels": Items(pairs),
        "Dataset of paths": Items([(path, "good") for path in files]),
        "TensorDataset": TensorDataset(first.float() / 255, torch.arange(len(first))),
        "IterableDataset": Stream(list(first)),
        "IterableDataset with labels": Stream(pairs),
        "DataLoader": DataLoader(Items(list(first)), batch_size=3),
        "DataLoader, one by one": DataLoader(Items(list(first))),
        "DataLoader, all at once": DataLoader(Items(list(first)), batch_size=99),
        "DataLoader with labels": DataLoader(Items(pairs), batch_size=2),
        "DataLoader without batches": DataLoader(Items(pairs), batch_size=None),
        "DataLoader of lists": DataLoader(Items(pairs), 2, collate_fn=as_list),
        "DataLoader of columns": DataLoader(Items(pairs), 2, collate_fn=as_columns),
        "DataLoader of an IterableDataset": DataLoader(Stream(pairs), 4),
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_the_same_from_every_kind_of_source(tmp_path, channels):
    pixels = random_pixels(5, 9, 7, channels)
    sources = sources_of(tmp_path, pixels)
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    other = 4 - channels
    small = images_to_tensor(expected, size=4, channels=other)
    wide = images_to_tensor(expected, size=(3, 5))
    for name, source in sources.items():
        found = list(batches(source, batch_size=2))
        assert [len(batch) for batch in found] == [2, 2, 1], name
        assert all(batch.dtype == torch.float32 for batch in found), name
        assert not any(batch.requires_grad for batch in found), name
        assert torch.allclose(torch.cat(found), expected, atol=1e-7), name
        assert torch.equal(images_to_tensor(source), torch.cat(found)), name
        again = images_to_tensor(source, size=4, channels=other)
        assert again.shape == (5, other, 4, 4)
        assert torch.allclose(again, small, atol=1e-6), name
        again = images_to_tensor(source, size=(3, 5))
        assert torch.allclose(again, wide, atol=1e-6), name


def test_one_image_alone_is_one_image(tmp_path):
    color, gray = random_pixels(9, 7, 3), random_pixels(9, 7)
    expected = torch.from_numpy(color).permute(2, 0, 1)[None].float() / 255
    path = save(tmp_path / "a.png", color)
    for source in (
        *(path, str(path), [path], color, color[None], color / 255, [color]),
        *(expected, expected[0], [expected[0]], Image.fromarray(color)),
        *(Image.open(path), Items([color]), DataLoader(Items([expected[0]]))),
    ):
        found = images_to_tensor(source)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-7)
    expected = torch.from_numpy(gray)[None, None].float() / 255
    for source in (
        *(gray, gray[..., None], gray[None], gray[None, ..., None], [gray], gray / 255),
        *(expected, expected[0], expected[0, 0], [expected[0, 0]]),
        *(Image.fromarray(gray), Items([gray]), Items([gray[..., None]])),
    ):
        found = images_to_tensor(source)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-7)


def test_pillow_images_follow_the_rules_of_files(tmp_path):
    rgba = random_pixels(5, 6, 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    cases = {
        "transparent.png": Image.fromarray(rgba),
        "palette.png": Image.fromarray(rgba[..., :3]).quantize(8),
        "bits.png": Image.fromarray(rgba[..., 0] > 100),
        "luminance.png": Image.fromarray(rgba[..., :2].copy()),
        "deep.png": Image.fromarray(rgba[..., 0].astype(np.uint16) * 257),
    }
    for name, image in cases.items():
        image.save(tmp_path / name, exif=exif)
        read = images_to_tensor(tmp_path / name)
        assert torch.equal(images_to_tensor(Image.open(tmp_path / name)), read)
        assert torch.equal(images_to_tensor(image), read.rot90(1, (2, 3)))  # no tag
    loaded = Image.open(tmp_path / "palette.png")
    loaded.load()
    before = loaded.copy()
    images_to_tensor(loaded)
    assert loaded.size == before.size and loaded.mode == before.mode
    assert loaded.tobytes() == before.tobytes()
    with pytest.raises(ImageError, match="image 1: color mode CMYK"):
        images_to_tensor([before, before.convert("CMYK")])
    with pytest.raises(ImageError, match="image 0: color mode F"):
        images_to_tensor(Image.fromarray(np.zeros((4, 4), np.float32)))


def test_masks_beside_the_images_are_not_read():
    images = torch.rand(4, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    pairs = Items([(image, torch.ones_like(image)) for image in images])
    for source in (
        pairs,
        TensorDataset(images, torch.ones_like(images)),
        DataLoader(pairs, 2),
        DataLoader(pairs, None),
        *(DataLoader(pairs, 2, collate_fn=join) for join in (as_list, as_columns)),
        DataLoader(pairs, 1, collate_fn=lambda batch: batch[0]),
    ):
        assert torch.equal(images_to_tensor(source), images)


def test_memory_mapped_and_reversed_arrays(tmp_path):
    pixels = random_pixels(5, 4, 6)
    np.save(tmp_path / "a.npy", pixels)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert torch.equal(images_to_tensor(mapped), images_to_tensor(pixels))
    assert torch.equal(images_to_tensor(pixels[::-1])[0], images_to_tensor(pixels)[4])


def test_the_source_is_not_changed():
    pixels = torch.rand(3, 1, 8, 8)
    kept = pixels.clone()
    images_to_tensor(pixels).mul_(0)
    images_to_tensor(pixels[0]).mul_(0)
    assert torch.equal(pixels, kept)
    array = pixels.numpy()[:, 0]
    images_to_tensor(array[0]).mul_(0)
    assert torch.equal(pixels, kept)


# ---------------------------------------------------------------- what could mean two


TWO_MEANINGS = {  # what was meant -> how the message says to write it
    "three gray images, or channels first": (
        np.zeros((3, 8, 9), np.uint8),
        {
            "images[..., None]": (3, 1, 8, 9),
            "images.transpose(1, 2, 0)[None]": (1, 3, 8, 9),
        },
    ),
    "one image with alpha, or gray images": (
        np.zeros((8, 9, 4), np.uint8),
        {"images[..., :3]": (1, 3, 8, 9), "images[..., None]": (8, 1, 9, 4)},
    ),
    "gray image with alpha, or gray images": (
        np.zeros((8, 9, 2), np.uint8),
        {"images[..., :1]": (1, 1, 8, 9), "images[..., None]": (8, 1, 9, 2)},
    ),
    "gray tensors, or one image of 8 channels": (
        torch.zeros(8, 9, 10),
        {"images[:, None]": (8, 1, 9, 10), "images[None]": (1, 8, 9, 10)},
    ),
    "one tensor with channels last": (
        torch.zeros(8, 9, 3),
        {"images.permute(2, 0, 1)": (1, 3, 8, 9)},
    ),
    "tensors with channels last": (
        torch.zeros(2, 8, 9, 3),
        {"images.permute(0, 3, 1, 2)": (2, 3, 8, 9)},
    ),
    "arrays with channels first": (
        np.zeros((2, 3, 8, 9)),
        {"torch.from_numpy(images)": (2, 3, 8, 9)},
    ),
    "arrays with alpha": (
        np.zeros((2, 8, 9, 4), np.uint8),
        {"images[..., :3]": (2, 3, 8, 9)},
    ),
}


@pytest.mark.parametrize("name", TWO_MEANINGS)
def test_a_shape_with_two_meanings_says_how_to_write_each(name):
    images, meanings = TWO_MEANINGS[name]
    with pytest.raises(ValueError) as caught:
        images_to_tensor(images)
    for expression, shape in meanings.items():
        assert expression in str(caught.value)
        meant = eval(expression, {"images": images, "torch": torch})
        assert images_to_tensor(meant).shape == shape


def test_gray_arrays_need_no_channel_axis():
    for count in (1, 2, 4, 5, 64):
        pixels = random_pixels(count, 8, 9)
        assert images_to_tensor(pixels).shape == (count, 1, 8, 9)


REFUSED = {
    "0..255 floats": (torch.full((2, 3, 4, 4), 200.0), ImageError, "divide by 255"),
    "standardized": (torch.full((2, 3, 4, 4), -1.5), ImageError, "neither standard"),
    "nan": (torch.full((2, 3, 4, 4), float("nan")), ImageError, "image 0: .* NaN"),
    "empty": (torch.zeros(0, 3, 4, 4), ImageError, "no images"),
    "no pixels": (torch.zeros(2, 3, 0, 4), ImageError, "no images"),
    "empty array": (np.zeros((0, 4, 4, 3), np.uint8), ImageError, "no images"),
    "empty list": ([], ImageError, "the list is empty"),
    "empty Dataset": (Items([]), ImageError, "the Dataset is empty"),
    "empty IterableDataset": (Stream([]), ImageError, "no images"),
    "empty DataLoader": (DataLoader(Items([]), 2), ImageError, "no images"),
    "five axes": (torch.zeros(1, 2, 3, 4, 4), ValueError, "it has 5 axes"),
    "one axis": (np.zeros(4), ValueError, "it has 1 axes"),
    "integers": (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, "got int64"),
    "short integers": (np.zeros((2, 4, 4), np.int16), TypeError, "got int16"),
    "bool": (np.zeros((5, 4, 4), bool), TypeError, "got bool"),
    "complex": (torch.zeros(2, 3, 4, 4, dtype=torch.cfloat), TypeError, "complex64"),
    "text in an array": (np.array(["a.png"]), TypeError, "got <U5"),
    "number": (7, TypeError, "got int"),
    "none": (None, TypeError, "got NoneType"),
    "bytes": (b"a.png", TypeError, "got bytes"),
    "generator": ((path for path in ["a.png"]), TypeError, r"pass a list|Pass a list"),
    "set": ({"a.png"}, TypeError, "Pass a list"),
    "dict": ({"a": "a.png"}, TypeError, "got dict"),
    "list of numbers": ([[0.5, 0.5]], TypeError, "item 0 of the list: .* got list"),
    "list of batches": ([torch.zeros(2, 3, 4, 4)], ValueError, "torch.cat"),
    "image and label": ((torch.zeros(3, 4, 4), 0), TypeError, "item 1 .* got int"),
    "list with a wrong type": ([np.zeros((4, 4), int)], TypeError, "item 0 .*int64"),
    "list of channels first": ([np.zeros((3, 4, 4))], ValueError, "item 0 of the list"),
    "items of numbers": (Items([7]), TypeError, "image 0: .* got int"),
    "labels first": (Items([(7, torch.zeros(1, 4, 4))]), TypeError, "got int"),
    "items of dicts": (Items([{"image": 7}]), TypeError, "tuples that begin with one"),
    "batches of dicts": (DataLoader(Items([{"a": 7}])), TypeError, "got dict"),
    "batches of planes": (
        DataLoader(Items([torch.zeros(4, 4)] * 3), 3),
        ValueError,
        r"got \(3, 4, 4\).*gray ones with C = 1",
    ),
    "0..255 floats of a DataLoader": (
        DataLoader(Items([torch.full((3, 4, 4), 200.0)] * 3), 3),
        ImageError,
        "divide by 255",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused(name):
    source, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        images_to_tensor(source)


def test_a_dataset_without_length_is_refused():
    class Endless(Dataset):
        def __getitem__(self, index):
            return torch.zeros(1, 4, 4)

    with pytest.raises(TypeError, match="has no length"):
        images_to_tensor(Endless())


def test_nan_is_located_across_batches():
    images = torch.zeros(7, 1, 2, 2)
    images[5, 0, 1, 1] = float("inf")
    for source in (images, list(images), Items(list(images))):
        with pytest.raises(ImageError, match="image 5: "):
            list(batches(source, batch_size=3))
    with pytest.raises(ImageError, match="image 5: "):
        list(batches(DataLoader(Items(list(images)), 4), batch_size=3))


def test_other_channel_counts_pass_but_do_not_convert():
    images = torch.rand(2, 5, 8, 8)
    assert torch.equal(images_to_tensor(images), images)
    assert torch.equal(images_to_tensor(list(images)), images)
    assert images_to_tensor(images, size=4).shape == (2, 5, 4, 4)
    with pytest.raises(ValueError, match="5 channels, not 3"):
        images_to_tensor(images, channels=3)


OPTIONS = [
    *({"batch_size": value} for value in (0, -1, 2.0, True)),
    *({"channels": value} for value in (0, 2, 4, True)),
    *({"size": value} for value in (0, -3, 32.9, True, (4,), "8")),
    *({"bits": value} for value in (4, 12.0, True)),
    {"on_error": "ignore"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_are_checked_at_once(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be"):
        ImageStream(torch.zeros(2, 1, 4, 4), **options)


# ---------------------------------------------------------------- gray beside color


def test_gray_beside_color_becomes_color(tmp_path):
    gray, color = random_pixels(6, 7), random_pixels(6, 7, 3)
    files = [save(tmp_path / "a.png", gray), save(tmp_path / "b.png", color)]
    pictures = [Image.fromarray(gray), Image.fromarray(color)]
    sources = [tmp_path, files, [gray, color], pictures, [files[0], color]]
    sources += [Items([color, gray]), DataLoader(Items(pictures[::-1]), None)]
    for source in sources:
        images = images_to_tensor(source)
        assert images.shape == (2, 3, 6, 7)
        if isinstance(source, (Dataset, DataLoader)):
            images = images.flip(0)  # color came first
        assert torch.equal(images[0], images_to_tensor(gray, channels=3)[0])
        assert torch.equal(images[1], images_to_tensor(color)[0])
    late = Items([gray, color])  # known only when it is read
    with pytest.raises(
        ImageError, match="image 1: 3 channels, but image 0 has 1; pass"
    ):
        images_to_tensor(late)
    assert images_to_tensor(late, channels=3).shape == (2, 3, 6, 7)


# ---------------------------------------------------------------- sizes


def test_mixed_sizes_need_a_size(tmp_path):
    sizes = [(4, 4), (4, 5), (6, 3)]
    arrays = [random_pixels(*size, seed=i) for i, size in enumerate(sizes)]
    files = list_images(save_all(tmp_path, arrays))
    loader = DataLoader(Items(arrays), batch_size=2, collate_fn=as_list)
    for source in (files, arrays, Items(arrays), loader):
        with pytest.raises(
            ImageError, match=r": 4 x 5, but .* is 4 x 4 \(height x width\); .*size="
        ):
            images_to_tensor(source)
        batch = ImageStream(source, size=4).read()
        assert batch.images.shape == (3, 1, 4, 4)
        assert batch.sizes == sizes
        for image, array in zip(batch.images, arrays, strict=True):
            assert torch.equal(image, images_to_tensor(array, size=4)[0])


def test_a_square_size_does_not_squeeze(tmp_path):
    wide = random_pixels(4, 20)
    for source in (save(tmp_path / "wide.png", wide), wide, [wide], Items([wide])):
        with pytest.raises(ImageError, match=r"4 x 20 .* changes its shape 5-"):
            images_to_tensor(source, size=8)
        assert images_to_tensor(source, size=(8, 8)).shape == (1, 1, 8, 8)


# ---------------------------------------------------------------- names, broken images


def test_a_stream_names_its_images_and_tells_their_sizes(tmp_path):
    files = list_images(save_all(tmp_path, random_pixels(5, 6, 8)))
    stream = ImageStream(tmp_path, size=3, batch_size=2)
    assert stream.count == 5
    for _ in range(2):  # every loop reads anew
        parts = list(stream)
        assert [part.names for part in parts] == [
            [str(path) for path in files[at : at + 2]] for at in (0, 2, 4)
        ]
        assert [part.sizes for part in parts] == [[(6, 8)] * n for n in (2, 2, 1)]
    mixed = ImageStream([files[0], random_pixels(6, 8)]).read()
    assert mixed.names == [str(files[0]), "image 1"]
    arrays = ImageStream(random_pixels(5, 6, 8), batch_size=2)
    assert [part.names[0] for part in arrays] == ["image 0", "image 2", "image 4"]


def broken_sources(folder):
    """Four images of which the second and the last cannot be read, from each kind."""
    pixels = random_pixels(4, 6, 8)
    files = list_images(save_all(folder, pixels))
    files[1].write_bytes(b"")
    files[3].write_text("no image")
    floats = torch.from_numpy(pixels)[:, None] / 255
    floats[1, 0, 2, 2], floats[3] = float("nan"), 9
    broken = [pixels[0], OSError("broken stream"), pixels[2], ValueError("no image")]
    good = images_to_tensor(pixels[[0, 2]])
    by_number = ["image 1", "image 3"]
    by_path = [str(files[1]), str(files[3])]
    yield folder, by_path, good
    yield files, by_path, good
    yield floats, by_number, good
    yield floats[:, 0].numpy(), by_number, good
    yield list(floats), by_number, good
    yield Items(broken), by_number, good
    yield Items(files), by_path, good
    yield DataLoader(Items(list(floats)), 3), by_number, good
    yield [files[0], files[1], pixels[2], floats[3]], [str(files[1]), "image 3"], good


def test_broken_images_are_skipped_and_listed(tmp_path):
    for source, names, good in broken_sources(tmp_path):
        stream = ImageStream(source, on_error="skip", batch_size=2)
        for _ in range(2):
            batch = stream.read()
            assert torch.equal(batch.images, good)
            assert [name for name, _ in stream.errors] == names
            for name, problem in stream.errors:
                assert problem and not problem.startswith(name)
            assert len(batch.names) == len(batch.sizes) == 2
        with pytest.raises((ImageError, OSError)):
            images_to_tensor(source)
    assert ("the file is empty" in problem for _, problem in stream.errors)


def test_nothing_left_is_an_error(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(
        ImageError, match=r"none of 3 .*First: .*0\.png: the file is emp"
    ):
        ImageStream(tmp_path, on_error="skip").read()


def test_a_wrong_option_is_no_broken_image(tmp_path):
    save_all(tmp_path, [random_pixels(4, 4), random_pixels(4, 5)])
    with pytest.raises(ImageError, match="pass size="):
        ImageStream(tmp_path, on_error="skip").read()
    with pytest.raises(TypeError, match="got int"):
        ImageStream(Items([7]), on_error="skip").read()


def test_an_error_of_a_dataset_is_its_own():
    with pytest.raises(OSError, match="broken stream"):
        images_to_tensor(Items([OSError("broken stream")]))
    with pytest.raises(KeyError):
        ImageStream(Items([KeyError("label")]), on_error="skip").read()


# ---------------------------------------------------------------- bits


def test_arrays_of_twelve_bits_become_what_eight_bits_are():
    pixels = random_pixels(5, 8, 9)
    deep = pixels.astype(np.uint16) * 16 + pixels // 16  # 0..4095
    tensor = torch.from_numpy(deep.astype(np.int32))[:, None].to(torch.uint16)
    for source in (
        deep,
        list(deep),
        tensor,
        Items(list(deep)),
        DataLoader(Items(deep)),
    ):
        if isinstance(source, DataLoader):
            source = DataLoader(Items(list(tensor)), 2)
        with pytest.warns(UserWarning, match="as 12-bit data .*bits=12 to make 4095"):
            dark = images_to_tensor(source)
        assert dark.max() < 0.07
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            images = images_to_tensor(source, bits=12)
            images_to_tensor(source, bits=16)
        np.testing.assert_allclose(images[:, 0], deep / 4095, atol=1e-6)
        np.testing.assert_allclose(images[:, 0], pixels / 255, atol=0.5 / 255)
        with pytest.raises(
            ImageError, match=r"image \d: holds the value .* of 10 bits"
        ):
            images_to_tensor(source, bits=10)


def test_a_stream_knows_whether_bits_matter(tmp_path):
    stream = ImageStream(save_all(tmp_path, random_pixels(2, 6, 7)))
    stream.read()
    assert not stream.sixteen_bit
    save_all(tmp_path, [random_pixels(6, 7).astype(np.uint16) * 257])
    stream.read()
    assert stream.sixteen_bit


# ---------------------------------------------------------------- threads


def test_files_are_read_in_order_by_threads_a_few_ahead(tmp_path):
    sides = [400, 3, 200, 5, *range(10, 40)]
    pixels = [
        np.full((side, side), index, np.uint8) for index, side in enumerate(sides)
    ]
    folder = save_all(tmp_path, pixels)
    batch = ImageStream(folder, size=2).read()
    assert torch.equal(
        (batch.images[:, 0, 0, 0] * 255).round().long(), torch.arange(len(sides))
    )
    assert batch.sizes == [(side, side) for side in sides]


def test_no_file_is_read_long_before_it_is_due(tmp_path):
    save_all(tmp_path, random_pixels(READ_AHEAD + 3, 4, 4))
    stream = batches(tmp_path, batch_size=1, channels=1)
    next(stream)
    far = tmp_path / f"{READ_AHEAD + 1:03d}.png"
    far.write_bytes(b"")
    for _ in range(READ_AHEAD):
        next(stream)
    with pytest.raises(ImageError, match="the file is empty"):
        next(stream)


def test_ordered_map_runs_ahead_by_a_bound_and_stops():
    running, most, begun = 0, 0, []
    lock = threading.Lock()

    def work(item):
        nonlocal running, most
        with lock:
            begun.append(item)
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return -item

    results = ordered_map(work, range(1000))
    for index in range(5):
        assert next(results) == -index
        assert max(begun) <= index + READ_AHEAD
    results.close()
    assert len(begun) <= 5 + READ_AHEAD
    assert most <= THREADS
    assert list(ordered_map(work, range(50))) == [-item for item in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda item: 1 / item, [1, 2, 0, 4]))


def test_a_stream_that_is_left_leaves_no_thread(tmp_path):
    save_all(tmp_path, random_pixels(40, 4, 4))
    before = threading.active_count()
    for _ in ImageStream(tmp_path, batch_size=2):
        break
    assert threading.active_count() == before


def test_settings_of_torch_do_not_matter(tmp_path):
    folder = save_all(tmp_path, random_pixels(3, 6, 7))
    expected = images_to_tensor(folder, size=4)
    torch.set_default_dtype(torch.float64)
    try:
        for source in (folder, random_pixels(5, 6, 7).astype(np.float64) / 255):
            images = images_to_tensor(source, size=4)
            assert images.dtype == torch.float32
        assert torch.equal(images_to_tensor(folder, size=4), expected)
    finally:
        torch.set_default_dtype(torch.float32)


# ---------------------------------------------------------------- contrast


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_without_contrast_are_refused(level, channels):
    even = torch.full((8, channels, 16, 16), level)
    with pytest.raises(
        ValueError, match=f"hold no contrast .all {level:.3g}.: nothing"
    ):
        check_contrast(even)
    with pytest.raises(ValueError, match="hold no contrast"):
        check_contrast(even[:1])
    noise = torch.randn(even.shape, generator=torch.Generator().manual_seed(0))
    check_contrast((even + 0.01 * noise).clamp(0, 1))  # nearly even, and enough
    with pytest.raises(ValueError, match="hold no contrast"):
        check_contrast((even + 1e-5 * noise).clamp(0, 1))  # rounding


def test_contrast_is_within_an_image_and_a_channel():
    levels = torch.rand(8, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"each is one even tone, 0.* to 0"):
        check_contrast(levels.expand(8, 3, 16, 16))
    images = levels.repeat(1, 1, 16, 16)
    images[5, 1, 3, 4] += 2 / 255  # one pixel of one image
    check_contrast(images)
