r"""Other readings of the gradient of the standing energies, on mock exams (chapter 10).

    python benchmarks/try_maps.py NETWORKS --categories mvtec/bottle mvtec/screw
    python benchmarks/try_maps.py NETWORKS --size 128 --steps 3000 \
        --categories synthetic/nut synthetic/bolt synthetic/weave

The mock exams are those of `choose_experts.py`: training images, held out and partly
damaged; no test image is touched. NETWORKS is the folder of its fitted detectors. Every
row reads the same `thorough_experts` in another way. Writes results/tried_maps.json;
categories that it holds already stay. `map_ablation.py` asks such questions of test
images, after the fact.
"""

import argparse
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import torch
from choose_experts import METRICS, ROOT, STANDING, ExamView, detector_of, mock_exam
from map_ablation import descent_map
from torch import Tensor

from ebmlib.benchmark import hardware, versions
from ebmlib.data import load
from ebmlib.scoring import MapStandardizer, gradient_map, smooth
from ebmlib.sweep import write_result

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", type=Path, help="folder of the fitted detectors")
    parser.add_argument("--categories", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", default=os.environ.get("MVTEC_ROOT"))
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.out / "tried_maps.json"
    made = {"what": __doc__.splitlines()[0], "categories": {}}
    if path.exists():
        made["categories"] = json.loads(path.read_text())["categories"]
    for name in options.categories:
        title = f"{name}, {options.size} px"
        if title in made["categories"]:
            continue
        train = load(name, size=options.size, root=options.root).train
        exam = mock_exam(train, name)
        detector = detector_of(options.networks, exam, options.size, options.steps)
        view, rows = ExamView(detector, exam), []
        for reading, maps in readings(view):
            rows.append({"maps": reading, **view.mark(maps)})
            print(title, reading, *(rows[-1][key] for key in METRICS), flush=True)
        words = ["NETWORKS", "--categories", name, "--size", str(options.size)]
        words += ["--steps", str(options.steps)]
        command = f"python benchmarks/try_maps.py {shlex.join(words)}"
        entry = {"steps": options.steps, "command": command, "rows": rows}
        made["categories"][title] = entry
        write_result(path, made | {"versions": versions(), "hardware": hardware()})


if __name__ == "__main__":
    main()
