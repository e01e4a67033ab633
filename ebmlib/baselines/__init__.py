"""Six detectors that any energy has to beat, one a file (chapters 1 and 12).

All share the interface of the detector: `fit(images)` on normal images, then
`anomaly_score(images)` and `anomaly_map(images)`, higher = more anomalous. Images are
float tensors (N, C, H, W) in [0, 1]. Print the trivial rows beside every result: if
mean brightness alone separates the test set, a good number on it means nothing.

`label` is a baseline's honest name, for tables. Two of them borrow a scheme from a
well-known method and say so; none of them uses pretrained weights.
"""

from typing import Any

from ebmlib.baselines.autoencoder import Autoencoder
from ebmlib.baselines.brightness import MeanBrightness
from ebmlib.baselines.features import cosine_filters
from ebmlib.baselines.patch_knn import PatchKNN, farthest_points
from ebmlib.baselines.pca import PCAReconstruction
from ebmlib.baselines.per_pixel_gaussian import PerPixelGaussian
from ebmlib.baselines.position_gaussian import PositionGaussian

__all__ = [
    "BASELINES",
    "TRIVIAL",
    "Autoencoder",
    "MeanBrightness",
    "PCAReconstruction",
    "PatchKNN",
    "PerPixelGaussian",
    "PositionGaussian",
    "cosine_filters",
    "farthest_points",
]

# The order of tables: from the most trivial to the strongest.
BASELINES: dict[str, Any] = {
    "brightness": MeanBrightness,
    "per_pixel_gaussian": PerPixelGaussian,
    "pca": PCAReconstruction,
    "autoencoder": Autoencoder,
    "position_gaussian": PositionGaussian,
    "patch_knn": PatchKNN,
}
# Without patches, without training: closed forms over whole images.
TRIVIAL = ("brightness", "per_pixel_gaussian", "pca")
