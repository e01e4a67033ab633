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

from ebmlib.data import Category
from ebmlib.detector import EnergyDetector
from ebmlib.experts import ProductOfExperts

SIDES = (1.5, 2.0, 2.5)  # of a patch, in cells of the grid
NOISES = (0.02, 0.03, 0.05)  # gray levels that every pixel is granted
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the gradient in the map
RULE = "highest mean over categories and over the three measures"


def rows_of(detector: EnergyDetector, exam: Category) -> list[dict]:
    """The three figures of every candidate, on one category."""
    network = detector.energy.network
    view = ExamView(detector, exam)
    rows = []
    for cells, noise in itertools.product(SIDES, NOISES):
        product = ProductOfExperts.of(
            network,
            view.normal,
            everywhere=not detector.aligned,
            side=round(cells * network.stride),
            noise=noise,
        )
        gradient, patches = view.maps(product)
        for share in SHARES:
            candidate = {"cells": cells, "noise": noise, "share": share}
            figures = view.mark(gradient**share * patches ** (1 - share))
            rows.append({**candidate, **figures})
    return rows


def ranking(categories: list[list[dict]]) -> list[dict]:
    """Candidates by the rule, the best first."""
    ranked = []
    for rows in zip(*categories, strict=True):
        mean = float(np.mean([[row[key] for key in METRICS] for row in rows]))
        candidate = {k: rows[0][k] for k in ("cells", "noise", "share")}
        ranked.append({**candidate, "mean": round(mean, 4)})
    return sorted(ranked, key=lambda row: -row["mean"])


def main() -> None:
    """Fit where it is missing, score, rank, write."""
    options = options_of(__doc__)
    record = Record(options.out / "choice_experts.json", __doc__)
    for name in options.categories:
        if record.rows(name, options):
            continue
        exam = exam_of(name, options)
        detector = detector_of(options.networks, exam, options.size, options.steps)
        rows = rows_of(detector, exam)
        record.keep(name, options, rows)
        print(name, *ranking([rows])[:3], sep="\n", flush=True)
    found = [one["rows"] for one in record.made["categories"].values()]
    record.write(rule=RULE, ranking=ranking(found), standing=STANDING)
    for row in record.made["ranking"][:10]:
        print(row)


if __name__ == "__main__":
    main()
