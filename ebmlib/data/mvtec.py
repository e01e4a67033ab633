"""MVTec AD and folders like it: load, validate, download (chapter 1, chapter 12).

Any folder in the layout that `ebmlib.data.mvtec_layout` describes will do, with gray or
color images of any size. From the command line:

    python -m ebmlib.data.mvtec download bottle --root FOLDER
    python -m ebmlib.data.mvtec validate --root FOLDER
"""

import argparse
import functools
import hashlib
import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ebmlib.data.category import Category
from ebmlib.data.download import GIGABYTE, DownloadError, extract, fetch
from ebmlib.data.files import list_images, stored_channels
from ebmlib.data.images import ImageStream
from ebmlib.data.mvtec_facts import (
    LICENSE_NOTICE,
    OFFICIAL_COUNTS,
    Source,
    official_sources,
)
from ebmlib.data.mvtec_layout import (
    LayoutError,
    Report,
    Sample,
    categories_in,
    category_path,
    first_of,
    layout_notes,
    missing_training,
    pair_masks,
    read_full_mask,
    unexpected_training,
    validate,
)
from ebmlib.data.resizing import Size, check_size, describe_vanished, resize_mask
from ebmlib.data.threads import ordered_map

__all__ = [
    "OFFICIAL_COUNTS",
    "DownloadError",
    "LayoutError",
    "Report",
    "download",
    "load_mvtec",
    "validate",
]

# ------------------------------------------------------------------------ loading


def load_mvtec(
    root: str | Path,
    category: str,
    size: Size = 256,
    *,
    channels: int | None = None,
    bits: int | None = None,
) -> Category:
    """All images of one category, resized by area; masks by majority.

    Test images come sorted: "good" first, then the defects, each by file name. Defect
    regions that vanish at this size (no pixel at least half covered) are counted in one
    warning and listed in `Category.notes`; their images stay labeled defective. A
    category of your own may have no ground_truth/; its masks are then empty.

    Args:
        root: The folder that holds the categories.
        category: Name of the category's folder.
        size: Side of the square images in pixels, or (height, width).
        channels: 1 or 3; None takes 1 if every file is gray, else 3.
        bits: How many bits of 16-bit files are used; see `ebmlib.data.images`.

    Raises:
        LayoutError: The folder is not a category, or images and masks do not pair up.
        ImageError: A file cannot be read (see `ebmlib.data.files`).
    """
    target = check_size(size)
    folder = _category_folder(root, category)
    train = list_images(folder / "train" / "good")
    samples, problems = pair_masks(folder)
    problems += unexpected_training(folder)
    if problems:
        raise LayoutError(f"{folder}: " + "; ".join(first_of(problems)))
    notes = layout_notes(folder, samples)
    if notes:
        warnings.warn(f"{folder.name}: {'; '.join(first_of(notes))}", stacklevel=2)
    paths = [*train, *(sample.image for sample in samples)]
    stream = ImageStream(
        paths, size=size, channels=channels or stored_channels(paths), bits=bits
    )
    normals, tests, sizes = _read_in_two(stream, len(train), len(samples))
    masks, vanished = _read_masks(folder, samples, target, sizes[len(train) :])
    return Category(
        name=f"mvtec/{category}",
        train=normals,
        test=tests,
        labels=torch.tensor([sample.kind != "good" for sample in samples]),
        masks=masks,
        kinds=[sample.kind for sample in samples],
        notes=(*notes, *vanished),
    )


def _category_folder(root: str | Path, category: str) -> Path:
    root = Path(root)
    folder = category_path(root, category)
    missing = missing_training(folder)
    if missing is None:
        return folder
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder; root must hold the categories")
    here = ", ".join(categories_in(root)) or "none"
    hint = ""
    if folder.is_dir():
        hint = f"; {missing}"
    elif (root / "train" / "good").is_dir():
        hint = f"; {root} is itself a category: pass the folder above it as root"
    raise LayoutError(
        f"{root}: no category {category!r} here (a folder with train/good in it); "
        f"categories found: {here}{hint}"
    )


