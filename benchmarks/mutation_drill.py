"""A mutation drill: change one constant of the library, and see who notices.

    python benchmarks/mutation_drill.py

Each mutation of the list below goes alone into a fresh copy of the tracked files. Then
two juries look at it, each until its first failure: the library tests (the most related
file first, then the others), and the chapters, whose stored outputs `pytest --nbval`
compares. A mutation that stops a jury by its time limit counts as noticed.

A chapter is left out only where it cannot notice: the run without any mutation records
which functions of the library each chapter enters, in all its processes. Up to the
first time that a mutated line runs, a program does the same as before; where the
function around the line is never entered, it does the same to the end. The record is
made anew when the chapter or the library has changed.

Not run: `tests/test_built_book.py` and `tests/test_pages_in_browser.py`, which need the
built book and a browser; the tests of the demos in a browser skip themselves.

The result is written after every step. The same command continues where it stopped; a
mutation whose text has changed is measured anew, and one whose text is no longer in the
library exactly once is an error. `null` means not measured. With `--related` only the
tests and chapters that a mutation names are asked: quick, and enough to catch it, but
not enough to say that nobody would.
"""

import argparse
import ast
import hashlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("test_built_book.py", "test_pages_in_browser.py")
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "pytest", "nbval")
LIMIT = 3600  # seconds for one jury, some twenty times what it takes alone


class Mutation(NamedTuple):
    """One changed constant."""

    name: str
    file: str  # below ebmlib/
    old: str  # stands in the file exactly once
    new: str
    breaks: str  # what is then no longer true
    tests: str  # the most related test files, tests/test_NAME.py, tried first
    chapters: str = ""  # the most related chapters by number, tried first


