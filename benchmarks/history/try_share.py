r"""How loud the Gaussians should be where positions say nothing (chapter 12).

    pip install scikit-image   # brings three photographs, see textures.py
    python benchmarks/try_share.py NETWORKS --size 128 --steps 3000 \
        --categories synthetic/weave texture/brick texture/grass texture/gravel

The mock exams are training images, held out and partly damaged, see `mock_exam.py`.
NETWORKS keeps the fitted detectors; the network and the Gaussian stay the same in every
row. The rule was written down first: the highest mean over categories, and over image
AUROC, pixel AUROC and AU-PRO, wins. Writes results/tried_share.json; categories that it
holds already stay.
"""

from mock_exam import (
    METRICS,
    ExamView,
    Record,
    detector_of,
    exam_of,
    mock_exam,
    options_of,
)
from textures import photographs, texture
from try_experts import Product

from ebmlib.products import LOUD, QUIET

SHARES = (QUIET, 1.0, LOUD)


def variants(view: ExamView) -> dict[str, Product]:
    """Name and energy of all that is compared."""
    both, normal = view.detector.energy, view.normal
    made = {"0: the network alone": Product([both.network], [], normal)}
    for share in SHARES:
        name = f"{share:g}" + (" (standing)" if share == QUIET else "")
        made[name] = Product([both.network], [both.gaussians], normal, share)
    return made


def main() -> None:
    """Fit where it is missing, mark, write."""
    options = options_of(__doc__)
    record = Record(options.out / "tried_share.json", __doc__)
    for name in record.missing(options):
        source, _, one = name.partition("/")
        if source == "texture":
            exam = mock_exam(texture(one, photographs()).train, name)
        else:
            exam = exam_of(name, options)
        detector = detector_of(options.networks, exam, options.size, options.steps)
        if detector.aligned:
            raise SystemExit(f"{name} has places: its Gaussians know where they look")
        view, rows = ExamView(detector, exam), []
        for variant, energy in variants(view).items():
            figures = view.marks(energy)
            rows.append({"share": variant, **figures})
            print(name, variant, *(figures[key] for key in METRICS), flush=True)
        record.keep(name, options, rows)
        record.write()


if __name__ == "__main__":
    main()
