"""The record of a training run: one row of figures for every step that was kept."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrainingLog:
    """What happened: one row of health figures for every step that was kept.

    A resumed run has the same `steps` and `health` as an uninterrupted one; `events`
    (rollbacks, resumes) tells how it got there.
    """

    steps: list[int] = field(default_factory=list)
    health: dict[str, list[float]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Append a row; every row has the same figures."""
        if self.steps and set(figures) != set(self.health):
            raise ValueError(
                "an objective must report the same health figures at every step, got "
                f"{sorted(figures)} after {sorted(self.health)}"
            )
        self.steps.append(step)
        for name, value in figures.items():
            self.health.setdefault(name, []).append(float(value))

    def table(self, rows: int = 10) -> str:
        """At most `rows` evenly spread steps as text, from the first to the last."""
        if not self.steps:
            return "no steps"
        last = len(self.steps) - 1
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
