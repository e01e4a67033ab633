r"""Choose the second expert of parts that are registered, on training images alone.

    python benchmarks/choose_registered.py NETWORKS --categories mvtec/bottle
    python benchmarks/choose_registered.py NETWORKS --size 128 --steps 3000 \
        --categories mvtec/bottle synthetic/nut

`choose_experts.py` asked all categories at once, most of which lie anywhere. Where
parts lie exactly in place, smaller patches and less noise may do: this script asks the
categories that are registered, in two mock exams each (`mock_exam.py`), and also how
loud the Gaussians should be. The rule was written down first: every candidate is marked
by its mean over exams and over image AUROC, pixel AUROC and AU-PRO, all sizes and
draws of a category counting as one; of the candidates within .001 of the best, the one
with the fewest changes from the standing settings wins, and the best of those. The
choice lost on test images and was taken back, see the status page. NETWORKS keeps the
fitted detectors. Writes results/choice_registered.json; categories that it holds
already stay, and count.
"""

import choose_experts
import mock_exam
from choose_experts import ranking, rows_of
from mock_exam import (
    METRICS,
    ExamView,
    Record,
    detector_of,
    exam_of,
    options_of,
)

from ebmlib.products import LOUD
from ebmlib.view.registration import Registration

GRID = choose_experts.GRID | {
    "noise": (0.01, 0.02, 0.03),
    "loud": (1.0, 3.0, 10.0),  # share of the Gaussians in the energy
}
SHARES = (0.25, 0.5)  # of the gradient in the map
DRAWS = (77, 78)  # seeds of the exams
STANDING = {**mock_exam.STANDING, "loud": LOUD}
CLOSE = 0.001
RULE = (
    "highest mean over categories, exams and the three measures; within .001 of it, "
    "the fewest changes from the standing settings"
)


def chosen(ranked: list[dict]) -> dict:
    """The winner by the rule."""
    close = [row for row in ranked if row["mean"] >= ranked[0]["mean"] - CLOSE]
    return min(close, key=lambda row: sum(row[k] != STANDING[k] for k in STANDING))


def main() -> None:
    """Fit where it is missing, mark, rank, write."""
    options = options_of(__doc__)
    record = Record(options.out / "choice_registered.json", __doc__)
    for name in record.missing(options):
        marked = []
        for draw in DRAWS:
            exam = exam_of(name, options, draw)
            label = f"draw{draw}" if draw != DRAWS[0] else ""
            arguments = options.networks, exam, options.size, options.steps
            detector = detector_of(*arguments, label=label)
            if not isinstance(detector.frame, Registration):
                raise SystemExit(f"{name} does not lie still: nothing is registered")
            marked.append(rows_of(ExamView(detector, exam), GRID, SHARES))
            print(name, draw, max(marked[-1], key=lambda r: r["au_pro"]), flush=True)
        rows = [
            first | {k: round((first[k] + second[k]) / 2, 4) for k in METRICS}
            for first, second in zip(*marked, strict=True)
        ]
        record.keep(name, options, rows)
        record.write()
    found = record.made["categories"]
    ranked = ranking({name: one["rows"] for name, one in found.items()})
    won = chosen(ranked)
    record.write(rule=RULE, ranking=ranked, standing=STANDING, chosen=won)
    for row in (*ranked[:10], won):
        print(row)


if __name__ == "__main__":
    main()
