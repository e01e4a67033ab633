"""Image files that appear in a folder, each one when it is no longer being written."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from ebmlib.data.files import SUFFIXES

State = tuple[int, int]  # size in bytes, time of the last change


class FolderWatch:
    """New image files of one folder.

    A file is ready when its size and its time of change have stayed the same for
    `settle` seconds. A camera may pause longer than that in the middle of a file, so
    one that could not be read is offered again when it has changed, and once more
    `patience` seconds after its last change.

    Args:
        folder: it is looked at, not its subfolders.
        settle: seconds.
        patience: seconds.
        clock: gives the time in seconds.

    Attributes:
        changed: when a file last appeared or changed, by the clock.
    """

    def __init__(
        self,
        folder: str | Path,
        settle: float = 1.0,
        patience: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self.settle, self.patience = Path(folder), settle, patience
        self.clock, self.changed = clock, clock()
        self._seen: dict[str, tuple[State | None, float]] = {}  # state, since when
        self._failed: set[str] = set()

    def ready(self, done: Collection[str]) -> list[Path]:
        """The files to read now, sorted by name.

        Args:
            done: names that are not offered any more.

        Raises:
            OSError: the folder cannot be read.
        """
        found, now = [], self.clock()
        names = {path.name for path in self.folder.iterdir() if _is_image(path)}
        new = names.difference(done)
        for name in self._seen.keys() - new:
            del self._seen[name]
        for name in sorted(new):
            state = _state(self.folder / name)
            before, since = self._seen.get(name, (None, now))
            if state is None or state != before:
                self._seen[name] = (state, now)
                self._failed.discard(name)
                self.changed = now
            elif now - since >= (
                self.patience if name in self._failed else self.settle
            ):
                found.append(self.folder / name)
        return found

    def gives_up(self, name: str) -> bool:
        """Note that a file could not be read; whether its patience is used up."""
        first = name not in self._failed
        self._failed.add(name)
        _, since = self._seen.get(name, (None, self.clock()))
        return not first and self.clock() - since >= self.patience


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _state(path: Path) -> State | None:
    """None where the file is gone, or still empty."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_size, stat.st_mtime_ns) if stat.st_size else None
