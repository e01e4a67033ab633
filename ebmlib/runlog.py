"""The record of a training run: one row of figures for every step that was kept."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

EVENTS = 1000  # the latest events that a checkpoint keeps


class Column(Sequence[float]):
    """Numbers that are only ever appended, eight bytes each; reads like a list.

    Indexing gives a number, slicing a list, `np.array(column)` an array of float64 (or
    int64, for steps). It equals any sequence of the same numbers.
    """

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __init__(self, values: Sequence[float] = (), typecode: str = "d"):
        self._values = array(typecode, values)

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        found = self._values[index]
        return found.tolist() if isinstance(found, array) else found

    def __iter__(self) -> Iterator[float]:
        return iter(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Column):
            return self._values == other._values
        if isinstance(other, Sequence):
            return self._values.tolist() == list(other)
        return NotImplemented

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._values, dtype=dtype)  # a view would block `append`

    def __repr__(self) -> str:
        if len(self) <= 8:
            return repr(self._values.tolist())
        ends = self._values[:3], self._values[-3:]
        return "[{}, ..., {}]".format(*(repr(v.tolist())[1:-1] for v in ends))

    def append(self, value: float) -> None:
        """Add a number at the end."""
        self._values.append(value)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` numbers."""
        del self._values[length:]

    def to_tensor(self, length: int | None = None) -> Tensor:
        """A copy of the first `length` numbers: (length,), float64; steps are int64."""
        return torch.from_numpy(np.array(self._values[:length]))


class TrainingLog:
    """What happened: one row of health figures for every step that was kept.

    A resumed run has the same `steps` and `health` as an uninterrupted one; `events`
    (rollbacks, resumes) tells how it got there. Adding a row costs a few microseconds
    however long the log is; a snapshot of the log is its length.

    Attributes:
        steps: Number of the step of each row, counted from 1.
        health: The figures by name, one `Column` each, as long as `steps`.
        events: Text, one entry for each rollback and resume.
    """

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __init__(self) -> None:
        self.steps = Column(typecode="q")
        self.health: dict[str, Column] = {}
        self.events: list[str] = []

    def __len__(self) -> int:
        return len(self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainingLog) and vars(self) == vars(other)

    def __repr__(self) -> str:
        loss = self.health.get("loss")
        last = f", loss {loss[-1]:.4g}" if loss else ""
        return (
            f"TrainingLog({len(self)} steps of {len(self.health)} figures{last}, "
            f"{len(self.events)} events)"
        )

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a row; every row has the same figures.

        Raises:
            ValueError: The names of the figures are not those of the rows before.
        """
        if not self.steps:
            self.health = {name: Column() for name in figures}
        elif figures.keys() != self.health.keys():
            raise ValueError(
                "an objective must report the same health figures at every step, got "
                f"{sorted(figures)} after {sorted(self.health)}"
            )
        for name, value in figures.items():
            self.health[name].append(float(value))
        self.steps.append(step)

    def truncate(self, length: int) -> None:
        """Forget all rows but the first `length`; the events stay."""
        if length == 0:
            self.health = {}  # an objective may report other figures from here on
        self.steps.truncate(length)
        for column in self.health.values():
            column.truncate(length)

    def table(self, rows: int = 10) -> str:
        """At most `rows` evenly spread steps as text, from the first to the last."""
        if not self.steps:
            return "no steps"
        last = len(self) - 1
        picks = sorted({round(i * last / max(rows - 1, 1)) for i in range(rows)})
        lines = [["step", *self.health]]
        lines += [
            [str(self.steps[i]), *(f"{v[i]:.4g}" for v in self.health.values())]
            for i in picks
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True))
            for line in lines
        )

    def state_dict(self, length: int | None = None) -> dict[str, Any]:
        """The first `length` rows as tensors, and the last `EVENTS` events."""
        return {
            "steps": self.steps.to_tensor(length),
            "health": {k: v.to_tensor(length) for k, v in self.health.items()},
            "events": self.events[-EVENTS:],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by what `state_dict` returned.

        Raises:
            ValueError: The columns do not have the same length.
        """
        steps = Column(state["steps"].tolist(), "q")
        health = {name: Column(v.tolist()) for name, v in state["health"].items()}
        if any(len(column) != len(steps) for column in health.values()):
            raise ValueError("the columns of the log do not have the same length")
        self.steps, self.health = steps, health
        self.events = list(state["events"])
