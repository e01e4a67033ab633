"""Draw book/assets/result.png: defective parts, their masks, and the detector's maps.

The data are synthetic and the settings are the detector's own, so the picture can be
made again by anybody: ``python tools/make_result_picture.py``. The rows are the first
test image of each kind of defect, not a choice of the best.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch

from ebmlib.data import Category, load
from ebmlib.detector import EnergyDetector
from ebmlib.recipes import Contrast

PICTURE = Path(__file__).resolve().parents[1] / "book" / "assets" / "result.png"
COLUMNS = ["image", "true mask", "anomaly map"]


def first_of_each_kind(category: Category, most: int) -> list[int]:
    """Index of the first test image of every kind, normal ones first."""
    kinds = list(category.kinds)
    names = sorted(set(kinds), key=lambda kind: (kind != "good", kinds.index(kind)))
    return [kinds.index(name) for name in names][:most]


def draw(category: Category, maps: torch.Tensor, rows: list[int]) -> plt.Figure:
    """Images, masks and maps side by side, all maps on one color scale."""
    top = float(maps.flatten().quantile(0.999))
    size = (1.5 * len(rows) + 0.6, 1.5 * len(COLUMNS) + 0.3)
    figure, axes = plt.subplots(len(COLUMNS), len(rows), figsize=size)
    for column, index in enumerate(rows):
        image = category.test[index].permute(1, 2, 0)  # (H, W, C)
        shown = image.expand(-1, -1, 3) if image.shape[-1] == 1 else image
        axes[0, column].imshow(shown, vmin=0, vmax=1)
        axes[1, column].imshow(category.masks[index], cmap="gray", vmin=0, vmax=1)
        axes[2, column].imshow(maps[index], cmap="magma", vmin=0, vmax=top)
        axes[0, column].set_title(category.kinds[index].replace("_", " "), fontsize=10)
    for row, name in enumerate(COLUMNS):
        axes[row, 0].set_ylabel(name, fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.4)
    return figure


def main() -> None:
    """Train, map, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--category", default="synthetic/nut")
    parser.add_argument("--size", type=int, default=128, help="image side in pixels")
    parser.add_argument("--steps", type=int, default=1500, help="training steps")
    parser.add_argument(
        "--aligned",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the part always lies in the same place",
    )
    parser.add_argument("--output", type=Path, default=PICTURE)
    args = parser.parse_args()
    category = load(args.category, size=args.size)
    detector = EnergyDetector(
        Contrast(args.steps), args.size, aligned=args.aligned, device="cpu"
    )
    detector.fit(category.train)
    maps = detector.anomaly_map(category.test).cpu()
    figure = draw(category, maps, first_of_each_kind(category, most=6))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=150, facecolor="white")
    print(f"{args.output}: {args.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
