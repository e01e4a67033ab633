"""One safe file for tensors and settings, whole at every moment (chapter 7).

A checkpoint is one safetensors file: tensors, and a JSON header. Reading it can only
yield numbers and text, never run code. Writing it never leaves half a file behind:
the new content goes to a temporary neighbor, is forced to the disk, and only then
takes the old file's name. A process killed at any moment leaves the old or the new.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


class CheckpointError(ValueError):
    """The file is not a checkpoint, is damaged, or belongs to something else."""


def write_checkpoint(
    path: str | Path, tensors: Mapping[str, Tensor], header: Any, kind: str
) -> None:
    """Replace the file at `path` in one indivisible step.

    Args:
        path: Target; the folder must exist. `<path>.tmp` beside it is used meanwhile.
        tensors: Any tensors by name; they are stored as they are, bit for bit.
        header: Anything that JSON can hold; floats survive exactly.
        kind: What the file is, such as "ebmlib.training"; `read_checkpoint` asks.

    Raises:
        ValueError: The folder does not exist.
        OSError: The disk is full or not writable; the old file is untouched.
    """
    path = check_folder(path)
    # Cloned, as safetensors refuses tensors that share memory.
    plain = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    text = json.dumps(header)
    metadata = {"kind": kind, "header": text, "checksum": _checksum(plain, text)}
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(save(plain, metadata))
            file.flush()
            os.fsync(file.fileno())  # on disk before the name changes hands
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_checkpoint(path: str | Path, kind: str) -> tuple[dict[str, Tensor], Any]:
    """Read the tensors (on the CPU) and the header that `write_checkpoint` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: Anything that is not a whole checkpoint of this kind.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    # Opened once: a writer may put a new file in this place while we read.
    content = path.read_bytes()
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}). Pickled files (.pt, "
            ".pth, .ckpt) are refused, as loading them can run code."
        ) from error
    if metadata.get("kind") != kind:
        found = metadata.get("kind", "a safetensors file from elsewhere")
        raise CheckpointError(f"{path} is {found!r}, expected a file of kind {kind!r}")
    text = metadata.get("header", "")
    if metadata.get("checksum") != _checksum(tensors, text):
        raise CheckpointError(f"{path} is damaged: its content fails the checksum")
    return tensors, json.loads(text)


def pack(tree: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Move the tensors of nested dicts and lists into `tensors`; return the rest.

    What is left can go into the header: each tensor is replaced by {"tensor": name}.
    """
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {
            key: pack(value, tensors, f"{name}/{key}") for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [pack(t, tensors, f"{name}/{i}") for i, t in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(
        f"{name} is a {type(tree).__name__}; a state may hold tensors, numbers, text, "
        "None, and dicts and lists of these"
    )


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `pack`: put the tensors back into the nested dicts and lists."""
    if isinstance(tree, dict):
        if set(tree) == {"tensor"} and isinstance(tree["tensor"], str):
            return tensors[tree["tensor"]]
        return {key: unpack(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [unpack(value, tensors) for value in tree]
    return tree


def copy_tree(tree: Any) -> Any:
    """Copy nested dicts and lists; tensors are cloned where they are."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: copy_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [copy_tree(value) for value in tree]
    return tree


def check_folder(path: str | Path) -> Path:
    """The path, if a file can be written there; said early, not after an hour."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"cannot write {path}: it must be a file name in a folder that exists"
        )
    return path


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """CRC-32 over the header and all tensors, in the order of their names."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8)
        crc = zlib.crc32(flat.numpy(), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _sync_folder(folder: Path) -> None:
    """Force the new name itself to the disk, where folders can be opened (POSIX)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
