"""Measure how well scores detect and how well maps localize (chapter 11).

Every metric here depends on the *order* of the scores only: no threshold grid, no
sigmoid, no per-image rescaling. Higher score = more anomalous. Arrays may be NumPy
arrays or torch tensors; results are NumPy arrays and Python floats.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import betaincinv

Array = NDArray | torch.Tensor
EIGHT_NEIGHBORS = np.ones((3, 3), dtype=int)


# --- Whole images ----------------------------------------------------------------


def image_auroc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve: P(anomalous score > normal score), ties count half.

    AUROC = sum_{i anomalous} (#{normal < s_i} + #{normal <= s_i}) / (2 n_a n_n)

    scores: (N,) finite, higher = more anomalous. labels: (N,) bool or 0/1.
    Returns a value in [0, 1]; 0.5 is chance, below 0.5 is worse than chance.
    Raises ValueError for one class only, NaN, or shapes that differ.
    Source: Hanley and McNeil, Radiology 143, 1982 (Mann-Whitney U statistic).
    """
    scores, labels = _scores_and_labels(scores, labels)
    return _rank_auroc(scores[labels], scores[~labels])


def average_precision(scores: Array, labels: Array) -> float:
    """Area under the precision-recall steps: sum_k (R_k - R_{k-1}) P_k.

    k runs over the distinct scores from high to low; tied scores form one step.
    Chance level is the share of anomalous samples, not 0.5.
    Arguments and errors as in `image_auroc`; the value is in (0, 1].
    """
    scores, labels = _scores_and_labels(scores, labels)
    true, false, _ = _counts_by_threshold(scores, labels)
    precision = true / (true + false)
    recall_gain = np.diff(true, prepend=0) / labels.sum()
    return float(np.sum(recall_gain * precision))


def roc_curve(scores: Array, labels: Array) -> tuple[NDArray, NDArray, NDArray]:
    """Every point of the ROC curve: (false positive rate, recall, thresholds).

    Point k holds the shares of scores >= thresholds[k]. Thresholds are the distinct
    scores in falling order after a first `inf`, where nothing is flagged; this is
    the convention of scikit-learn. `ebmlib.detector` flags scores *above* its
    threshold t, so it works at the point of the smallest listed threshold > t:
    the shares of scores > thresholds[k] are those of point k - 1.
    Arguments and errors as in `image_auroc`.
    """
    scores, labels = _scores_and_labels(scores, labels)
    true, false, thresholds = _counts_by_threshold(scores, labels)
    fpr = np.concatenate([[0.0], false / (~labels).sum()])
    tpr = np.concatenate([[0.0], true / labels.sum()])
    return fpr, tpr, np.concatenate([[np.inf], thresholds])


# --- Pixels ----------------------------------------------------------------------


def pixel_auroc(maps: Array, masks: Array) -> float:
    """AUROC over all pixels of all test images, pooled.

    maps: (N, H, W) finite. masks: (N, H, W) bool, True = defective.
    Large defects dominate, and some 97 % of pixels are background: read it beside
    `au_pro`. Raises ValueError for no defective or no normal pixel, NaN, or shapes
    that differ; TypeError for masks that are not bool.
    """
    maps, masks = _maps_and_masks(maps, masks)
    return _rank_auroc(maps[masks], maps[~masks])


def au_pro(maps: Array, masks: Array, limit: float = 0.3) -> float:
    """Exact area under the per-region-overlap curve up to a false positive rate.

    PRO(t) = mean over ground-truth regions of the share of the region with map >= t,
    AU-PRO = (1 / limit) * integral_0^limit PRO d FPR.

    Regions are 8-connected components, counted over all images; FPR is taken over
    all normal pixels of all images. Exchanging sum and integral leaves one term per
    defective pixel. With score s, a = FPR(> s) and b = FPR(>= s), the pixel is
    found linearly over [a, b] (a = b without ties), so it adds

        limit - (a + b) / 2              if b <= limit
        (limit - a)^2 / (2 (b - a))      if a < limit < b
        0                                otherwise

    divided by its region's size. The result is exact: ties and the interpolated
    point at the limit included, and no grid of thresholds.

    maps: (N, H, W) finite. masks: (N, H, W) bool. limit: in (0, 1].
    Returns a value in [0, 1]; a constant map gives limit / 2.
    Errors as in `pixel_auroc`. Source: Bergmann et al., IJCV 129, 2021, section 5.2.
    """
    maps, masks = _maps_and_masks(maps, masks)
    check_limit(limit)
    weights, regions = _region_weights(masks)
    a, b = _tie_intervals(maps[masks], maps[~masks], limit)
    return float(weights @ _area_after(a, b, limit) / (regions * limit))