MUTATIONS = [
    # ------------------------------------------------------------------ the energies
    Mutation(
        "sign of the patch energy",
        "energy.py",
        "return F.softplus(self.logits(x))",
        "return F.softplus(-self.logits(x))",
        "the energy is low where a patch looks abnormal",
        "energy",
        "06 09",
    ),
    Mutation(
        "softplus of the patch energy",
        "energy.py",
        "return F.softplus(self.logits(x))",
        "return F.relu(self.logits(x))",
        "patch energies are no longer -log of a probability",
        "energy",
        "06 09",
    ),
    Mutation(
        "sum over positions",
        "energy.py",
        "pooled = _wide(h).sum((2, 3))",
        "pooled = _wide(h).mean((2, 3))",
        "the gradient at a pixel shrinks as the image grows",
        "energy",
        "06 07",
    ),
    Mutation(
        "factor of the Gaussian energy",
        "energy.py",
        "return 0.5 * (offset @ self.precision",
        "return 1.0 * (offset @ self.precision",
        "exp(-E) has half the variance",
        "energy",
        "02 03",
    ),
    Mutation(
        "scale of the initial weights",
        "energy.py",
        "1 / math.sqrt(0.356 * inputs * kernel**2)",
        "1 / math.sqrt(0.712 * inputs * kernel**2)",
        "features fade from layer to layer",
        "energy",
        "06 07",
    ),
    Mutation(
        "axes of color",
        "energy.py",
        "(2 * b - r - g)",
        "(1 * b - r - g)",
        "the axes of color are no longer orthogonal",
        "energy",
        "06 08",
    ),
    # ---------------------------------------------------------- products of experts
    Mutation(
        "half of the squared distance",
        "experts.py",
        "return white.square().sum(2).movedim(-1, 0) / 2",
        "return white.square().sum(2).movedim(-1, 0)",
        "the Gaussian expert is not -log of a Gaussian any more",
        "experts",
        "12",
    ),
    Mutation(
        "place of a Gaussian patch",
        "experts.py",
        "before, after = margin // 2, margin - margin // 2",
        "before, after = 0, margin",
        "patches are not centered in their cells",
        "experts",
        "12",
    ),
    Mutation(
        "share of the second expert",
        "experts.py",
        "ratio = share * (first.std() / second.std()).item()",
        "ratio = (first.std() / second.std()).item() / share",
        "the second expert is nine times too soft",
        "experts",
        "12",
    ),
    Mutation(
        "logarithm of the patch energies",
        "scoring.py",
        "cells = cells.log1p()",
        "cells = cells.sqrt()",
        "a loud patch spills over its neighbors",
        "experts",
        "12",
    ),
    # -------------------------------------------------------------------- the sampler
    Mutation(
        "Langevin noise",
        "langevin.py",
        "math.sqrt(2 * step_size) if noise is None",
        "math.sqrt(1 * step_size) if noise is None",
        "the chains sample at temperature 1/2",
        "langevin",
        "03",
    ),
    Mutation(
        "Langevin drift",
        "langevin.py",
        "x = x - step_size * gradient",
        "x = x - 0.5 * step_size * gradient",
        "drift and noise no longer belong to one diffusion",
        "langevin",
        "03",
    ),
    Mutation(
        "clip of the gradient",
        "langevin.py",
        "gradient = gradient.clamp(-clip_grad, clip_grad)",
        "gradient = gradient.clamp(-2 * clip_grad, 2 * clip_grad)",
        "entries of the gradient reach twice the bound",
        "langevin",
        "03 13",
    ),
    Mutation(
        "replay share",
        "langevin.py",
        "generator=generator) < self.fresh]",
        "generator=generator) < 1 - self.fresh]",
        "nearly all chains begin anew in every round",
        "langevin",
        "04 07",
    ),
    Mutation(
        "levels of the replay buffer",
        "langevin.py",
        "return (levels + jitter) / 256, index",
        "return (levels + jitter) / 255, index",
        "stored chains come back a little brighter",
        "langevin",
        "07 04",
    ),
    Mutation(
        "spread of the chains",
        "langevin.py",
        "return math.sqrt(2 * float(x.float().var(0)",
        "return math.sqrt(1 * float(x.float().var(0)",
        "a vital sign of the chains is too small",
        "langevin",
        "04 07 13",
    ),
    # --------------------------------------------------------------------- the losses
    Mutation(
        "sign of contrastive divergence",
        "losses.py",
        "contrast = e_data.mean() - e_chain.mean()",
        "contrast = e_chain.mean() - e_data.mean()",
        "data become unlikely",
        "losses",
        "04 07",
    ),
    Mutation(
        "energy penalty",
        "losses.py",
        "penalty * (e_data.square().mean() + e_chain.square().mean())",
        "penalty * (e_data.square().mean() - e_chain.square().mean())",
        "the energy of the chains is driven away from zero",
        "losses",
        "04 07",
    ),
    Mutation(
        "score matching target",
        "losses.py",
        "_squares(sigma * slope - noise)",
        "_squares(sigma * slope - 0.5 * noise)",
        "the slope learned is half of the score",
        "losses",
        "05",
    ),
    Mutation(
        "noise density in the contrast",
        "losses.py",
        "F.softplus(-e_negatives - q_negatives)",
        "F.softplus(-e_negatives + q_negatives)",
        "the minimum is no longer E = -log p",
        "losses",
        "05",
    ),
    Mutation(
        "normal patches of the contrast",
        "losses.py",
        "is_normal, is_corrupted = cover == 0, cover >= share",
        "is_normal, is_corrupted = cover < share, cover >= share",
        "patches that are partly corrupted count as normal",
        "losses",
        "05 08",
    ),
    Mutation(
        "weight of the contrast",
        "losses.py",
        "    corrupted = F.softplus(-logits[is_corrupted]).sum() / max(count, 1)",
        "    corrupted = F.softplus(-logits[is_corrupted]).sum() / max(count, 2)",
        "a single corrupted patch counts half",
        "losses",
        "08 05",
    ),
    Mutation(
        "direction of the restoring force",
        "losses.py",
        "pull = stiffness * (corrupted - x)",
        "pull = stiffness * (x - corrupted)",
        "the energy falls toward the damage",
        "restoration losses",
        "09 05",
    ),
    # -------------------------------------------------------------------- the training
    Mutation(
        "start of the averaged weights",
        "training.py",
        "keep = min(ema, (1 + self.step) / (10 + self.step))",
        "keep = min(ema, (1 + self.step) / (1 + self.step))",
        "the average does not forget the initial weights in short runs",
        "training",
        "07",
    ),
    Mutation(
        "rate after a rollback",
        "training.py",
        "state.rate_scale *= guard.rate_factor",
        "state.rate_scale *= 1.0",
        "a run that diverged is tried again as fast as before",
        "training",
        "07 13",
    ),
    Mutation(
        "memory of the guard",
        "training.py",
        'recent = log.health.get("loss", [])[-50:]',
        'recent = log.health.get("loss", [])[-5:]',
        "a loss is judged by the last five instead of the last fifty",
        "training",
        "07 13",
    ),
    Mutation(
        "schedule of the rate",
        "training.py",
        "return 0.5 * (1 + math.cos(math.pi * step / steps))",
        "return 0.5 * (1 + math.cos(0.5 * math.pi * step / steps))",
        "the rate does not fall to zero",
        "training",
        "07",
    ),
    Mutation(
        "write, force to disk, rename",
        "checkpoint.py",
        "os.fsync(file.fileno())  # on disk before the name changes hands",
        "file.fileno()",
        "after a power cut the new name may stand for an empty file",
        "training resume",
        "07 14",
    ),
    Mutation(
        "checksum of a checkpoint",
        "checkpoint.py",
        "crc = zlib.crc32(text.encode())",
        "crc = zlib.crc32(text[:0].encode())",
        "damage in the header goes unnoticed",
        "training detector",
        "14",
    ),
    # --------------------------------------------------------------------- the scoring
    Mutation(
        "norm of the gradient map",
        "scoring.py",
        "return gradient.square().sum(1).sqrt()",
        "return gradient.square().mean(1).sqrt()",
        "the norm over color channels is too small",
        "scoring",
        "09",
    ),
    Mutation(
        "smoothing of maps",
        "scoring.py",
        "widths = (0.0,) * (maps.ndim - 2) + (sigma, sigma)",
        "widths = (0.0,) * (maps.ndim - 2) + (sigma, 0.5 * sigma)",
        "maps are smoothed more in one direction than in the other",
        "scoring",
        "09 10",
    ),
    Mutation(
        "floor of the standardizer",
        "scoring.py",
        "std.clamp_min(self.floor * std.median() + tiny)",
        "std.clamp_min(0.0 * std.median() + tiny)",
        "a pixel that hardly varied turns a harmless change into a huge score",
        "scoring",
        "09 10",
    ),
    Mutation(
        "share of the top score",
        "scoring.py",
        "flat.topk(max(1, round(share * flat.shape[1])))",
        "flat.topk(max(1, round(0.5 * share * flat.shape[1])))",
        "the mean runs over half as many pixels",
        "scoring",
        "10",
    ),
    Mutation(
        "weights of the weighted map",
        "scoring.py",
        "** share * patches ** (1 - share)",
        "** share * patches ** share",
        "the map is no longer a geometric mean",
        "scoring",
        "09 10",
    ),
    # --------------------------------------------------------------------- the metrics
    Mutation(
        "limit of AU-PRO",
        "metrics.py",
        "def au_pro(maps: Array, masks: Array, limit: float = 0.3)",
        "def au_pro(maps: Array, masks: Array, limit: float = 0.2)",
        "the area ends at another false positive rate than in the literature",
        "metrics",
        "11",
    ),
    Mutation(
        "limit of AU-PRO in the bootstrap",
        "metrics.py",
        "def au_pro(self, index: NDArray, limit: float = 0.3)",
        "def au_pro(self, index: NDArray, limit: float = 0.2)",
        "the interval is that of another measure",
        "metrics",
        "11",
    ),
    Mutation(
        "ties in AUROC, of images and pixels",
        "metrics.py",
        'up_to = np.searchsorted(normal, anomalous, "right").sum()',
        'up_to = np.searchsorted(normal, anomalous, "left").sum()',
        "ties count nothing instead of one half",
        "metrics",
        "11",
    ),
    Mutation(
        "regions of AU-PRO",
        "metrics.py",
        "ndimage.label(mask, structure=EIGHT_NEIGHBORS)",
        "ndimage.label(mask)",
        "regions that touch at a corner count as two",
        "metrics",
        "11",
    ),
    Mutation(
        "bounds of AUPIMO",
        "metrics.py",
        "fpr_bounds: tuple[float, float] = (1e-5, 1e-4)",
        "fpr_bounds: tuple[float, float] = (1e-4, 1e-3)",
        "the value stands for ten times as many false alarms",
        "metrics",
        "11",
    ),
    Mutation(
        "tails of the bootstrap",
        "metrics.py",
        "tail = (1 - level) / 2",
        "tail = (1 - level) / 1",
        "a 95 % interval covers 90 %",
        "metrics",
        "11",
    ),
    # -------------------------------------------------------- the detector, its recipes
    Mutation(
        "conformal quantile",
        "detector.py",
        "math.ceil((len(scores) + 1) * (1 - rate))",
        "math.ceil((len(scores) + 0) * (1 - rate))",
        "more false alarms than promised",
        "detector",
        "08",
    ),
    Mutation(
        "held-out images",
        "detector.py",
        "promise = math.ceil(1 / self.false_alarm_rate) - 1",
        "promise = math.ceil(1 / self.false_alarm_rate) - 2",
        "one image too few for the promised false-alarm rate",
        "detector",
        "08",
    ),
    Mutation(
        "smoothing of the contrast recipe",
        "recipes.py",
        "on normal images already\n        smoothing=1 / 64,",
        "on normal images already\n        smoothing=1 / 128,",
        "the map is smoothed half as much as measured",
        "recipes",
        "08",
    ),
    Mutation(
        "noise of the backbone's features",
        "backbone.py",
        "self.stride, self.noise = weights, 4, 0.1",
        "self.stride, self.noise = weights, 4, 0.2",
        "the covariance gets four times the regularization of PaDiM",
        "backbone",
        "12",
    ),
    Mutation(
        "colors of ImageNet",
        "backbone.py",
        "[0.485, 0.456, 0.406]",
        "[0.406, 0.456, 0.485]",
        "trained weights see red as blue",
        "backbone",
        "12",
    ),
    Mutation(
        "step of the chains",
        "recipes.py",
        "steps=1, snr=0.04, noise=noise",
        "steps=1, snr=0.08, noise=noise",
        "chains of contrastive divergence step twice as far",
        "recipes",
    ),
    # -------------------------------------------------------------------- the baselines
    Mutation(
        "baseline: mean brightness",
        "baselines/brightness.py",
        "(levels - self.mean).abs() / self.std",
        "(levels - self.mean) / self.std",
        "too dark is no longer unusual",
        "baselines",
        "01",
    ),
    Mutation(
        "baseline: per-pixel Gaussian",
        "baselines/per_pixel_gaussian.py",
        "self.std = images.std(0)",
        "self.std = images.var(0)",
        "distances are not in standard deviations",
        "baselines",
        "01",
    ),
    Mutation(
        "baseline: PCA",
        "baselines/pca.py",
        "self.directions = directions[: self.components]",
        "self.directions = directions[1 : 1 + self.components]",
        "the first principal direction is taken for an anomaly",
        "baselines",
        "01",
    ),
    Mutation(
        "baseline: autoencoder",
        "baselines/autoencoder.py",
        "CosineAnnealingLR(adam, self.steps)",
        "CosineAnnealingLR(adam, 2 * self.steps)",
        "the learning rate falls to half, not to zero",
        "baselines",
    ),
    Mutation(
        "baseline: Gaussian at each position",
        "baselines/features.py",
        ".add_(noise**2)",
        ".add_(noise)",
        "a standard deviation is added to a variance",
        "baselines",
    ),
    Mutation(
        "baseline: nearest patch",
        "baselines/patch_knn.py",
        "chosen.append(int(nearest.argmax()))",
        "chosen.append(int(nearest.argmin()))",
        "the memory holds one patch many times",
        "baselines",
        "01 11",
    ),
    Mutation(
        "cosine filters",
        "baselines/features.py",
        "basis[0] /= math.sqrt(2)",
        "basis[0] /= math.sqrt(3)",
        "the filters are not orthonormal",
        "baselines",
        "01 11",
    ),
    # ------------------------------------------------------------------------- the data
    Mutation(
        "exposure",
        "data/exposure.py",
        "(self.mean + self.std * x).clamp(0, 1)",
        "(self.mean + 1.1 * self.std * x).clamp(0, 1)",
        "images have more contrast than those that training saw",
        "exposure photometry",
        "12 08",
    ),
    Mutation(
        "two ways round",
        "data/pose.py",
        "torch.tensor([0.0, 0.0, math.pi])",
        "torch.tensor([0.0, 0.0, 0.5 * math.pi])",
        "a part that lies the other way round is not turned",
        "pose",
        "12",
    ),
    Mutation(
        "when position says something",
        "data/pose.py",
        "EXPLAINED = 0.5",
        "EXPLAINED = 0.9",
        "parts that always lie alike are treated like a cloth",
        "pose detector",
        "12 08",
    ),
    Mutation(
        "which light is no position",
        "data/pose.py",
        "right * down, down**2\n",
        "right * down, down**4\n",
        "corners that a lens darkens pass for a shared place",
        "pose",
        "12",
    ),
    Mutation(
        "which way a part is brought back",
        "data/registration.py",
        "shifts = shifts - torch.linalg.solve(",
        "shifts = shifts + torch.linalg.solve(",
        "parts that lie a little off are moved further off",
        "registration",
        "12",
    ),
    Mutation(
        "how far a part is brought back",
        "data/registration.py",
        "return cls(frame.template, shifts.abs().max())",
        "return cls(frame.template, 0.5 * shifts.abs().max())",
        "normal parts that lie furthest off stay off",
        "registration",
        "12",
    ),
    Mutation(
        "whose light counts",
        "data/exposure.py",
        "weight = 1 / (1 + (error / (2 * usual)) ** 2)",
        "weight = 1 / (1 + (error / (20 * usual)) ** 2)",
        "a large defect changes the light of the rest of the part",
        "exposure",
        "12",
    ),
    Mutation(
        "what counts as changed",
        "data/corruption.py",
        "VISIBLE = 0.04",
        "VISIBLE = 0.08",
        "masks of the corruptions are too small",
        "corruption",
        "05 07",
    ),
    Mutation(
        "angle of augmentation",
        "data/augmentation.py",
        "turn = math.radians(self.rotate) * angle",
        "turn = math.radians(2 * self.rotate) * angle",
        "images turn twice as far as asked",
        "augmentation",
        "12 08",
    ),
    Mutation(
        "resizing by area",
        "data/resizing.py",
        "overlap = np.minimum(last, pixel + 1)",
        "overlap = np.minimum(last, pixel + 0.9)",
        "a new pixel is not the mean over its area",
        "images",
        "01 12",
    ),
    Mutation(
        "majority of a mask",
        "data/resizing.py",
        "small = share >= 0.5 - 1e-6",
        "small = share >= 0.25 - 1e-6",
        "masks grow when they are resized",
        "images mvtec",
        "01 12",
    ),
    Mutation(
        "white of 16 bits",
        "data/files.py",
        "white = 65535 if bits is None",
        "white = 65536 if bits is None",
        "white of a 16-bit image is not 1",
        "images",
        "01 12",
    ),
    Mutation(
        "masks paired by name",
        "data/mvtec_layout.py",
        'own = left.pop(f"{stem}_mask", [])',
        "own = left.pop(next(iter(left), None), [])",
        "one missing mask shifts all that follow",
        "mvtec",
        "01 12",
    ),
    Mutation(
        "hash of a download",
        "data/download.py",
        "if sha256 is not None and digest != sha256:",
        "if sha256 is not None and digest[:0] != sha256[:0]:",
        "any file passes for the published one",
        "download",
    ),
    Mutation(
        "mask of a drawn defect",
        "data/synthetic.py",
        "mask = _shrink(alpha) > 0.2",
        "mask = _shrink(alpha) > 0.4",
        "the edge of a defect is missing from its mask",
        "synthetic",
        "01",
    ),
    Mutation(
        "gray levels of the museum",
        "data/museum.py",
        "(tensor.float() + 0.5) / 256",
        "(tensor.float() + 0.5) / 128",
        "pictures of the museum are twice as bright",
        "museum",
        "13",
    ),
    # -------------------------------------------------- results, sweeps, pages, figures
    Mutation(
        "scale of the gain",
        "results.py",
        # (sign + 2) / 2 would change nothing: a constant leaves the gain, a difference.
        "return 0.5 * (np.sign(difference) + 1)",
        "return 1.0 * (np.sign(difference) + 1)",
        "the gain is twice the difference of the AUROCs",
        "results",
        "12",
    ),
    Mutation(
        "mark of a trivial row",
        "results.py",
        'mark = "" if mean(values) > bar',
        'mark = "" if mean(values) > bar - 0.1',
        "a figure below the trivial row goes unmarked",
        "results",
        "12",
    ),
    Mutation(
        "a cell that was killed",
        "sweep.py",
        'f"killed by signal {-code}", False)',
        'f"killed by signal {-code}", True)',
        "a killed result passes for a good one",
        "sweep",
    ),
    Mutation(
        "digits of stored scores",
        "benchmark.py",
        "digits: int = 6",
        "digits: int = 2",
        "stored scores have ties that the scores had not",
        "benchmark",
    ),
    Mutation(
        "bytes of the exported weights",
        "browser.py",
        'astype("<f4")',
        'astype(">f4")',
        "the page reads other weights than were trained",
        "browser_export",
    ),
    Mutation(
        "one color scale",
        "plotting.py",
        "vmax = float(heat.max()) if vmax is None",
        "vmax = float(heat[0].max()) if vmax is None",
        "the color scale is that of the first image",
        "plotting",
        "01",
    ),
    Mutation(
        "count under the slider",
        "widgets.py",
        "flagged = scores > at",
        "flagged = scores < at",
        "the sentence counts the images that pass",
        "widgets",
    ),
    Mutation(
        "answer of an exercise",
        "exercises/chapter_03.py",
        "square = temperature * step * (2 - product)",
        "square = temperature * step * (2 + product)",
        "the right answer is called wrong",
        "exercises_03",
        "03",
    ),
    Mutation(
        "hint of an exercise",
        "exercises/chapter_03.py",
        '(n / (right - 1), "the 1 in 1 + 2 sum is missing."),',
        '(n / (right - 2), "the 1 in 1 + 2 sum is missing."),',
        "a typical mistake does not get its hint",
        "exercises_03",
        "03",
    ),
]


