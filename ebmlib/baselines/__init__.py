"""Six detectors that any energy has to beat, one a file (chapters 1 and 12).

All obey the contract of `ebmlib.estimator`, as the detector does: `fit(images)` on
normal images, then `anomaly_score(images)` and `anomaly_map(images)`, higher = more
anomalous. Images are whatever `ebmlib.data.images.images_to_tensor` accepts. Print the
trivial baselines beside every result: if mean brightness alone separates the test set,
a high AUROC on it means nothing.

`label` says in tables what a baseline is. Two of them borrow a scheme from a well-known
method and say so; none of them uses pretrained weights.
"""

from ebmlib.baselines.autoencoder import Autoencoder
from ebmlib.baselines.base import Baseline
from ebmlib.baselines.brightness import MeanBrightness
from ebmlib.baselines.patch_knn import PatchKNN, farthest_points
from ebmlib.baselines.pca import PCAReconstruction
from ebmlib.baselines.per_pixel_gaussian import PerPixelGaussian
from ebmlib.baselines.position_gaussian import PositionGaussian

__all__ = [
    "BASELINES",
    "TRIVIAL",
    "Autoencoder",
    "Baseline",
    "MeanBrightness",
    "PCAReconstruction",
    "PatchKNN",
    "PerPixelGaussian",
    "PositionGaussian",
    "farthest_points",
]

# The order of tables: from the most trivial to the strongest.
BASELINES: dict[str, type[Baseline]] = {
    "brightness": MeanBrightness,
    "per_pixel_gaussian": PerPixelGaussian,
    "pca": PCAReconstruction,
    "autoencoder": Autoencoder,
    "position_gaussian": PositionGaussian,
    "patch_knn": PatchKNN,
}
# Without patches, without training: closed forms over whole images.
TRIVIAL = ("brightness", "per_pixel_gaussian", "pca")