def pro_curve(maps: Array, masks: Array, limit: float = 1.0) -> tuple[NDArray, NDArray]:
    """The vertices (fpr, pro) of the exact PRO curve from 0 to `limit`, for plots.

    The trapezoid rule over them, divided by `limit`, is `au_pro` exactly.
    Arguments and errors as in `au_pro`.
    """
    maps, masks = _maps_and_masks(maps, masks)
    check_limit(limit)
    weights, regions = _region_weights(masks)
    a, b = _tie_intervals(maps[masks], maps[~masks], limit)
    reached = a <= limit
    a, b, weights = a[reached], b[reached], weights[reached]
    # The tie interval that crosses the limit is cut there, by linear interpolation.
    weights = weights * np.where(b > limit, (limit - a) / np.maximum(b - a, 1e-300), 1)
    steps = np.stack([a, np.minimum(b, limit)])
    steps, which = np.unique(steps, axis=1, return_inverse=True)
    gained = np.bincount(which.ravel(), weights, minlength=steps.shape[1]) / regions
    found = np.cumsum(gained)
    fpr = np.concatenate([[0.0], steps.T.ravel(), [limit]])
    pro = np.stack([found - gained, found], axis=1).ravel()
    return fpr, np.concatenate([[0.0], pro, [found[-1] if found.size else 0.0]])


def aupimo(
    maps: Array,
    masks: Array,
    fpr_bounds: tuple[float, float] = (1e-5, 1e-4),
    min_points: int = 10,
) -> NDArray:
    """Per-image overlap at very few false alarms, one value per defective image.

    AUPIMO_i = 1 / log(U / L) * integral_L^U recall_i(z) d log z,

    where recall_i(z) is the share of image i's defective pixels found by the lowest
    threshold whose false positive rate on the *normal images* does not exceed z.
    A pixel whose score s has b = FPR(>= s) is found from z = b on, which gives the
    exact value: the mean of clip(log(U / b) / log(U / L), 0, 1) over the pixels.

    maps, masks: as in `au_pro`; images without any defective pixel are the normal
    ones. fpr_bounds: 0 < L < U <= 1. Returns (D,) values in [0, 1] for the D
    defective images in their order (`masks.any((1, 2))`); their mean is the summary.

    The integral rests on the normal pixels whose FPR lies in [L, U]: about
    n (U - L) of n. Fewer distinct ones than `min_points` raise ValueError, fewer
    than ten times as many give a UserWarning. Cure: more normal images, maps at a
    higher resolution, or wider bounds, to be reported with the value.
    Source: Bertoldo et al., BMVC 2024, arXiv 2401.01984.
    """
    maps, masks = _maps_and_masks(maps, masks)
    low, high = fpr_bounds
    if not 0 < low < high <= 1:
        raise ValueError(f"fpr_bounds must be 0 < low < high <= 1, got {fpr_bounds}.")
    defective = masks.any(axis=(1, 2))
    if defective.all():
        raise ValueError("AUPIMO needs normal images, but every mask has a defect.")
    normal = np.sort(maps[~defective], axis=None)
    _check_pimo_points(normal, low, high, min_points)
    values = []
    for image, mask in zip(maps[defective], masks[defective], strict=True):
        b = (normal.size - np.searchsorted(normal, image[mask])) / normal.size
        share = np.log(high / np.maximum(b, low)) / np.log(high / low)
        values.append(np.clip(share, 0, 1).mean())
    return np.array(values)


# --- Uncertainty -----------------------------------------------------------------