# -------------------------------------------------------------------- one copy, mutated


@contextmanager
def copy_of_project(mutation: Mutation | None) -> Iterator[Path]:
    """A folder with the tracked files, one of them mutated; gone afterwards."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in listed.stdout.splitlines():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        if mutation is not None:
            target = Path(folder, "ebmlib", mutation.file)
            target.write_text(mutated(mutation), encoding="utf-8")
        yield Path(folder)


def mutated(mutation: Mutation) -> str:
    """The file's text with the one change."""
    text = (ROOT / "ebmlib" / mutation.file).read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.name}: {mutation.old!r} stands {text.count(mutation.old)} "
            f"times in ebmlib/{mutation.file}, expected once; bring the list up to date"
        )
    return text.replace(mutation.old, mutation.new)


def place(mutation: Mutation) -> str:
    """The function, class or module whose body holds the mutated text, by name.

    Defaults and decorators belong to what stands around the function: they are
    evaluated there.
    """
    path = ROOT / "ebmlib" / mutation.file
    text = path.read_text(encoding="utf-8")
    line = 1 + text[: text.index(mutation.old)].count("\n")
    names: list[str] = []
    node: ast.AST = ast.parse(text)
    kinds = (ast.FunctionDef, ast.ClassDef)
    while inner := [
        child
        for child in ast.walk(node)
        if isinstance(child, kinds)
        and child is not node
        and child.body[0].lineno <= line <= child.end_lineno
    ]:
        node = min(inner, key=lambda child: child.lineno)
        names.append(node.name)
        if isinstance(node, ast.FunctionDef):
            names.append("<locals>")
    names = names[:-1] if names[-1:] == ["<locals>"] else names
    return f"{mutation.file} {'.'.join(names) or '<module>'}"


