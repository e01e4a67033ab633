"""Verdicts on disk: one row a photograph, not one lost or doubled.

A folder of results holds `scores.csv`, one row for each photograph, and `run.json`, the
detector and the photographs that the rows belong to. Rows are only appended, a batch at
a time, and forced to the disk. A process killed at any moment can leave one torn row at
the end; `PredictionTable` removes it before it goes on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ebmlib.checkpoint import check_folder
from ebmlib.detector import EnergyDetector
from ebmlib.regions import Region
from ebmlib.results_files import check_writable, read_json, write_result

ANOMALOUS, NORMAL, UNREADABLE = "anomalous", "normal", "unreadable"
TABLE, RUN = "scores.csv", "run.json"


class Row(NamedTuple):
    """One line of the table, as text; what does not apply is empty.

    Attributes:
        path: of the photograph, as the command line named it.
        score: higher for more anomalous.
        verdict: "anomalous", "normal" or "unreadable".
        p_value: share of calibration images with such a score or more.
        x, y, width, height: box of the largest flagged region, in px of the photograph.
        area: pixels of that region.
        problem: why the file could not be read.
    """

    path: str
    score: str = ""
    verdict: str = UNREADABLE
    p_value: str = ""
    x: str = ""
    y: str = ""
    width: str = ""
    height: str = ""
    area: str = ""
    problem: str = ""

    @classmethod
    def of(
        cls,
        path: str,
        score: float,
        anomalous: bool,
        p_value: float,
        region: Region | None,
    ) -> Row:
        """The row of a photograph that was read."""
        verdict = ANOMALOUS if anomalous else NORMAL
        box = map(str, region) if region is not None else [""] * 5
        return cls(path, f"{score:.6g}", verdict, f"{p_value:.6g}", *box)


def read_rows(path: str | Path) -> list[Row]:
    """The whole rows of a table; a torn one at its end is left out.

    Raises:
        ValueError: the file is not such a table.
        OSError: it cannot be read.
    """
    text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = list(csv.reader(io.StringIO(whole, newline="")))
    except csv.Error:  # such as a field of megabytes, in a file of another kind
        lines = []
    if not lines or tuple(lines[0]) != Row._fields:
        raise ValueError(
            f"{path}: not a table of `ebmlib predict`: its first line must be "
            f"{','.join(Row._fields)}"
        )
    return [Row(*line) for line in lines[1:] if len(line) == len(Row._fields)]


class PredictionTable:
    """The table of one detector and one folder of photographs; goes on where it ended.

    Photographs that could not be read are taken out, so that they are tried again.

    Args:
        folder: of the results; made if it is missing.
        run: what the rows belong to, see `describe`.

    Attributes:
        path: of the table.
        counts: how many rows have each verdict.
        done: names of the photographs that have a row.

    Raises:
        ValueError: nothing can be written there, or the rows that are there belong to
            something else.
    """

    def __init__(self, folder: str | Path, run: dict[str, Any]):
        check_writable(folder, "--out")
        self.path = Path(folder) / TABLE
        self.counts: Counter[str] = Counter()
        self.done: set[str] = set()
        rows: list[Row] = []
        if self.path.exists():
            _check_same(Path(folder) / RUN, run)
            rows = [r for r in read_rows(self.path) if r.verdict != UNREADABLE]
        else:
            write_result(Path(folder) / RUN, run)
        self._replace(rows)
        self._note(rows)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows and force them to the disk; all of them or none.

        Raises:
            OSError: the disk is full, or the file is gone.
        """
        rows = list(rows)
        with open(self.path, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                file.write(_text(rows))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        self._note(rows)

    def _note(self, rows: list[Row]) -> None:
        self.counts.update(row.verdict for row in rows)
        self.done.update(Path(row.path).name for row in rows)

    def _replace(self, rows: list[Row]) -> None:
        """Write the table anew, by a file that takes its name when it is whole."""
        check_folder(self.path)
        temporary = self.path.with_name(f".{TABLE}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(_text([Row(*Row._fields), *rows]))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def describe(
    detector: EnergyDetector, file: str | Path, photographs: str | Path
) -> dict[str, Any]:
    """What rows belong to: the detector's file by its content, and the photographs."""
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "detector": str(file),
        "detector_sha256": digest,
        "photographs": str(Path(photographs).resolve()),
        "threshold": detector.threshold_,
        "pixel_threshold": detector.pixel_threshold_,
        "false_alarm_rate": detector.false_alarm_rate,
        "calibration_images": len(detector.calibration_scores_),
    }


def _check_same(path: Path, run: dict[str, Any]) -> None:
    there = read_json(path) if path.exists() else None
    for name, what in (
        ("detector_sha256", "another detector"),
        ("photographs", "other photographs"),
    ):
        if not isinstance(there, dict) or there.get(name) != run[name]:
            raise ValueError(
                f"{path.with_name(TABLE)} holds the rows of {what}; name another "
                "folder as --out, or delete this one"
            )


def _text(rows: Iterable[Row]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
