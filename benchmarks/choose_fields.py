"""Choose the settings of the recipe `Fields` on training images alone.

Every candidate sits the mock exams of `mock_exam.py`: it learns from two thirds of a
category's training images and is marked on the last third, half of it damaged. The
rule, written before the first run: the candidate with the highest mean over the exams
of (image AUROC + pixel AUROC + AU-PRO) / 3; the standing one stays unless another is
ahead of it by more than .002 in that mean.

    python benchmarks/choose_fields.py --root FOLDER --categories mvtec/bottle
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from mock_exam import mock_exam

from ebmlib import EnergyDetector, Fields, load
from ebmlib.benchmark import hardware, today, versions
from ebmlib.metrics import au_pro, image_auroc, pixel_auroc
from ebmlib.results_files import write_result

MOST = 150  # images of a category that take part
CANDIDATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "standing": ({}, {}),
    "Gaussian alone": ({"field": "gaussian"}, {}),
    "Parzen alone": ({"field": "parzen"}, {}),
    "no exposure": ({}, {"normalize_exposure": False}),
    "no registration": ({}, {"register": False}),
    "neither": ({}, {"register": False, "normalize_exposure": False}),
    "16 patches a place": ({"memory": 16}, {}),
    "smoothing 2 px": ({}, {"smoothing": 2.0}),
    "smoothing 6 px": ({}, {"smoothing": 6.0}),
    "cosine features": ({"features": "cosine"}, {}),
}


def main() -> None:
    """Let the candidates sit the exams, and keep what they got."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES))
    parser.add_argument("--root", help="folder of the categories")
    parser.add_argument("--out", type=Path, default=Path("results/experiments"))
    options = parser.parse_args()
    path = options.out / "choose_fields.json"
    found = json.loads(path.read_text()) if path.exists() else {"marks": {}}
    for name in options.categories:
        train = load(name, size=256, **_root(name, options.root)).train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(5))
        exam = mock_exam(train[order[:MOST]], name)
        for candidate in options.candidates:
            own, detector = CANDIDATES[candidate]
            start = time.perf_counter()
            model = EnergyDetector(Fields(**own), 256, **detector).fit(exam.train)
            said = model.predict(exam.test)
            marks = [
                image_auroc(said.scores, exam.labels),
                pixel_auroc(said.maps, exam.masks),
                au_pro(said.maps, exam.masks),
            ]
            found["marks"].setdefault(candidate, {})[name] = [
                round(float(mark), 4) for mark in marks
            ]
            seconds = time.perf_counter() - start
            shown = " ".join(f"{mark:.3f}" for mark in marks)
            print(f"{name} {candidate}: {shown} ({seconds:.0f} s)", flush=True)
            found |= {"versions": versions(), "hardware": hardware(), "date": today()}
            write_result(path, found)
    for candidate, exams in found["marks"].items():
        marks = torch.tensor(list(exams.values()))
        shown = " ".join(f"{mark:.3f}" for mark in marks.mean(0).tolist())
        print(f"{candidate}: {shown}, mean {marks.mean():.4f} of {len(exams)} exams")


def _root(name: str, root: str | None) -> dict[str, str]:
    return {"root": root} if root and name.startswith("mvtec/") else {}


if __name__ == "__main__":
    main()