# ----------------------------------------------------------------------- the two juries


class Verdict(NamedTuple):
    """What one run of pytest said."""

    caught: bool
    by: str | None  # the first test that failed
    seconds: float
    passed: int


def pytest(folder: Path, *words: str, record: Path | None = None) -> Verdict:
    """Run pytest in a copy, with its library and no other, up to the first failure."""
    words = ("-x", "-q", "-p", "no:cacheprovider", *words)
    environment = {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if record is not None:
        (record.parent / "sitecustomize.py").write_text(RECORDER)
        environment["PYTHONPATH"] = f"{record.parent}{os.pathsep}{folder}"
        environment |= {
            "DRILL_FOLDER": f"{folder}/ebmlib/",
            "DRILL_RECORD": str(record),
        }
    begin = time.perf_counter()
    run = _in_a_new_process if "--nbval" in words else _in_a_forked_process
    code, said = run(folder, words, environment)
    seconds = round(time.perf_counter() - begin, 1)
    if code is None:
        return Verdict(True, f"time limit of {LIMIT} s", seconds, 0)
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE)
    passed = re.search(r"(\d+) passed", said)
    if code == 0 or (code in (1, 2) and failed):
        by = failed[1] if failed else None
        return Verdict(by is not None, by, seconds, int(passed[1]) if passed else 0)
    raise RuntimeError(f"pytest ended with {code}: {said[-2000:]}")


