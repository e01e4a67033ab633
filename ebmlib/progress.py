"""One line on stderr: how far long work has come, and how long it still takes."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Literal, TextIO

INTERVAL = 0.25  # seconds between two updates of the line in a terminal
LINES = 20  # lines at most where the output is no terminal
BAR = 20  # characters

Show = bool | Literal["auto"]


class Progress:
    """A line such as `[#####     ] 50/200  0:10 elapsed, 0:30 left  loss 0.7`.

    In a terminal the line is rewritten, at most four times a second. Elsewhere (a log
    file, a notebook) at most `LINES` lines are written. A stream that can no longer be
    written to ends the display and not the work. Use it in a `with` statement:

        with Progress(len(batches), "auto", label="predict") as bar:
            for done, batch in enumerate(batches, 1):
                ...
                bar.update(done)

    Args:
        total: Number of units of work, such as steps.
        show: True, False, or "auto": only if the stream is a terminal.
        label: What the line starts with.
        start: Units that were already done, such as those before a resume. The
            estimate of the time left does not count them.
        stream: Where to write; `sys.stderr` if it is not given.

    Raises:
        ValueError: `show` is something else.
    """

    def __init__(
        self,
        total: int,
        show: Show = "auto",
        *,
        label: str = "",
        start: int = 0,
        stream: TextIO | None = None,
    ):
        check_show(show)
        self.stream = sys.stderr if stream is None else stream
        terminal = getattr(self.stream, "isatty", lambda: False)
        self.terminal = self.stream is not None and terminal()
        self.visible = self.stream is not None and (
            self.terminal if show == "auto" else show
        )
        self.total, self.start, self.label = max(total, 1), start, label
        self.began = time.monotonic()
        self.updated = -float("inf")
        self.part = start * LINES // self.total  # the last part that has a line
        self.width = 0  # of the line that stands in the terminal

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of `total` units are done; `note` ends the line."""
        if not self.visible:
            return
        if self.terminal:
            now = time.monotonic()
            if now - self.updated < INTERVAL and done < self.total:
                return
            self.updated = now
            line = self._line(done, note)[: shutil.get_terminal_size().columns - 1]
            self._write("\r" + line.ljust(self.width))
            self.width = len(line)
        elif done * LINES // self.total > self.part:
            self.part = done * LINES // self.total
            self._write(self._line(done, note) + "\n")

    def close(self) -> None:
        """End the line, so that what is written next starts at the left."""
        if self.visible and self.width:
            self._write("\n")
        self.visible = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _line(self, done: int, note: str) -> str:
        elapsed = time.monotonic() - self.began
        fresh = done - self.start
        left = elapsed * (self.total - done) / fresh if fresh > 0 else None
        bar = "#" * (BAR * done // self.total)
        parts = [
            f"{self.label} [{bar:<{BAR}}] {done}/{self.total}".lstrip(),
            f"{duration(elapsed)} elapsed, {duration(left)} left",
            note,
        ]
        return "  ".join(part for part in parts if part)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # the terminal or the file is gone
            self.visible = False


def check_show(show: Show) -> None:
    """Refuse what is not True, False or "auto"."""
    if show != "auto" and not isinstance(show, bool):
        raise ValueError(f"progress must be True, False or 'auto', got {show!r}")


def duration(seconds: float | None) -> str:
    """Seconds as m:ss or h:mm:ss; "?" for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