def bootstrap_interval(
    metric: Callable[..., float],
    *arrays: Array,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    stratify: Array | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `metric(*arrays)`, resampling whole images.

    Pixels of one image are not independent, so images are drawn, never pixels.

    metric: callable of the arrays, e.g. `image_auroc` with (scores, labels) or
    `au_pro` with (maps, masks). arrays: first axis = images, equal lengths.
    n: replicates. level: in (0, 1). stratify: (N,) labels; when given, every class
    keeps its number of images (use it with few normal images).
    Returns (low, high): the (1 -+ level) / 2 quantiles. The interval tells of the
    choice of test images, not of the training seed.

    A replicate on which the metric is undefined (one class only) is drawn again;
    more than n of those raise ValueError, as does a metric undefined on the data.
    `au_pro` and `pixel_auroc` themselves (not wrapped) sort the pixels once for all
    replicates and give the same numbers several times faster.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    columns = tuple(to_numpy(array) for array in arrays)
    evaluate = _resampled(metric, columns)
    return _percentiles(evaluate, _lengths(columns), n, level, seed, stratify)


def paired_interval(
    metric: Callable[..., float],
    first: Array,
    second: Array,
    truth: Array,
    *,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    stratify: Array | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of metric(first, truth) - metric(second, truth).

    Every resample draws the same images for both, so what makes an image hard for both
    cancels: two intervals may overlap widely, and the interval of the difference still
    lie on one side of 0.

    first, second: two answers to the same images, scores (N,) or maps (N, H, W).
    truth: labels (N,) or masks (N, H, W).
    Everything else, the errors included, as in `bootstrap_interval`.
    """
    columns = tuple(to_numpy(array) for array in (first, second, truth))
    ours = _resampled(metric, columns[::2])
    theirs = _resampled(metric, columns[1:])
    return _percentiles(
        lambda index: ours(index) - theirs(index),
        _lengths(columns),
        *(n, level, seed, stratify),
    )


def _lengths(columns: tuple[NDArray, ...]) -> list[int]:
    return [len(column) for column in columns]


def _percentiles(
    evaluate: Callable[[NDArray], float],
    lengths: list[int],
    n: int,
    level: float,
    seed: int,
    stratify: Array | None,
) -> tuple[float, float]:
    """Quantiles of `evaluate(indices of drawn images)`, see `bootstrap_interval`."""
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and 0 < level < 1, got n={n}, level={level}.")
    groups = _image_groups(lengths, stratify)
    evaluate(np.arange(lengths[0]))  # the data's own errors surface here
    rng = np.random.default_rng(seed)
    values: list[float] = []
    undefined = 0
    while len(values) < n:
        index = np.concatenate([rng.choice(group, len(group)) for group in groups])
        try:
            values.append(evaluate(index))
        except ValueError as error:
            undefined += 1
            if undefined > n:
                raise ValueError(
                    f"the metric was undefined on {undefined} resamples ({error}) "
                    "Pass stratify=labels so that every class stays present."
                ) from error
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def share_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share of which `count` of `total` were seen: (low, high).

    low is the share with which `count` or more of `total` have probability
    (1 - level) / 2, high the one with which `count` or fewer have it. The interval
    covers the true share with probability at least `level`, whatever it is. With 0 of n
    it begins at 0, with n of n it ends at 1; with total = 0 it is (0, 1).

    count: from 0 to total. level: in (0, 1). Raises ValueError otherwise.
    Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    if not 0 <= count <= total or not 0 < level < 1:
        raise ValueError(
            "need 0 <= count <= total and 0 < level < 1, got "
            f"count={count}, total={total}, level={level}."
        )
    tail, missed = (1 - level) / 2, total - count
    low = betaincinv(count, missed + 1, tail) if count else 0.0
    high = betaincinv(count + 1, missed, 1 - tail) if missed else 1.0
    return float(low), float(high)


def _resampled(
    metric: Callable[..., float], arrays: tuple[NDArray, ...]
) -> Callable[[NDArray], float]:
    """Metric as a function of the drawn image indices."""
    if metric is au_pro and len(arrays) == 2:
        return _RankedPixels.of(*arrays).au_pro
    if metric is pixel_auroc and len(arrays) == 2:
        return _RankedPixels.of(*arrays).pixel_auroc
    return lambda index: float(metric(*(array[index] for array in arrays)))


class _RankedPixels(NamedTuple):
    """Pixels sorted once; a resample then only changes how often an image counts."""

    images: int
    normal_image: NDArray  # (n,) image of each normal pixel, by rising score
    defect_image: NDArray  # (d,) image of each defective pixel
    below: NDArray  # (d,) number of normal pixels with a smaller score
    up_to: NDArray  # (d,) number of normal pixels with a smaller or equal score
    region_weight: NDArray  # (d,) 1 / size of the pixel's region

    @classmethod
    def of(cls, maps: NDArray, masks: NDArray) -> "_RankedPixels":
        maps, masks = _maps_and_masks(maps, masks)
        image = np.broadcast_to(np.arange(len(maps))[:, None, None], maps.shape)
        order = np.argsort(maps[~masks], kind="stable")
        normal = maps[~masks][order]
        return cls(
            len(maps),
            image[~masks][order],
            image[masks],
            np.searchsorted(normal, maps[masks], "left"),
            np.searchsorted(normal, maps[masks], "right"),
            _region_weights(masks)[0],
        )

    def _weighted(self, index: NDArray) -> tuple[NDArray, NDArray, NDArray, int]:
        times = np.bincount(index, minlength=self.images)
        counted = np.cumsum(times[self.normal_image])
        if not counted.size or counted[-1] == 0:
            raise ValueError("no normal pixel in the resample.")
        if times[self.defect_image].sum() == 0:
            raise ValueError("no defective pixel in the resample.")
        counted = np.concatenate([[0], counted])
        pixel_times = times[self.defect_image]
        return pixel_times, counted[self.below], counted[self.up_to], counted[-1]

    def pixel_auroc(self, index: NDArray) -> float:
        times, below, up_to, total = self._weighted(index)
        return float(times @ (below + up_to) / (2 * times.sum() * total))

    def au_pro(self, index: NDArray, limit: float = 0.3) -> float:
        times, below, up_to, total = self._weighted(index)
        weights = times * self.region_weight
        area = _area_after((total - up_to) / total, (total - below) / total, limit)
        return float(weights @ area / (weights.sum() * limit))  # sum = regions drawn


# --- The parts -------------------------------------------------------------------


def _rank_auroc(anomalous: NDArray, normal: NDArray) -> float:
    normal = np.sort(normal)
    below = np.searchsorted(normal, anomalous, "left").sum()
    up_to = np.searchsorted(normal, anomalous, "right").sum()
    return float((below + up_to) / (2 * anomalous.size * normal.size))


def _counts_by_threshold(scores: NDArray, labels: NDArray) -> tuple[NDArray, ...]:
    """(true positives, false positives, threshold) at each distinct score, falling."""
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each tie
    true = np.cumsum(labels)[last]
    return true, last + 1 - true, scores[last]


def _tie_intervals(
    defective: NDArray, normal: NDArray, limit: float
) -> tuple[NDArray, NDArray]:
    """FPR just above and at each defective score: a = FPR(> s), b = FPR(>= s).

    Only the highest normal scores are sorted, just enough to pass `limit`; for a
    defective score below all of those, a > limit or a = b = 1, which is all that is
    used.
    """
    total = normal.size
    keep = min(total, int(limit * total) + 1)
    top = np.sort(np.partition(normal, total - keep)[total - keep :])
    a = keep - np.searchsorted(top, defective, "right")
    b = keep - np.searchsorted(top, defective, "left")
    # Normal scores tied with the lowest kept one may have been cut off: count them.
    b[defective == top[0]] = np.count_nonzero(normal >= top[0])
    return a / total, b / total


def _area_after(a: NDArray, b: NDArray, limit: float) -> NDArray:
    """Integral over [0, limit] of a ramp from 0 at a to 1 at b (a step if a = b)."""
    whole = limit - (a + b) / 2
    part = (limit - a) ** 2 / (2 * np.where(b > a, b - a, 1))
    return np.where(b <= limit, whole, np.where(a < limit, part, 0.0))


def _region_weights(masks: NDArray) -> tuple[NDArray, int]:
    """1 / region size for every defective pixel, and the number of regions."""
    weights, regions = [], 0
    for mask in masks:
        labels, count = ndimage.label(mask, structure=EIGHT_NEIGHBORS)
        inside = labels[mask]
        weights.append(1.0 / np.bincount(inside, minlength=1)[inside])
        regions += count
    return np.concatenate(weights), regions


# --- Checks ----------------------------------------------------------------------


def to_numpy(array: Array) -> NDArray:
    """The values as a NumPy array on the CPU; half precision becomes float32."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        if array.dtype in (torch.bfloat16, torch.float16):
            array = array.float()
        return array.numpy()
    return np.asarray(array)


def _finite(array: NDArray, name: str) -> NDArray:
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}.")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise ValueError(
            f"{name} hold {bad} NaN or infinite values of {array.size}: the model "
            "diverged or divided by zero; find out why before measuring it."
        )
    return array