def _in_a_new_process(
    folder: Path, words: tuple[str, ...], environment: dict[str, str]
) -> tuple[int | None, str]:
    """Exit code (None: time limit) and output; threads as the chapters choose."""
    inherited = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words],
            cwd=folder,
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout


def _in_a_forked_process(
    folder: Path, words: tuple[str, ...], environment: dict[str, str]
) -> tuple[int | None, str]:
    """The same from a server that has imported torch already: half the time."""
    with tempfile.NamedTemporaryFile("r") as log:
        process = FORKS.Process(
            target=_pytest_here, args=(str(folder), words, environment, log.name)
        )
        process.start()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            return None, ""
        return process.exitcode, log.read()


def _pytest_here(
    folder: str, words: tuple[str, ...], environment: dict[str, str], log: str
) -> None:
    output = os.open(log, os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= environment
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    os.chdir(folder)
    import pytest

    code = pytest.main(list(words))
    sys.stdout.flush()
    os._exit(code)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["torch", "scipy.stats", "sklearn", "matplotlib.pyplot", "IPython", "nbformat"]
)


# Starts with every process of a chapter: notes each function of the library once.
RECORDER = """
import os, sys, threading

folder, seen = os.environ["DRILL_FOLDER"], {}
record = os.open(os.environ["DRILL_RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def trace(frame, event, argument):
    code = frame.f_code
    if id(code) not in seen:
        seen[id(code)] = code
        if code.co_filename.startswith(folder):
            name = code.co_filename[len(folder):]
            os.write(record, f"{name} {code.co_qualname}\\n".encode())

threading.settrace(trace)
sys.settrace(trace)
"""


