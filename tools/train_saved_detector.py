"""Train the detector that comes with the book.

    python tools/train_saved_detector.py

One thread and a fixed seed, so the same processor gives the same bits. It takes some
five minutes and prints what the detector is worth on the drawn test images.
"""

import torch

from ebmbook.saved import FOLDER, SEED, SIZE, STEPS
from ebmlib.data import load
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import au_pro, image_auroc, pixel_auroc
from ebmlib.recipes import Contrast

CATEGORY = "synthetic/nut"


def main() -> None:
    """Train, save, and measure the saved copy."""
    torch.set_num_threads(1)
    data = load(CATEGORY, size=SIZE)
    # Its energy standardizes every image by itself; the drawn light varies little.
    options = {"normalize_exposure": False, "aligned": True, "device": "cpu"}
    detector = EnergyDetector(Contrast(STEPS), SIZE, seed=SEED, **options)
    detector.fit(data.train, progress=True)
    path = FOLDER / f"{CATEGORY.replace('/', '_')}.safetensors"
    detector.save(path)
    copy = EnergyDetector.load(path, device="cpu")
    scores, maps = copy.anomaly_score(data.test), copy.anomaly_map(data.test)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    print(f"image AUROC {image_auroc(scores, data.labels):.3f}")
    print(f"pixel AUROC {pixel_auroc(maps, data.masks):.3f}")
    print(f"AU-PRO      {au_pro(maps, data.masks):.3f}")


if __name__ == "__main__":
    main()