def _scores_and_labels(scores: Array, labels: Array) -> tuple[NDArray, NDArray]:
    scores, labels = _finite(to_numpy(scores), "scores"), to_numpy(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            "scores and labels must be (N,) with the same N, got "
            f"{scores.shape} and {labels.shape}."
        )
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"labels must be 0 (normal) or 1 (anomalous), got {np.unique(labels)[:5]}."
        )
    labels = labels.astype(bool)
    anomalous = int(labels.sum())
    if anomalous in (0, len(labels)):
        raise ValueError(
            f"need both classes, got {len(labels) - anomalous} normal and "
            f"{anomalous} anomalous samples."
        )
    return scores, labels


def _maps_and_masks(maps: Array, masks: Array) -> tuple[NDArray, NDArray]:
    maps, masks = _finite(to_numpy(maps), "maps"), to_numpy(masks)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(
            "maps and masks must be (N, H, W) with the same shape, got "
            f"{maps.shape} and {masks.shape}."
        )
    if masks.dtype != bool:
        raise TypeError(
            f"masks must be bool (True = defective), got {masks.dtype}; "
            "say what counts as defective, e.g. masks > 0."
        )
    if not masks.any():
        raise ValueError(
            "no defective pixel: every mask is empty. Where nobody has drawn masks "
            "(Category.has_masks is False) only detection can be measured."
        )
    if masks.all():
        raise ValueError("no normal pixel: every mask is full.")
    return maps, masks