def library_tests(folder: Path, first: str = "", related: bool = False) -> Verdict:
    """All tests of the library and of the files around it, the related ones first.

    With `related` only those, which can catch a mutation but not let it pass.
    """
    files = sorted(p.name for p in (folder / "tests").glob("test_*.py"))
    files = [name for name in files if name not in LEFT_OUT]
    near = [f"test_{name}.py" for name in first.split()]
    if missing := set(near) - set(files):
        raise SystemExit(f"no such tests: {missing}")
    seconds, passed = 0.0, 0
    for group in (near, [name for name in files if name not in near]):
        if group:
            verdict = pytest(folder, *(f"tests/{name}" for name in group))
            seconds, passed = seconds + verdict.seconds, passed + verdict.passed
            if verdict.caught or related:
                break
    return Verdict(verdict.caught, verdict.by, round(seconds, 1), passed)


def chapters(folder: Path, names: list[str]) -> Verdict:
    """The chapters one after another, up to the first output that differs."""
    seconds, passed = 0.0, 0
    for name in names:
        verdict = pytest(folder, "--nbval", f"notebooks/{name}.ipynb")
        seconds, passed = seconds + verdict.seconds, passed + verdict.passed
        if verdict.caught:
            return Verdict(True, verdict.by, round(seconds, 1), passed)
    return Verdict(False, None, round(seconds, 1), passed)


