"""What a detector says of images: verdicts, scores and maps, and why (chapter 15)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ebmlib.scoring import Evaluation


@dataclass(frozen=True, repr=False)
class Prediction:
    """What the detector says of N images.

    Attributes:
        anomalous: bool `(N,)`, score above the threshold.
        scores: `(N,)`, higher for more anomalous.
        p_values: `(N,)` in (0, 1], see `ebmlib.calibration.conformal_p_values`.
        maps: `(N, H, W)` at the detector's image size.
        masks: bool `(N, H, W)`, map above the pixel threshold.
        names: paths of the files, or "image 7" for what has none, counted from 0.
        sizes: `(height, width)` of each image before it was resized.
        errors: `(name, problem)` of every file that was skipped.
    """

    anomalous: Tensor
    scores: Tensor
    p_values: Tensor
    maps: Tensor
    masks: Tensor
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        skipped = f", {len(self.errors)} skipped" if self.errors else ""
        return (
            f"Prediction({len(self)} images, {int(self.anomalous.sum())} anomalous"
            f"{skipped})"
        )

    def photo_map(self, index: int) -> Tensor:
        """The map of one image at the size of its photograph, `(height, width)`."""
        one = self.maps[index][None, None]
        return interpolate(one, self.sizes[index], mode="bilinear")[0, 0]

    def photo_mask(self, index: int) -> Tensor:
        """The flagged pixels of one image at the size of its photograph, bool."""
        one = self.masks[index][None, None].float()
        return interpolate(one, self.sizes[index], mode="nearest-exact")[0, 0] > 0

    @classmethod
    def join(cls, parts: list[Prediction]) -> Prediction:
        """One prediction of several, in their order."""

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        return cls(
            joined("anomalous"),
            joined("scores"),
            joined("p_values"),
            joined("maps"),
            joined("masks"),
            [name for part in parts for name in part.names],
            [size for part in parts for size in part.sizes],
            [error for part in parts for error in part.errors],
        )


@dataclass(frozen=True)
class Explanation:
    """Why an image got its verdict, in numbers; `print` it.

    Attributes:
        anomalous: the verdict.
        score: the image score.
        threshold: scores above it are anomalous.
        p_value: share of calibration images with such a score or more, see
            `ebmlib.calibration.conformal_p_values`.
        energy: E(x) of what the energy sees.
        terms: the share of each term of the energy in E(x), by name.
        patches: the patches with the largest energy, largest first: row and column in
            px of the view, the patch energy, and its terms by name.
        peak: row and column of the map's maximum, in px at the detector's image size.
        gradient: |dE/dx| at its largest pixel, over its median over pixels.
    """

    anomalous: bool
    score: float
    threshold: float
    p_value: float
    energy: float
    terms: dict[str, float]
    patches: list[dict[str, float]]
    peak: tuple[int, int]
    gradient: float

    def __str__(self) -> str:
        word = "anomalous" if self.anomalous else "normal"
        lines = [
            f"{word}: score {self.score:.4g}, threshold {self.threshold:.4g}, "
            f"p = {self.p_value:.3g}",
            f"the map is largest at row {self.peak[0]}, column {self.peak[1]}; the "
            f"largest gradient is {self.gradient:.3g} times its median",
            f"energy {self.energy:.4g}",
        ]
        lines += [f"  of it {name}: {v:.4g}" for name, v in self.terms.items()]
        for patch in self.patches:
            where = f"row {patch['row']:.0f}, column {patch['column']:.0f}"
            lines.append(f"  patch at {where} of the view: {patch['energy']:.4g}")
        return "\n".join(lines)


def largest_patches(
    one: Evaluation, terms: dict[str, Tensor], count: int
) -> list[dict[str, float]]:
    """Where the patches with the largest energies are, and what these consist of."""
    if one.patches is None or one.stride is None:
        return []
    patches = one.patches.flatten()
    found = []
    for index in patches.topk(min(count, len(patches))).indices.tolist():
        row, column = divmod(index % one.patches[0].numel(), one.patches.shape[-1])
        found.append(
            {
                "row": (row + 0.5) * one.stride - 0.5,
                "column": (column + 0.5) * one.stride - 0.5,
                "energy": float(patches[index]),
                **{name: float(v.flatten()[index]) for name, v in terms.items()},
            }
        )
    return found
