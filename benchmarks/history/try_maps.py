r"""Other readings of the gradient of the standing energies, on mock exams (chapter 10).

    python benchmarks/try_maps.py NETWORKS --categories mvtec/bottle mvtec/screw
    python benchmarks/try_maps.py NETWORKS --size 128 --steps 3000 \
        --categories synthetic/nut synthetic/bolt synthetic/weave

The mock exams are training images, held out and partly damaged, see `mock_exam.py`.
NETWORKS keeps the fitted detectors. Every row reads the same `thorough_experts` in
another way. Writes results/tried_maps.json;
categories that it holds already stay. `map_ablation.py` asks such questions of test
images, after the fact.
"""

from collections.abc import Iterator

import torch
from map_ablation import descent_map
from mock_exam import (
    METRICS,
    STANDING,
    ExamView,
    Record,
    detector_of,
    exam_of,
    options_of,
)
from torch import Tensor

from ebmlib.scoring import MapStandardizer, gradient_map, smooth

BINS = 8  # of luminance, and of local contrast
FEW = 100  # pixels of a bin that are too few for a mean and a spread


class AppearanceStandardizer:
    """z = (m - mean) / std, both of the normal pixels that look alike.

    A pixel's appearance is its luminance and its contrast, the mean and the standard
    deviation of the gray levels around it, each in one of `BINS` bins with equally many
    normal pixels. A bright edge is then compared with bright edges, wherever they lie.
    """

    def __init__(self, images: Tensor, maps: Tensor, width: float):
        self.width = width
        levels = torch.linspace(0, 1, BINS + 1)[1:-1]
        every = max(1, maps.numel() // 10**6)  # torch.quantile takes no more
        self.edges = [
            torch.quantile(a.flatten()[::every], levels) for a in self._look(images)
        ]
        bins, flat = self._bins(images).flatten(), maps.flatten()
        self.mean = torch.full((BINS**2,), float(maps.mean()))
        self.std = torch.full((BINS**2,), float(maps.std()))
        for i in range(BINS**2):
            same = flat[bins == i]
            if len(same) >= FEW:
                self.mean[i], self.std[i] = same.mean(), same.std()
        self.std.clamp_(min=0.5 * float(self.std.median()))  # as `MapStandardizer`

    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        gray = images.mean(1)  # (N, H, W)
        level = smooth(gray, self.width)
        spread = (smooth(gray.square(), self.width) - level.square()).clamp_min(0)
        return level, spread.sqrt()

    def _bins(self, images: Tensor) -> Tensor:
        parts = zip(self._look(images), self.edges, strict=True)
        bright, rough = (torch.bucketize(a, edges) for a, edges in parts)
        return BINS * bright + rough

    def __call__(self, images: Tensor, maps: Tensor) -> Tensor:
        """Standardize the maps of these images, both (N, ...)."""
        bins = self._bins(images)
        return (maps - self.mean[bins]) / self.std[bins]


def readings(view: ExamView) -> Iterator[tuple[str, Tensor]]:
    """Name and maps of the exam's test images, (N, H, W); the first is the standing."""
    energy, s = view.detector.energy, view.detector.smoothing
    test, normal = view.test, view.normal

    def gradient(x: Tensor, **options) -> Tensor:
        return gradient_map(energy, x, **{"smoothing": s, **options})

    slope, patches = view.maps(energy)
    share = STANDING["share"]
    yield "gradient and log patches (standing)", slope**share * patches ** (1 - share)
    yield "log patches alone", patches
    yield "gradient alone", slope
    yield "gradient, l1 over channels", gradient(test, norm="l1")
    usual = gradient(normal)
    by_place = MapStandardizer("position", smoothing=s).fit(usual)
    yield "gradient, per position", by_place(slope)
    yield (
        "gradient, per appearance",
        AppearanceStandardizer(normal, usual, s)(test, slope),
    )
    scales = []
    for width, name in ((s / 2, "half"), (2 * s, "twice")):
        at_scale = gradient(test, smoothing=width)
        yield f"gradient, {name} the smoothing", at_scale
        scale = MapStandardizer("global").fit(gradient(normal, smoothing=width))
        scales.append(scale(at_scale))
    scales.append(MapStandardizer("global").fit(usual)(slope))
    yield "gradient, mean of three smoothings", torch.stack(scales).mean(0)
    generator = torch.Generator().manual_seed(0)
    noisy = {"noise": 0.02, "copies": 8, "generator": generator}
    yield "gradient, mean of 8 noisy copies", gradient(test, **noisy)
    yield "ten steps down the energy", descent_map(energy, test, s)


def main() -> None:
    """Read, mark, write."""
    options = options_of(__doc__)
    record = Record(options.out / "tried_maps.json", __doc__)
    for name in record.missing(options):
        exam = exam_of(name, options)
        detector = detector_of(options.networks, exam, options.size, options.steps)
        view, rows = ExamView(detector, exam), []
        for reading, maps in readings(view):
            rows.append({"maps": reading, **view.mark(maps)})
            print(name, reading, *(rows[-1][key] for key in METRICS), flush=True)
        record.keep(name, options, rows)
        record.write()


if __name__ == "__main__":
    main()