# --------------------------------------------------------------------------- the drill


def digest_of(name: str) -> str:
    """Of a chapter and the library: what decides which functions the chapter enters."""
    files = [ROOT / "notebooks" / f"{name}.ipynb", *sorted(ROOT.glob("ebmlib/**/*.py"))]
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


class Drill:
    """The result file, and what is still missing from it."""

    def __init__(self, path: Path, command: str):
        self.path, self.lock = path, threading.Lock()
        self.result: dict[str, Any] = {
            "what": __doc__.split("\n")[0],
            "command": command,
            "not_run": [f"tests/{name}" for name in LEFT_OUT],
            "note": "seconds of wall clock beside other work: no measure of speed",
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in PACKAGES},
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores, CPU",
            "baseline": {"library": None, "chapters": {}},
            "entered": {},
            "summary": {},
            "mutations": [],
        }
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            self.result |= {k: found[k] for k in ("baseline", "entered", "mutations")}
        known = {tuple(e[k] for k in ("file", "old", "new")): e for e in self.mutations}
        self.result["mutations"] = [
            {
                **m._asdict(),
                "place": place(m),
                **{
                    jury: known.get((m.file, m.old, m.new), {}).get(jury)
                    for jury in ("library", "nbval")
                },
            }
            for m in MUTATIONS
        ]

    @property
    def mutations(self) -> list[dict[str, Any]]:
        """One entry per mutation, in the order of the list."""
        return self.result["mutations"]

    def save(self) -> None:
        """Write the file whole or not at all."""
        self.result["summary"] = summary(self.mutations)
        self.result["entered"] = dict(sorted(self.result["entered"].items()))
        text = json.dumps(self.result, indent=1, ensure_ascii=False)
        # Lists of numbers on one line each.
        text = re.sub(r"\[\s+([^][{}]*?)\s+\]", _on_one_line, text)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(self.path)

    def chapter_names(self) -> list[str]:
        """All chapters by file name without its ending."""
        return sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

    def baseline(self, name: str) -> None:
        """The library tests, or one chapter, without a mutation: they must pass."""
        found = self.result["baseline"]
        if name == "library":
            if found["library"] is None:
                with copy_of_project(None) as folder:
                    self._keep(found, "library", library_tests(folder))
            return
        digest = digest_of(name)
        if found["chapters"].get(name, {}).get("of") == digest:
            return
        with copy_of_project(None) as folder, tempfile.TemporaryDirectory() as side:
            record = Path(side, "entered.txt")
            words = ("--nbval", f"notebooks/{name}.ipynb")
            verdict = pytest(folder, *words, record=record)
            with self.lock:
                for entered in self.result["entered"].values():
                    entered[:] = [n for n in entered if n != int(name[:2])]
                for function in set(record.read_text().splitlines()):
                    entered = self.result["entered"].setdefault(function, [])
                    entered[:] = sorted({*entered, int(name[:2])})
            self._keep(found["chapters"], name, verdict, of=digest)

    def _keep(self, where: dict, name: str, verdict: Verdict, **more: str) -> None:
        if verdict.caught:
            raise SystemExit(f"without a mutation {verdict.by} fails: nothing to learn")
        with self.lock:
            seen = {"passed": verdict.passed, "seconds": verdict.seconds}
            where[name] = seen | more
            self.save()
        print(f"without a mutation: {name} passes, {verdict.seconds:.0f} s", flush=True)

    def try_mutation(
        self, mutation: Mutation, juries: list[str], related: bool = False
    ) -> None:
        """Both juries, unless their verdicts are there."""
        entry = next(e for e in self.mutations if e["name"] == mutation.name)
        asked = [jury for jury in juries if entry[jury] is None]
        if not asked:
            return
        with copy_of_project(mutation) as folder:
            for jury in asked:
                if jury == "library":
                    verdict = library_tests(folder, mutation.tests, related)
                    everybody, more = not related, {}
                else:
                    able = self.able_to_notice(mutation)
                    near = [n for n in able if n[:2] in mutation.chapters.split()]
                    verdict = chapters(folder, near if related else able)
                    everybody = not related or near == able
                    more = {"chapters_that_enter": [int(n[:2]) for n in able]}
                said = f"{mutation.name}, {jury}: {verdict.by or 'nobody'}"
                print(f"{said}, {verdict.seconds:.0f} s", flush=True)
                if not (verdict.caught or everybody):
                    continue
                with self.lock:
                    entry[jury] = {
                        "caught": verdict.caught,
                        "by": verdict.by,
                        "seconds": verdict.seconds,
                        **more,
                    }
                    self.save()

    def able_to_notice(self, mutation: Mutation) -> list[str]:
        """Chapters that enter the mutated function, the related ones first."""
        times = self.result["baseline"]["chapters"]
        entered = self.result["entered"].get(place(mutation), [])
        names = [name for name in times if int(name[:2]) in entered]
        near = mutation.chapters.split()

        def rank(name: str) -> tuple[int, float]:
            number = name[:2]
            first = near.index(number) if number in near else len(near)
            return first, times[name]["seconds"]

        return sorted(names, key=rank)


