r"""What registration is worth to `thorough_experts`, on mock exams (chapter 12).

    python benchmarks/try_registration.py NETWORKS --categories mvtec/bottle
    python benchmarks/try_registration.py NETWORKS --size 128 --steps 3000 \
        --categories synthetic/nut

The mock exams are training images, held out and partly damaged, see `mock_exam.py`.
NETWORKS keeps the fitted detectors. Only parts that always lie in the same place are
registered, so other categories say nothing here. Every row trains anew, on images as
they are, on images brought to one place, and on images brought to one place and, by the
pixels that fit, into one light. Writes results/tried_registration.json; categories that
it holds already stay.
"""

from unittest.mock import patch

from mock_exam import (
    METRICS,
    ExamView,
    Record,
    detector_of,
    exam_of,
    options_of,
)

from ebmlib.data import Category
from ebmlib.detector import EnergyDetector
from ebmlib.view.exposure import Exposure, MatchedExposure
from ebmlib.view.registration import Registration

NONE, PLACE, BOTH = "none", "in place", "in place and in light (standing)"


def detectors(exam: Category, *where_and_steps) -> dict[str, EnergyDetector]:
    """One detector for every row, by name."""
    folder, size, steps = where_and_steps
    arguments = folder, exam, size, steps
    made = {NONE: detector_of(*arguments, label="unregistered", register=False)}
    with patch.object(MatchedExposure, "of", Exposure.of):  # of the whole image
        made[PLACE] = detector_of(*arguments, label="in_place")
    return made | {BOTH: detector_of(*arguments)}


def main() -> None:
    """Fit where it is missing, mark, write."""
    options = options_of(__doc__)
    record = Record(options.out / "tried_registration.json", __doc__)
    for name in record.missing(options):
        exam, rows = exam_of(name, options), []
        where = options.networks, options.size, options.steps
        for variant, detector in detectors(exam, *where).items():
            if variant != NONE and not isinstance(detector.frame, Registration):
                raise SystemExit(f"{name} does not lie still: nothing is registered")
            figures = ExamView(detector, exam).marks(detector.energy)
            rows.append({"registration": variant, **figures})
            print(name, variant, *(figures[key] for key in METRICS), flush=True)
        record.keep(name, options, rows)
        record.write()


if __name__ == "__main__":
    main()
