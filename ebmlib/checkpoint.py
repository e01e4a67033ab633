"""One safe file for tensors and settings, whole at every moment (chapter 7).

A checkpoint is one safetensors file: tensors, and a JSON header. Reading it can only
yield numbers and text, never run code. Writing it never leaves half a file behind:
the new content goes to a temporary file beside it, is forced to the disk, and only then
takes the old file's name. A process killed at any moment leaves the old or the new.

Any number of processes and threads may write and read one path at the same time: each
write has a temporary file of its own, named `<name>.<16 hex digits>.tmp`, and a reader
finds one of the whole files. The temporary file of a writer that was killed stays in
the folder; nothing reads it, and it can be deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

# On Windows a file that somebody reads cannot be replaced, and one that is being
# replaced cannot be read: wait (seconds) and try again. Elsewhere both work at once.
WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if os.name == "nt" else ()
MOST_HEADER = 100_000_000  # bytes, of any safetensors file

Result = TypeVar("Result")


class CheckpointError(ValueError):
    """The file is not a checkpoint, is damaged, or belongs to something else."""


def write_checkpoint(
    path: str | Path, tensors: Mapping[str, Tensor], header: Any, kind: str
) -> None:
    """Replace the file at `path` in one indivisible step.

    Args:
        path: Target; the folder must exist.
        tensors: Any tensors by name; they are stored as they are, bit for bit.
        header: Anything that JSON can hold; floats survive exactly.
        kind: What the file is, such as "ebmlib.training"; `read_checkpoint` asks.

    Raises:
        ValueError: The folder does not exist, or the content does not fit into a
            safetensors file (its header holds 100 MB).
        OSError: The disk is full or not writable; the old file is untouched.
    """
    path = _target(path)
    text = json.dumps(header)
    # Cloned, as safetensors refuses tensors that share memory.
    plain = {name: t.detach().cpu().clone() for name, t in tensors.items()}
    try:
        plain = {name: t.contiguous() for name, t in plain.items()}
        metadata = {"kind": kind, "header": text, "checksum": _checksum(plain, text)}
        content = save(plain, metadata)
        if int.from_bytes(content[:8], "little") > MOST_HEADER:
            # safetensors before 0.7 writes such a file, and no version reads it.
            raise ValueError("header too large")
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        # KeyError: a dtype that safetensors does not know.
        raise CheckpointError(f"cannot store this in {path}: {error}") from error
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on disk before the name changes hands
        _patiently(lambda: os.replace(temporary, path))
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
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, expected a file of kind {kind!r}")
    try:
        # Opened once: a writer may put a new file in this place while we read.
        content = _patiently(path.read_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no checkpoint at {path}") from error
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
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
    try:
        return tensors, json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header of {path} is not JSON: {error}") from error


def pack(tree: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Move the tensors of nested dicts and lists into `tensors`; return the rest.

    What is left can go into the header: each tensor is replaced by {"tensor": name}.

    Raises:
        TypeError: The tree holds something that cannot be stored, or that would not
            come back as it was.
    """
    if isinstance(tree, Tensor):
        if name in tensors:
            raise TypeError(f"two tensors of the state have the name {name!r}")
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, Mapping):
        if not all(isinstance(key, str) for key in tree):
            raise TypeError(f"the keys of {name or 'a state'} must be text: {[*tree]}")
        if [*tree] == ["tensor"] and isinstance(tree["tensor"], str):
            raise TypeError(f"{name} holds text under the name 'tensor'; rename it")
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
    """Undo `pack`: put the tensors back into the nested dicts and lists.

    Raises:
        CheckpointError: The tree names a tensor that is not there.
    """
    if isinstance(tree, dict):
        if set(tree) == {"tensor"} and isinstance(tree["tensor"], str):
            if tree["tensor"] not in tensors:
                raise CheckpointError(f"the tensor {tree['tensor']!r} is missing")
            return tensors[tree["tensor"]]
        return {key: unpack(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [unpack(value, tensors) for value in tree]
    return tree


def copy_tree(tree: Any, spare: Any = None) -> Any:
    """Copy nested dicts and lists; tensors are copied where they are.

    Args:
        tree: Nested dicts and lists of tensors and of values that never change.
        spare: An earlier copy that nobody needs any more. Where it has a tensor of the
            same shape and kind at the same place, the new values are written into
            that one; this saves the time to allocate memory.
    """
    if isinstance(tree, Tensor):
        if isinstance(spare, Tensor) and _alike(tree, spare):
            return spare.copy_(tree.detach())
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        old = spare if isinstance(spare, Mapping) else {}
        return {key: copy_tree(value, old.get(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [copy_tree(value) for value in tree]
    return tree


def check_folder(path: str | Path) -> Path:
    """The path, if a file can be written there; said early, not after an hour.

    An empty temporary file is made in the folder and deleted, as permissions alone do
    not tell (read-only disks, access lists).

    Raises:
        ValueError: The path is a folder, its folder does not exist, or nothing can be
            written there.
    """
    path = _target(path)
    temporary = _temporary(path)
    try:
        with open(temporary, "xb"):
            pass
        temporary.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: no file can be made in its folder "
            f"({error.strerror}); name a folder that can be written"
        ) from error
    return path


def _target(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"cannot write {path}: it must be a file name in a folder that exists"
        )
    return path


def _temporary(path: Path) -> Path:
    """A new name beside `path`. A name and not a file: `open` keeps to the umask."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")


def _patiently(act: Callable[[], Result]) -> Result:
    """What `act` returns; a PermissionError is waited for (see `WAITS`)."""
    for wait in WAITS:
        try:
            return act()
        except PermissionError:
            time.sleep(wait)
    return act()


def _alike(one: Tensor, other: Tensor) -> bool:
    kinds = [(t.shape, t.dtype, t.device) for t in (one, other)]
    return kinds[0] == kinds[1]


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """CRC-32 over the header and all tensors, in the order of their names."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8)
        crc = zlib.crc32(flat.numpy().data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _sync_folder(folder: Path) -> None:
    """Force the new name itself to the disk, where folders can be opened (POSIX)."""
    if os.name == "nt":
        return
    # Some network disks refuse this. The content of the file is on the disk already.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