def _on_one_line(match: re.Match) -> str:
    line = "[" + re.sub(r"\s*\n\s*", " ", match[1]) + "]"
    return line if len(line) < 80 else match[0]


def summary(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """How many each jury noticed of those it was asked about, and both together.

    One jury that notices is enough; that nobody does takes the verdicts of both.
    """
    counts: dict[str, Any] = {"mutations": len(entries)}
    for jury in ("library", "nbval"):
        asked = [e[jury] for e in entries if e[jury]]
        caught = sum(verdict["caught"] for verdict in asked)
        counts[jury] = {"measured": len(asked), "caught": caught}
    caught = [e for e in entries if any(_caught(e[j]) for j in ("library", "nbval"))]
    missed = [e for e in entries if e not in caught and e["library"] and e["nbval"]]
    counts["whole_suite"] = {
        "measured": len(caught) + len(missed),
        "caught": len(caught),
        "missed": [e["name"] for e in missed],
    }
    return counts


def _caught(verdict: dict[str, Any] | None) -> bool:
    return bool(verdict and verdict["caught"])


def main() -> int:
    """Run what is missing and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=2, help="copies at a time")
    parser.add_argument("--jury", choices=("library", "nbval", "both"), default="both")
    parser.add_argument(
        "--related", action="store_true", help="ask only the related tests and chapters"
    )
    parser.add_argument("--only", help="mutations whose name or file contains this")
    parser.add_argument("--list", action="store_true", help="check the list, run none")
    parser.add_argument("--output", type=Path, default="results/mutation_drill.json")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # library tests, as `make test` does
    for mutation in MUTATIONS:
        ast.parse(mutated(mutation))
        if options.list:
            print(f"{mutation.name}: {place(mutation)}")
    if options.list:
        return 0
    drill = Drill(options.output, "python benchmarks/mutation_drill.py")
    juries = ["library", "nbval"] if options.jury == "both" else [options.jury]
    asked = [
        m for m in MUTATIONS if (options.only or "") in f"{m.name} ebmlib/{m.file}"
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        if "nbval" in juries:
            for names in (drill.chapter_names(), ["library"][: not options.related]):
                list(pool.map(drill.baseline, names))
        list(pool.map(lambda m: drill.try_mutation(m, juries, options.related), asked))
    drill.save()
    print(json.dumps(drill.result["summary"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
