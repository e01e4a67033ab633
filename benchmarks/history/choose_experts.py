r"""Choose the second expert and its map, on training images alone (chapter 12).

    python benchmarks/choose_experts.py NETWORKS --categories mvtec/bottle mvtec/screw
    python benchmarks/choose_experts.py NETWORKS --size 128 --steps 3000 \
        --categories synthetic/nut synthetic/bolt synthetic/weave

`thorough_experts` learns what a mock exam leaves it of the training images, see
`mock_exam.py` (the folder NETWORKS keeps the fitted detectors, so that the command can
be repeated), then every candidate is scored. The rule was written down first: the
highest mean over categories, and over image AUROC, pixel AUROC and AU-PRO, wins.
Writes results/choice_experts.json; categories that it holds already stay, and count.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from mock_exam import (
    METRICS,
    STANDING,
    ExamView,
    Record,
    detector_of,
    exam_of,
    options_of,
)

from ebmlib.products import ProductOfExperts

GRID = {
    "cells": (1.5, 2.0, 2.5),  # side of a patch, in cells of the grid
    "noise": (0.02, 0.03, 0.05),  # gray levels that every pixel is granted
}
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the gradient in the map
RULE = "highest mean over categories and over the three measures"


def rows_of(
    view: ExamView, grid: dict[str, Sequence[float]], shares: Sequence[float]
) -> list[dict]:
    """The three figures of every candidate, in one exam.

    The grid may also ask how "loud" the Gaussians are: their share in the energy.
    """
    detector, rows = view.detector, []
    network = detector.energy.network
    for values in itertools.product(*grid.values()):
        asked = dict(zip(grid, values, strict=True))
        product = ProductOfExperts.of(
            network,
            view.normal,
            everywhere=not detector.aligned,
            side=round(asked["cells"] * network.stride),
            noise=asked["noise"],
            share=asked.get("loud"),
        )
        gradient, patches = view.maps(product)
        for share in shares:
            figures = view.mark(gradient**share * patches ** (1 - share))
            rows.append({**asked, "share": share, **figures})
    return rows


def ranking(categories: dict[str, list[dict]]) -> list[dict]:
    """Candidates by their mean, the best first; a category's sizes count as one."""
    means: dict[str, list] = {}  # category -> the means of every candidate, per size
    for name, rows in categories.items():
        mean = [np.mean([row[key] for key in METRICS]) for row in rows]
        means.setdefault(name.split(",")[0], []).append(mean)
    whole = np.mean([np.mean(each, axis=0) for each in means.values()], axis=0)
    first = next(iter(categories.values()))
    candidates = [{k: v for k, v in row.items() if k not in METRICS} for row in first]
    ranked = [
        {**one, "mean": round(float(mean), 4)}
        for one, mean in zip(candidates, whole, strict=True)
    ]
    return sorted(ranked, key=lambda row: -row["mean"])


def main() -> None:
    """Fit where it is missing, score, rank, write."""
    options = options_of(__doc__)
    record = Record(options.out / "choice_experts.json", __doc__)
    for name in record.missing(options):
        exam = exam_of(name, options)
        detector = detector_of(options.networks, exam, options.size, options.steps)
        rows = rows_of(ExamView(detector, exam), GRID, SHARES)
        record.keep(name, options, rows)
        print(name, *ranking({name: rows})[:3], sep="\n", flush=True)
    found = record.made["categories"]
    ranked = ranking({name: one["rows"] for name, one in found.items()})
    record.write(rule=RULE, ranking=ranked, standing=STANDING)
    for row in ranked[:10]:
        print(row)


if __name__ == "__main__":
    main()
