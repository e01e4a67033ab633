"""Two drift tests on a table of predictions: what they say, and a picture."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from ebmlib.calibration import rate_interval
from ebmlib.drift import (
    bucket,
    bucket_limit,
    bucket_step,
    few_false_flags,
    rank_z,
    run_length,
)
from ebmlib.plotting import ANOMALOUS as DEFECT, INK, NORMAL as GOOD, use_style
from ebmlib.prediction_table import ANOMALOUS, RUN, UNREADABLE, read_rows
from ebmlib.results_files import read_json

CALM = 20_000  # parts between two false calls of the bucket, on average
FAR = 4.0  # |z| that calls: one in 16,000 windows without a cause
SHARE = 0.1  # of false flags among those that `few_false_flags` leaves


@dataclass(frozen=True)
class Watch:
    """What the two tests found; `print` it.

    Attributes:
        p_values: `(N,)`, of the photographs that could be read, in their order.
        flags: bool `(N,)`, those that were flagged.
        unreadable: photographs that could not be read.
        rate: the promised share of flags.
        calibration: photographs behind the threshold.
        window: photographs in one comparison.
        levels: `(N,)`, of the bucket.
        limit: level at which it calls.
        z: of each whole window, see `ebmlib.drift.rank_z`; of all where there is none.
    """

    p_values: NDArray[np.float64]
    flags: NDArray[np.bool_]
    unreadable: int
    rate: float
    calibration: int
    window: int
    levels: NDArray[np.int64]
    limit: int
    z: NDArray[np.float64]

    @property
    def full_at(self) -> int | None:
        """The first photograph, counted from 1, at which the bucket is full."""
        full = np.flatnonzero(self.levels >= self.limit)
        return int(full[0]) + 1 if len(full) else None

    @property
    def odd_window(self) -> int | None:
        """The first window, counted from 1, whose scores have moved."""
        odd = np.flatnonzero(np.abs(self.z) > FAR)
        return int(odd[0]) + 1 if len(odd) else None

    @property
    def drifted(self) -> bool:
        """Whether one of the tests calls."""
        return self.full_at is not None or self.odd_window is not None

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        low, high = rate_interval(self.calibration, self.rate)
        return {
            "photographs": len(self.flags),
            "unreadable": self.unreadable,
            "flagged": int(self.flags.sum()),
            "promised_rate": self.rate,
            "rate_of_such_thresholds": [low, high],
            "calibration_images": self.calibration,
            "bucket_limit": self.limit,
            "bucket_full_at": self.full_at,
            "window": self.window,
            "z": [round(float(z), 3) for z in self.z],
            "odd_window": self.odd_window,
            "drifted": self.drifted,
            "flags_with_few_false": int(few_false_flags(self.p_values, SHARE).sum()),
        }

    def __str__(self) -> str:
        count, flagged = len(self.flags), int(self.flags.sum())
        lines = [
            f"photographs: {count}, flagged: {flagged} "
            f"({100 * flagged / count:.1f} %), promised: {100 * self.rate:.3g} %, by "
            f"{self.calibration} photographs of the calibration"
        ]
        if self.unreadable:
            lines.append(f"left out, as they could not be read: {self.unreadable}")
        up = bucket_step(self.rate)
        calls = run_length(self.rate, up, self.limit)
        lines.append(
            f"bucket of flags (+{up} with, -1 without): {self._word(self.full_at)}; "
            f"highest level {self.levels.max()}, limit {self.limit}. With the promised "
            f"rate it calls once in {calls:,.0f} photographs"
        )
        lines.append(
            f"ranks of scores: {self._word(self.odd_window)}; z from "
            f"{self.z.min():.1f} to {self.z.max():.1f} (windows of "
            f"{min(self.window, count)}: {len(self.z)}), limit {FAR:g} either way. "
            "Without a cause it calls once in 16,000 windows"
        )
        kept = int(few_false_flags(self.p_values, SHARE).sum())
        lines.append(
            f"so odd that at most {100 * SHARE:.0f} % of them are good parts: {kept}"
        )
        return "\n".join([*lines, self.verdict()])

    @staticmethod
    def _word(call: int | None) -> str:
        return "quiet" if call is None else "CALLS"

    def verdict(self) -> str:
        """What it means, and what to do."""
        if not self.drifted:
            return "Verdict: no drift seen."
        said = []
        if self.odd_window is not None:
            z, last = self.z[self.odd_window - 1], self.odd_window * self.window
            span = f"photographs {last - self.window + 1} to {last}"
            if len(self.flags) < self.window:
                span = "all photographs together"
            if z > 0:
                said.append(
                    f"the scores have risen ({span}): look for a change of light, "
                    "color, position or product, and for a run of real defects"
                )
            else:
                said.append(
                    f"the scores have fallen ({span}): look for a lens out of focus; "
                    "defects may be missed"
                )
        if self.full_at is not None:
            low, high = rate_interval(self.calibration, self.rate)
            said.append(f"more flags than promised, seen at photograph {self.full_at}")
            if low <= self.flags.mean() <= high:
                said.append(
                    f"a threshold from {self.calibration} photographs can have a rate "
                    f"of up to {100 * high:.2g} %, so this may be no drift: set it "
                    "anew from more good photographs"
                )
        text = "; ".join(said)
        return f"Verdict: drift. {text[0].upper()}{text[1:]}."


def watch_table(path: str | Path, window: int = 100) -> Watch:
    """Test a table of `ebmlib predict`; `run.json` beside it says what was promised.

    Raises:
        ValueError: not such a table, no photograph in it, or no `run.json`.
        OSError: it cannot be read.
    """
    path = Path(path)
    rows = read_rows(path)
    run_path = path.with_name(RUN)
    if not run_path.exists():
        raise ValueError(
            f"{run_path}: missing; `ebmlib predict` writes it beside the table, keep "
            "both together"
        )
    run = read_json(run_path)
    try:
        rate = float(run["false_alarm_rate"])
        calibration = int(run["calibration_images"])
        readable = [row for row in rows if row.verdict != UNREADABLE]
        p_values = np.array([float(row.p_value) for row in readable])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: it or {run_path.name} beside it was changed ({error}); run "
            "`ebmlib predict` into an empty folder"
        ) from None
    if not readable:
        raise ValueError(f"{path}: no photograph was judged; nothing can be said")
    flags = np.array([row.verdict == ANOMALOUS for row in readable])
    ends = range(window, len(p_values) + 1, window)
    parts = [p_values[end - window : end] for end in ends] or [p_values]
    return Watch(
        p_values,
        flags,
        len(rows) - len(readable),
        rate,
        calibration,
        window,
        bucket(flags, bucket_step(rate)),
        bucket_limit(rate, CALM),
        np.array([rank_z(part, calibration) for part in parts]),
    )


def draw(found: Watch, path: Path) -> None:
    """Write the picture: the level of the bucket, and z of every window, over time."""
    with plt.rc_context():
        use_style()
        figure, (top, bottom) = plt.subplots(2, figsize=(8, 5), sharex=True)
        count = len(found.flags)
        at = np.arange(1, count + 1)
        top.plot(at, found.levels, color=GOOD, ls="-")
        top.axhline(found.limit, color=DEFECT, ls="--")
        top.annotate(
            "calls from here on",
            (count, found.limit),
            (0, 4),
            textcoords="offset points",
            color=DEFECT,
            fontsize=9,
            ha="right",
        )
        top.set(ylabel="level of the bucket", title="flags: more than promised?")
        size = min(found.window, count)
        middles = (np.arange(len(found.z)) + 0.5) * size
        bottom.axhspan(-FAR, FAR, color=GOOD, alpha=0.15)
        bottom.axhline(0, color=INK, lw=1, ls=":")
        bottom.plot(middles, found.z, "o-", color=GOOD, ms=5)
        odd = np.abs(found.z) > FAR
        bottom.plot(middles[odd], found.z[odd], "s", color=DEFECT, ms=8)
        reach = max(1.3 * FAR, 1.1 * float(np.abs(found.z).max()))
        bottom.set(
            xlabel="photograph, in the order of the table",
            ylabel="z, in standard errors",
            title=f"scores of {size} photographs against the calibration",
            ylim=(-reach, reach),
        )
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150)
        plt.close(figure)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
