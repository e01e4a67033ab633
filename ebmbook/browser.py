"""Write a trained patch energy as a script that a web page can run (chapters 9, 15).

    python -m ebmbook.browser

trains a small `PatchEnergy` on drawn nuts and writes two classic scripts, which a page
can load from a disk as well as from a server: `nut_model.js` (weights, threshold, map
statistics, energies of normal parts, measured quality, and how all this was made) and
`nut_images.js` (a few test images to begin with). The mathematics that runs them is
`book/_static/demos/patch_energy.js`. One seed, one thread, no clock and no date: on the
same processor type and with the same versions the command inside a file makes the
file again, bit for bit; `--check` does that and compares.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ebmlib
from ebmlib.calibration import conformal_threshold
from ebmlib.data import Category, load
from ebmlib.metrics import au_pro, bootstrap_interval, image_auroc, pixel_auroc
from ebmlib.networks import PatchEnergy
from ebmlib.random import seeded
from ebmlib.recipes import Contrast
from ebmlib.scoring import (
    MapStandardizer,
    energy_score,
    gradient_map,
    patch_map,
    smooth,
)
from ebmlib.training import train

FOLDER = Path("book/_static/demos/data")
SMOOTHING = 1.0  # of the map, in px; the recipe's share of a side of 64 px
WIDTHS = (0.0, 0.5, SMOOTHING, 1.5, 2.0, 3.0)  # that the page offers
SHARE = 0.25  # of the gradient in the weighted map
COUNTED = 200  # normal images that the maps' mean and spread are taken from
SHOWN_NORMALS, SHOWN_DEFECTS = 8, 2  # images in the page; defects of each kind


@dataclass(frozen=True)
class Settings:
    """What the exported network is and how it is trained.

    Attributes:
        category: a drawn category; photographs may not be redistributed.
        size: side of the images in px.
        seed: of weights and training; the data have their own, 0.
        train: number of normal images to learn from.
        held_out: number of further normal images for the threshold and the histogram.
        width: of the `PatchEnergy`.
        blocks: of the `PatchEnergy`.
        steps: of training.
        false_alarm_rate: share of normal images above the threshold.
    """

    category: str = "synthetic/nut"
    size: int = 64
    seed: int = 0
    train: int = 1000
    held_out: int = 400
    width: int = 16
    blocks: int = 3
    steps: int = 6000
    false_alarm_rate: float = 0.05

    def command(self) -> str:
        """The command that writes the two files with these settings."""
        words = ["python -m ebmbook.browser"]
        for name, value in asdict(self).items():
            words.append(f"--{name.replace('_', '-')} {value}")
        return " ".join(words)


def make(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw, train, measure: the contents of the model file and of the image file."""
    if not settings.category.startswith("synthetic/"):
        raise ValueError(
            "only drawn images may be put into a page, such as 'synthetic/nut'; "
            f"got {settings.category!r}"
        )
    drawn = settings.train + settings.held_out
    with one_thread():
        data = load(settings.category, size=settings.size, n_train=drawn)
        normals, held_out = data.train.split([settings.train, settings.held_out])
        energy, _ = fit(normals, settings)
        model = describe(energy, normals, held_out, data, settings)
    return model, pictures(data)


def trial(normals: Tensor, settings: Settings) -> list[float]:
    """The losses of eight steps on sixteen images.

    Training for minutes is no test for every day. This one takes a second, and tells
    whether the recipe has changed since the file was written.
    """
    return fit(normals[:16], replace(settings, steps=8))[1]


def fit(normals: Tensor, settings: Settings) -> tuple[PatchEnergy, list[float]]:
    """A small energy by the recipe `ebmlib.recipes.Contrast`, and its losses.

    The recipe augments few images; here as many different nuts are drawn as needed.
    """
    plan = Contrast(settings.steps).plan(normals, True, settings.seed)
    assert plan.objective is not None
    with seeded(settings.seed):
        energy = PatchEnergy(
            normals.shape[1],
            width=settings.width,
            blocks=settings.blocks,
            coordinates=True,
        )
    options = plan.training | {"augment": None, "seed": settings.seed}
    log = train(energy, normals, plan.objective, device="cpu", **options)
    return energy.eval().requires_grad_(False), [*log.health["loss"]]