def check_limit(limit: float) -> None:
    """Raise ValueError unless `limit` is a false positive rate in (0, 1]."""
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be a false positive rate in (0, 1], got {limit}.")


def _check_pimo_points(
    normal: NDArray, low: float, high: float, min_points: int
) -> None:
    """normal: sorted scores. Count the distinct FPR values within the bounds."""
    distinct = np.unique(normal)
    fpr = (normal.size - np.searchsorted(normal, distinct)) / normal.size
    points = np.count_nonzero((fpr >= low) & (fpr <= high))
    message = (
        f"{points} distinct normal scores out of {normal.size} have a false positive "
        f"rate in [{low:g}, {high:g}]"
    )
    if points < min_points:
        raise ValueError(
            f"{message}, fewer than {min_points}: AUPIMO is not defined. Use more "
            "normal images, larger maps, or wider fpr_bounds (and report them)."
        )
    if points < 10 * min_points:
        warnings.warn(f"{message}: AUPIMO is coarse.", UserWarning, stacklevel=3)


def _image_groups(lengths: list[int], stratify: Array | None) -> list[NDArray]:
    if not lengths or min(lengths) != max(lengths) or lengths[0] == 0:
        raise ValueError(
            f"arrays need the same number of images (at least 1), got {lengths}."
        )
    if stratify is None:
        return [np.arange(lengths[0])]
    labels = to_numpy(stratify)
    if labels.shape != (lengths[0],):
        raise ValueError(
            f"stratify must be ({lengths[0]},), one label per image, "
            f"got {labels.shape}."
        )
    return [np.flatnonzero(labels == value) for value in np.unique(labels)]
