"""Train the energy of chapter 7 for 2,000 updates, as it comes with the book.

    python tools/train_saved_energy.py

One thread and a fixed seed, so the same processor gives the same bits. It takes some
five minutes and prints what the energy and its gradient map are worth on the drawn test
images. Four fifths of the training images are learned, the others set thresholds.
"""

import torch

from ebmbook.saved import CD_COMMAND, CD_SIZE, FOLDER, load_saved, save_cd, train_cd
from ebmlib.data import load
from ebmlib.metrics import au_pro, image_auroc, pixel_auroc
from ebmlib.scoring import energy_score, gradient_map, image_score

CATEGORY, UPDATES, SEED = "synthetic/nut", 2000, 0
NAME = f"nut_cd_{UPDATES}"


def main() -> None:
    """Train, save, and measure the saved copy."""
    torch.set_num_threads(1)
    data = load(CATEGORY, size=CD_SIZE)
    learned = data.train[: len(data.train) * 4 // 5]
    energy, objective, log = train_cd(learned, UPDATES, SEED)
    settings = {
        "command": CD_COMMAND,
        "category": CATEGORY,
        "size": CD_SIZE,
        "images": len(learned),
        "updates": UPDATES,
        "seed": SEED,
        "start": "fitted_gaussian",
        "events": log.events,
    }
    path = FOLDER / f"{NAME}.safetensors"
    save_cd(path, energy, objective, log, settings)
    copy = load_saved(NAME).energy
    maps = gradient_map(copy, data.test, smoothing=1.0)
    scores = {
        "energy": energy_score(copy, data.test),
        "map, maximum": image_score(maps, "max"),
    }
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    for name, score in scores.items():
        print(f"image AUROC, {name}: {image_auroc(score, data.labels):.3f}")
    print(f"pixel AUROC, map: {pixel_auroc(maps, data.masks):.3f}")
    print(f"AU-PRO, map: {au_pro(maps, data.masks):.3f}")


if __name__ == "__main__":
    main()