def _read_in_two(
    stream: ImageStream, first: int, second: int
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    """So many images in one tensor and in another, and the sizes of all."""
    parts: list[torch.Tensor] = []
    sizes: list[tuple[int, int]] = []
    for images, _, full_sizes in stream:
        if not parts:
            shape = images.shape[1:]
            parts = [images.new_empty((count, *shape)) for count in (first, second)]
        done = len(sizes)
        here = min(max(first - done, 0), len(images))  # of this batch, in the first
        parts[0][done : done + here] = images[:here]
        start = max(done - first, 0)
        parts[1][start : start + len(images) - here] = images[here:]
        sizes += full_sizes
    return parts[0], parts[1], sizes


def _read_masks(
    folder: Path,
    samples: list[Sample],
    size: tuple[int, int],
    full_sizes: list[tuple[int, int]],
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Masks (M, H, W) at the new size, and a note for each with vanished regions."""

    def read(index: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
        full = read_full_mask(samples[index], full_sizes[index])
        return resize_mask(full.numpy(), size)

    masks = torch.zeros(len(samples), *size, dtype=torch.bool)
    given = [index for index, sample in enumerate(samples) if sample.mask]
    notes = []
    for index, (small, vanished) in zip(given, ordered_map(read, given), strict=True):
        masks[index] = torch.from_numpy(small)
        mask = samples[index].mask
        if vanished and mask is not None:
            name = mask.relative_to(folder).as_posix()
            notes.append(f"{name}: {describe_vanished(vanished)}")
    if notes:
        warnings.warn(
            f"{folder.name} at {size[0]} x {size[1]}: defect regions too small for "
            f"this size vanished from {len(notes)} of {len(samples)} masks; see "
            f"Category.notes, or choose a larger size. First: {notes[0]}",
            stacklevel=3,
        )
    return masks, tuple(notes)


# ------------------------------------------------------------------------ downloading


def download(
    category: str,
    root: str | Path,
    sources: Sequence[str | Path | Source] | None = None,
    *,
    timeout: float = 30.0,
    tries: int = 5,
    pause: float = 1.0,
    max_bytes: int = 20 * GIGABYTE,
    keep_archive: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Fetch, unpack and validate one category; nothing half-written gets its name.

    Each source is tried in order until one yields a category that passes `validate`.
    An interrupted transfer leaves a hidden `.part` file that the next call continues;
    unpacking happens in a hidden folder that is renamed when everything is right. Run
    one download of a category at a time.

    Args:
        category: An official name, or any name when `sources` is given.
        root: The folder that holds the categories; created if needed.
        sources: Addresses, or tar archives on disk, with a top folder of the category's
            name. None takes the published ones: the category's own archive, then the
            bundle of all (4.9 GB, hash published).
        timeout: Seconds without a byte after which a connection counts as stalled.
        tries: Attempts in a row without a new byte before the next source's turn.
        pause: Seconds between attempts.
        max_bytes: Bound on the unpacked size.
        keep_archive: Keep the archive (hidden, in `root`) for a further category.
        log: Receives the license notice and one line for each event.

    Returns:
        The category's folder.

    Raises:
        ValueError: An unknown category without sources.
        DownloadError: No source delivered; the message names each and its problem.
    """
    folder = Path(root) / _check_name(category)
    chosen = _as_sources(category, sources)
    if folder.exists():
        return _already_there(folder, log)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if category in OFFICIAL_COUNTS:
        log(LICENSE_NOTICE)
    get = functools.partial(fetch, timeout=timeout, tries=tries, pause=pause, log=log)
    failures = []
    for source in chosen:
        try:
            if isinstance(source, Path):
                return _install(source, folder, max_bytes)
            archive = get(source.url, _archive(folder, source), sha256=source.sha256)
            return _install_fetched(archive, folder, max_bytes, keep_archive)
        except DownloadError as error:
            failures.append(str(error))
            log(f"source failed: {error}")
    raise DownloadError(
        f"no source delivered {category!r}:\n- " + "\n- ".join(failures) + "\nIf the "
        "addresses have changed, download the archive by hand and pass its path: "
        "sources=[Path('archive.tar.xz')]"
    )


def _check_name(category: str) -> str:
    if category in ("", ".", "..") or "/" in category or "\\" in category:
        raise ValueError(f"category must be the name of one folder; got {category!r}")
    return category


def _already_there(folder: Path, log: Callable[[str], None]) -> Path:
    report = validate(folder.parent, folder.name)
    if not report.ok:
        raise DownloadError(
            f"{folder} exists but is not whole; move or delete it, then download "
            f"again. Problems: {'; '.join(first_of(report.problems))}"
        )
    log(f"{folder}: already there, and whole")
    return folder


def _as_sources(
    category: str, sources: Sequence[str | Path | Source] | None
) -> list[Path | Source]:
    if sources is None:
        if category not in OFFICIAL_COUNTS:
            raise ValueError(
                f"{category!r} is no official category, so pass sources=[...]; "
                f"official: {', '.join(OFFICIAL_COUNTS)}"
            )
        return [*official_sources(category)]
    return [Source(source) if isinstance(source, str) else source for source in sources]


def _archive(folder: Path, source: Source) -> Path:
    """Hidden, and different for each address: parts of two sources never mix."""
    key = hashlib.sha256(source.url.encode()).hexdigest()[:12]
    return folder.with_name(f".{key}.archive")


def _install_fetched(archive: Path, folder: Path, max_bytes: int, keep: bool) -> Path:
    """Install and delete the archive; Ctrl-C keeps it, a bad archive goes at once."""
    try:
        _install(archive, folder, max_bytes)
    except DownloadError:
        archive.unlink()
        raise
    if not keep:
        archive.unlink()
    return folder


def _install(archive: Path, folder: Path, max_bytes: int) -> Path:
    """Unpack beside the final place, validate, rename."""
    staging = folder.with_name(f".{folder.name}.extracting")
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    try:
        extract(archive, staging, only=folder.name, max_bytes=max_bytes)
        report = validate(staging, folder.name)
        if not report.ok:
            problems = "; ".join(first_of(report.problems))
            raise DownloadError(f"{archive}: the category is not whole: {problems}")
        os.replace(staging / folder.name, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


# ------------------------------------------------------------------------ command line


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m ebmlib.data.mvtec`; 0 when all is well, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m ebmlib.data.mvtec")
    commands = parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("download", help="fetch, unpack and validate categories")
    get.add_argument("categories", nargs="+", help="bottle cable ... or all")
    get.add_argument("--source", action="append", help="address or archive; repeatable")
    check = commands.add_parser("validate", help="read every file, compare the counts")
    check.add_argument("categories", nargs="*", help="none: all that are there")
    for command in (get, check):
        command.add_argument("--root", required=True, help="folder of the categories")
    options = parser.parse_args(arguments)
    names = (
        list(OFFICIAL_COUNTS) if options.categories == ["all"] else options.categories
    )
    try:
        if options.command == "validate":
            report = validate(options.root, names or None)
            print(report)
            return 0 if report.ok else 1
        _download_all(names, options.root, options.source)
    except (ValueError, DownloadError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 1
    return 0


def _download_all(names: list[str], root: str, texts: list[str] | None) -> None:
    """Several categories; an archive that holds more than one is fetched once."""
    sources = None
    if texts is not None:
        sources = [text if "://" in text else Path(text) for text in texts]
    for name in names:
        print(download(name, root, sources, keep_archive=len(names) > 1))
    for archive in Path(root).glob(".*.archive"):
        archive.unlink()


if __name__ == "__main__":
    for output in (sys.stdout, sys.stderr):  # of Windows, into a file: not every letter
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    sys.exit(main())