def describe(
    energy: PatchEnergy,
    normals: Tensor,
    held_out: Tensor,
    data: Category,
    settings: Settings,
) -> dict[str, Any]:
    """Everything the page computes with and says, as numbers and text."""
    usual = energy_score(energy, held_out).sort().values
    threshold = conformal_threshold(usual, settings.false_alarm_rate)
    return {
        "command": settings.command(),
        "settings": asdict(settings),
        "versions": versions(),
        "data": {
            "train": len(normals),
            "held_out": len(held_out),
            "test": len(data.test),
            "levels": gray_levels(data.test),
        },
        "trial": trial(normals, settings),
        "config": energy.config(),
        "size": settings.size,
        "parameters": sum(p.numel() for p in energy.parameters()),
        "smoothing": SMOOTHING,
        "widths": list(WIDTHS),
        "share": SHARE,
        "standardizer": {"mode": "global"}
        | map_statistics(energy, normals[:COUNTED], data.test),
        "threshold": {"value": threshold, "rate": settings.false_alarm_rate},
        "quality": quality(energy, data, threshold),
        "energies": [round(float(e), 4) for e in usual],
        "weights": weights_to_text(energy),
    }


def sharp_maps(energy: PatchEnergy, images: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient map and patch map before they are smoothed: (N, H, W) each."""
    gradient = gradient_map(energy, images, smoothing=0)
    return gradient, patch_map(energy, images, smoothing=0)


def maps_at(sharp: tuple[Tensor, Tensor], width: float) -> dict[str, Tensor]:
    """The page's two maps: `gradient_map` and `weighted_map` at this smoothing."""
    gradient, patches = (smooth(maps, width) for maps in sharp)
    return {
        "gradient": gradient,
        "weighted": gradient**SHARE * patches ** (1 - SHARE),
    }


def map_statistics(
    energy: PatchEnergy, normals: Tensor, test: Tensor
) -> dict[str, dict[str, Any]]:
    """Mean and spread of the maps of normal images, at every width of the slider.

    `top` ends the color scale of the standardized maps. It is one number for all images
    (chapter 9): 0.5 % of the test images' pixels lie above it.
    """
    usual, shown = sharp_maps(energy, normals), sharp_maps(energy, test)
    result: dict[str, dict[str, Any]] = {}
    for width in WIDTHS:
        tested = maps_at(shown, width)
        for kind, maps in maps_at(usual, width).items():
            standardizer = MapStandardizer("global").fit(maps)
            found = result.setdefault(kind, {"mean": [], "std": []})
            for name, value in zip(
                ("mean", "std"), (standardizer.mean_, standardizer.std_), strict=True
            ):
                assert value is not None
                found[name].append(float(value))
            if width == SMOOTHING:
                z = standardizer(tested[kind]).numpy()
                found["top"] = float(np.quantile(z, 0.995))
    return result


def quality(energy: PatchEnergy, data: Category, threshold: float) -> dict[str, Any]:
    """What the page may claim: measured on the test images, with 95 % intervals."""
    labels, masks = data.labels.numpy(), data.masks.numpy()
    scores = energy_score(energy, data.test).numpy()
    result: dict[str, Any] = {
        "normal": int((~labels).sum()),
        "defective": int(labels.sum()),
        "false_alarms": int((scores[~labels] > threshold).sum()),
        "found": int((scores[labels] > threshold).sum()),
        "image_auroc": _with_interval(image_auroc, scores, labels, labels),
    }
    for kind, maps in maps_at(sharp_maps(energy, data.test), SMOOTHING).items():
        arrays = maps.numpy(), masks, labels
        result[kind] = {
            "pixel_auroc": _with_interval(pixel_auroc, *arrays),
            "au_pro": _with_interval(au_pro, *arrays),
        }
    return result


def _with_interval(
    metric: Callable[..., float],
    predicted: np.ndarray,
    truth: np.ndarray,
    labels: np.ndarray,
) -> list[float]:
    """A metric and the ends of its interval: [value, low, high]."""
    n = 1000 if predicted.ndim == 1 else 100  # maps are slow to resample
    ends = bootstrap_interval(metric, predicted, truth, n=n, stratify=labels)
    return [round(float(value), 4) for value in (metric(predicted, truth), *ends)]


def pictures(data: Category) -> dict[str, Any]:
    """A few test images as text: the first normal ones, the first of each defect."""
    good = [i for i, kind in enumerate(data.kinds) if kind == "good"]
    defects = []
    for number in range(SHOWN_DEFECTS):  # every kind once before any comes twice
        for kind in dict.fromkeys(kind for kind in data.kinds if kind != "good"):
            index = [i for i, k in enumerate(data.kinds) if k == kind][number]
            mask = np.packbits(data.masks[index].numpy())
            image = to_text(to_bytes(data.test[index]))
            defects.append({"kind": kind, "image": image, "mask": to_text(mask)})
    normals = [to_text(to_bytes(data.test[i])) for i in good[:SHOWN_NORMALS]]
    return {"normals": normals, "defects": defects}


# ------------------------------------------------------------------------ text


def weights_to_text(energy: PatchEnergy) -> str:
    """All weights in the order of `parameters()`: float32, little-endian, base64.

    That order is what `patch_energy.js` expects: the strided convolutions, the mixers,
    the 1x1 convolutions, the head; of each the kernel (out, in, row, column), the bias.
    """
    flat = torch.cat([p.detach().flatten().cpu() for p in energy.parameters()])
    return to_text(flat.numpy().astype("<f4"))


def energy_from(model: dict[str, Any]) -> PatchEnergy:
    """The network of a model file, as a PyTorch module again."""
    energy = PatchEnergy(**model["config"])
    flat = np.frombuffer(base64.b64decode(model["weights"]), dtype="<f4")
    count = sum(p.numel() for p in energy.parameters())
    if len(flat) != count:
        raise ValueError(f"this network has {count} weights, the file {len(flat)}")
    parts = torch.from_numpy(flat.copy()).split(
        [p.numel() for p in energy.parameters()]
    )
    for parameter, part in zip(energy.parameters(), parts, strict=True):
        parameter.data.copy_(part.view_as(parameter))
    return energy.eval().requires_grad_(False)


def to_bytes(images: Tensor) -> np.ndarray:
    """Images (..., C, H, W) in [0, 1] as bytes (..., H, W, C)."""
    return (images * 255).round().byte().movedim(-3, -1).contiguous().numpy()


def to_text(array: np.ndarray) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def gray_levels(images: Tensor) -> list[float]:
    """The mean of every image, in [0, 1]: tells whether the drawing has changed since.

    A hash of the bytes would not do: processors differ in the last bit of a sine, and
    here and there one gray level with it.
    """
    return [round(value, 5) for value in images.mean((1, 2, 3)).tolist()]


def versions() -> dict[str, str]:
    """What decides the bits besides the settings and the processor."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {
        "ebmlib": ebmlib.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": python,
    }


def to_script(name: str, content: dict[str, Any], command: str) -> str:
    """A classic script that defines the constant `name`; Node can require it."""
    lines = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()
    )
    return (
        f"// Written by: {command}\n"
        f"const {name} = {{\n{lines}\n}};\n"
        f'if (typeof module !== "undefined") module.exports = {name};\n'
    )


def read_script(path: str | Path) -> dict[str, Any]:
    """The content of a file that `to_script` wrote."""
    text = Path(path).read_text(encoding="ascii")
    start, end = text.find(" = {"), text.rfind("};\n")
    if not text.startswith("// Written by: ") or start < 0 or end < 0:
        raise ValueError(f"{path} is not a script written by ebmbook.browser")
    return json.loads(text[start + 3 : end + 1])


# --------------------------------------------------------------------- command


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of several threads may round differently from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def scripts(settings: Settings) -> dict[str, str]:
    """File name to text of the two scripts."""
    model, images = make(settings)
    command = settings.command()
    return {
        "nut_model.js": to_script("EBM_NUT_MODEL", model, command),
        "nut_images.js": to_script("EBM_NUT_IMAGES", images, command),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """One flag for every setting, `--out` and `--check`."""
    parser = argparse.ArgumentParser(
        prog="python -m ebmbook.browser", description=__doc__.split("\n")[0]
    )
    for name, value in asdict(Settings()).items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(value), default=value)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the files")
    parser.add_argument(
        "--check", action="store_true", help="compare with the files, write nothing"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train and write, or train and compare."""
    options = vars(parse(arguments))
    folder, check = options.pop("out"), options.pop("check")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in scripts(Settings(**options)).items():
        path = folder / name
        if not check:
            path.write_text(text, encoding="ascii")
        elif not path.exists() or path.read_text(encoding="ascii") != text:
            raise SystemExit(f"{path}: the command gives other bits here")
        print(f"{path}: {len(text) / 1000:.0f} kB{', the same bits' * check}")
    if not check:
        print(json.dumps(read_script(folder / "nut_model.js")["quality"], indent=1))


if __name__ == "__main__":
    main()
