"""What a fitted detector has found out, in plain words and as numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from ebmlib.calibration import exact_rate, rate_interval
from ebmlib.data.resizing import check_size
from ebmlib.detector import EnergyDetector
from ebmlib.view.pose import EXPLAINED, PartFrame
from ebmlib.view.registration import Registration

CLOSE = 0.1  # to the share from which position counts, so that both ways deserve a try


@dataclass(frozen=True)
class Findings:
    """What `fit` found; `print` it, or take `dataclasses.asdict`.

    Attributes:
        recipe: its name.
        layout: "still", "still, shifted", "turned" or "anywhere", see `__str__`.
        explained: share of the variation that position explains, see
            `ebmlib.view.pose`; None where that was not asked.
        max_shift: longest shift that is undone, in px of the resized photograph.
        photograph: (height, width) of the usual photograph, None if it is not known.
        resized: (height, width) to which it is resized.
        seen: (height, width) of what the energy looks at.
        tiles: how many views one photograph has.
        held_out: photographs that set the thresholds.
        false_alarm_rate: as it was asked for.
        needed: photographs that must be held out for that rate.
        rate_interval: in which the rate of this threshold lies with 90 %.
        threshold: scores above it are anomalous.
        pixel_threshold: map values above it are flagged.
        normalizes_exposure: whether illumination is evened out.
        gray: whether colors are not looked at.
    """

    recipe: str
    layout: str
    explained: float | None
    max_shift: float
    photograph: tuple[int, int] | None
    resized: tuple[int, int]
    seen: tuple[int, int]
    tiles: int
    held_out: int
    false_alarm_rate: float
    needed: int
    rate_interval: tuple[float, float]
    threshold: float
    pixel_threshold: float
    normalizes_exposure: bool
    gray: bool

    @property
    def promised(self) -> bool:
        """Whether enough photographs were held out for the false-alarm rate."""
        return self.held_out >= self.needed

    @property
    def smallest(self) -> float:
        """Pixels of the photograph along one pixel that the energy sees, at least 1."""
        whole = self.photograph or self.resized
        shrunk = max(a / b for a, b in zip(whole, self.resized, strict=True))
        if self.tiles == 1 and self.layout != "turned":
            sides = zip(whole, self.seen, strict=True)
            shrunk = max(shrunk, *(a / b for a, b in sides))
        return max(1.0, shrunk)

    def as_dict(self) -> dict[str, object]:
        """All numbers, for JSON."""
        found = {"promised": self.promised, "pixels_in_one": self.smallest}
        return {**asdict(self), **found}

    def __str__(self) -> str:
        return "\n".join(
            [
                f"Layout. {self._layout()}",
                f"Resolution. {self._resolution()}",
                f"Threshold. {self._threshold()}",
                f"It can not see {'; '.join(self.blind())}.",
            ]
        )

    def blind(self) -> list[str]:
        """What this detector cannot see, in words."""
        found = []
        if self.smallest > 1:
            found.append(
                f"defects smaller than about {self.smallest:.3g} px of the photograph"
            )
        else:
            found.append("what is smaller than a pixel")
        if self.normalizes_exposure:
            found.append("a photograph that is too bright or too dark as a whole")
        if self.layout == "turned":
            found.append("what lies outside the part")
        if self.layout == "anywhere":
            found.append("a part in the wrong place or direction")
        if self.layout == "still, shifted":
            found.append(
                f"a part that lies up to {self.max_shift:.2g} px off its place"
            )
        if self.gray:
            found.append("colors")
        return found

    def _layout(self) -> str:
        share = ""
        if self.explained is not None:
            share = f" (position explains {100 * self.explained:.0f} % of what varies)"
        still = (
            f"The parts lie nearly alike{share}, so every place is compared with the "
            "same place of good parts"
        )
        close = ""
        if self.explained is not None and abs(self.explained - EXPLAINED) < CLOSE:
            other = "yes" if self.layout == "anywhere" else "no"
            close = f" Close to one half: try --aligned {other} as well."
        return {
            "still": f"{still}.",
            "still, shifted": f"{still}; shifts of up to {self.max_shift:.2g} px are "
            "undone first.",
            "turned": "The parts lie in any direction on a plain ground, so every "
            "photograph is turned to one pose first.",
            "anywhere": f"Position says little{share}, as in a texture, so every place "
            "is compared with all places of good parts.",
        }[self.layout] + close

    def _resolution(self) -> str:
        first = _sides(self.resized)
        if self.photograph is not None and self.photograph != self.resized:
            first = f"{_sides(self.photograph)} resized to {first}"
        if self.tiles > 1:
            return f"{first} px, seen in {self.tiles} tiles of {_sides(self.seen)} px."
        how = "enlarged to " if self.seen > self.resized else "as "
        return f"{first} px, seen {how}{_sides(self.seen)} px."

    def _threshold(self) -> str:
        low, high = self.rate_interval
        said = f"{self.threshold:.4g}, from {self.held_out} photographs held out. "
        if self.promised:
            said += (
                f"At most {100 * self.false_alarm_rate:.3g} % of the good parts are "
                "flagged on average over such thresholds; this one flags between "
            )
        else:
            said += (
                f"A false-alarm rate of {100 * self.false_alarm_rate:.3g} % takes "
                f"{self.needed}, so it is NOT promised; this threshold flags between "
            )
        return f"{said}{100 * low:.2g} % and {100 * high:.2g} % of them (90 % sure)."


def findings(
    detector: EnergyDetector, sizes: Counter[tuple[int, int]] | None = None
) -> Findings:
    """What a fitted detector has found.

    Args:
        detector: fitted.
        sizes: how many photographs had each (height, width), if that is known.

    Raises:
        NotFittedError: `fit` has not been called.
    """
    detector.check_fitted()
    view, held_out = detector.pipeline_.view, len(detector.calibration_scores_)
    rate = detector.false_alarm_rate
    layout, shift = "anywhere", 0.0
    if isinstance(view.frame_, PartFrame):
        layout = "turned"
    elif isinstance(view.frame_, Registration) and view.frame_.max_shift >= 0.5:
        layout, shift = "still, shifted", view.frame_.max_shift
    elif view.aligned_:
        layout = "still"
    return Findings(
        recipe=detector.recipe_.name,
        layout=layout,
        explained=view.layout_.explained if view.layout_ is not None else None,
        max_shift=shift,
        photograph=sizes.most_common(1)[0][0] if sizes else None,
        resized=check_size(detector.image_size),
        seen=view.size_,
        tiles=view.tiles_,
        held_out=held_out,
        false_alarm_rate=rate,
        needed=-int(-1 // exact_rate(rate)) - 1,
        rate_interval=rate_interval(held_out, rate),
        threshold=detector.threshold_,
        pixel_threshold=detector.pixel_threshold_,
        normalizes_exposure=detector.normalize_exposure,
        gray=detector.pipeline_.channels == 1,
    )


def _sides(size: tuple[int, int]) -> str:
    """Width x height, as cameras say it."""
    return f"{size[1]} x {size[0]}"
