"""Photographs through a fitted detector, into a folder of results, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from ebmlib.data.files import ImageError, read_image
from ebmlib.detector import EnergyDetector
from ebmlib.overlay import deep_map, overlay, save_png
from ebmlib.prediction import Prediction
from ebmlib.prediction_table import PredictionTable, Row
from ebmlib.regions import largest_region

MAPS = ("all", "anomalous", "none")
Problem = tuple[str, str]  # path, what was wrong


class Judge:
    """Writes a row, a heat map and an overlay for each photograph.

    Args:
        detector: fitted.
        table: the rows; the pictures go to `maps/` and `overlays/` beside it, under the
            whole name of the photograph, such as `001.jpg.png`.
        maps: which photographs get pictures, "all", "anomalous" or "none".
        batch_size: photographs in one pass.

    Attributes:
        count: rows that were written.
        errors: path and problem of the files that were skipped.
    """

    def __init__(
        self,
        detector: EnergyDetector,
        table: PredictionTable,
        maps: str = "all",
        batch_size: int = 16,
    ):
        if maps not in MAPS:
            raise ValueError(f"maps must be one of {MAPS}, got {maps!r}")
        self.detector, self.table, self.maps = detector, table, maps
        self.batch_size = batch_size
        self.count = 0
        self.errors: list[Problem] = []
        self.folders = table.path.with_name("maps"), table.path.with_name("overlays")
        if maps != "none":
            for folder in self.folders:
                folder.mkdir(exist_ok=True)

    def __call__(
        self,
        paths: list[Path],
        skip_errors: bool = False,
        gives_up: Callable[[str], bool] | None = None,
    ) -> Iterator[list[Row]]:
        """Yields the rows of each batch when they are on the disk.

        Args:
            paths: image files.
            skip_errors: give files that cannot be read a row that says so.
            gives_up: asked for the name of a file that cannot be read whether it gets
                that row; None: always.

        Raises:
            ImageError: a file cannot be read, and errors are not skipped.
            OSError: nothing can be written.
        """
        names = [str(path) for path in paths]
        for at in range(0, len(names), self.batch_size):
            found, errors = self._predict(names[at : at + self.batch_size], skip_errors)
            if gives_up is not None:
                errors = [error for error in errors if gives_up(Path(error[0]).name)]
            rows = [] if found is None else self._rows(found)
            rows += [Row(name, problem=problem) for name, problem in errors]
            self.table.append(
                sorted(rows)
            )  # after the pictures: a row says all is there
            self.errors += errors
            self.count += len(rows)
            yield sorted(rows)

    def _predict(
        self, names: list[str], skip_errors: bool
    ) -> tuple[Prediction | None, list[Problem]]:
        """What can be read of a batch, and what cannot."""
        try:
            found = self.detector.predict(
                names, on_error="skip" if skip_errors else "raise"
            )
            return found, found.errors
        except ImageError:
            errors = [error for error in map(self._problem, names) if error is not None]
            if not skip_errors or len(errors) < len(names):
                raise
            return None, errors

    def _problem(self, name: str) -> Problem | None:
        try:
            read_image(name, size=self.detector.image_size, bits=self.detector.bits_)
        except ImageError as error:
            return name, str(error).removeprefix(f"{name}: ")
        return None

    def _rows(self, found: Prediction) -> list[Row]:
        rows = []
        for index, name in enumerate(found.names):
            mask, anomalous = found.photo_mask(index), bool(found.anomalous[index])
            if self.maps == "all" or (self.maps == "anomalous" and anomalous):
                self._draw(name, found.photo_map(index), mask)
            rows.append(
                Row.of(
                    name,
                    float(found.scores[index]),
                    anomalous,
                    float(found.p_values[index]),
                    largest_region(mask),
                )
            )
        return rows

    def _draw(self, name: str, values: Tensor, mask: Tensor) -> None:
        photograph = read_image(name, bits=self.detector.bits_)
        limit = self.detector.pixel_threshold_
        maps, overlays = (folder / f"{Path(name).name}.png" for folder in self.folders)
        save_png(maps, deep_map(values, limit))
        save_png(overlays, overlay(photograph, values, mask, limit))
