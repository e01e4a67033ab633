"""Each metric against an independent implementation, and its invariances."""

import functools

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.integrate import trapezoid
from sklearn import metrics as sk

from ebmlib import metrics

EIGHT = np.ones((3, 3))


def literal_pro(maps, masks):
    """(fpr, pro) at every distinct score, one region and one threshold at a time."""
    regions = []
    for image, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, EIGHT)
        regions += [image[labels == k + 1] for k in range(count)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for t in np.unique(maps)[::-1]:
        coverage = np.mean([(region >= t).mean() for region in regions])
        points.append(((normal >= t).mean(), coverage))
    return np.array(points).T


def literal_au_pro(curve, limit=0.3):
    fpr, pro = curve
    area = 0.0
    for x0, x1, y0, y1 in zip(fpr, fpr[1:], pro, pro[1:], strict=False):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def literal_aupimo(maps, masks, low, high, steps=200_001):
    """The definition by brute force: recall at each of many FPR on a log grid."""
    defective = masks.any((1, 2))
    normal = np.sort(maps[~defective].ravel())[::-1]
    z = np.logspace(np.log10(low), np.log10(high), steps)
    # Admissible thresholds, low to high FPR: the largest score set with FPR <= z.
    candidates = np.unique(maps)[::-1]
    fpr = np.array([(normal >= t).mean() for t in candidates])
    chosen = np.searchsorted(fpr, z, "right") - 1
    values = []
    for image, mask in zip(maps[defective], masks[defective], strict=True):
        recall = np.array([(image[mask] >= t).mean() for t in candidates])
        values.append(np.where(chosen >= 0, recall[np.maximum(chosen, 0)], 0).mean())
    return np.array(values)


def some_maps(seed=0, n=6, side=20, ties=None):
    """Noise maps, raised within random rectangles; three quarters have a defect."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, side, side), dtype=bool)
    for mask in masks[n // 4 :]:
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, side - 6, 2)
            mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
    maps = rng.normal(size=masks.shape) + 1.2 * masks
    if ties:
        maps = np.round(maps * ties) / ties
    return maps, masks


def some_scores(seed=0, n=60, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    scores = rng.normal(size=n) + labels
    return (np.round(scores * 2) / 2 if ties else scores), labels


@functools.cache
def some_curve(seed, ties):
    return literal_pro(*some_maps(seed, ties=ties))


TIES = [None, 10, 2, 0.5]
LIMITS = [0.01, 0.05, 0.3, 0.77, 1.0]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_agree_with_scikit_learn(seed, ties):
    scores, labels = some_scores(seed, ties=ties)
    assert metrics.image_auroc(scores, labels) == pytest.approx(
        sk.roc_auc_score(labels, scores), abs=1e-12
    )
    assert metrics.average_precision(scores, labels) == pytest.approx(
        sk.average_precision_score(labels, scores), abs=1e-12
    )
    ours = metrics.roc_curve(scores, labels)
    theirs = sk.roc_curve(labels, scores, drop_intermediate=False)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("ties", [False, True])
def test_the_point_before_a_threshold_holds_what_lies_above_it(ties):
    """The detector flags score > threshold; the ROC curve counts score >= threshold."""
    scores, labels = some_scores(2, ties=ties)
    fpr, tpr, thresholds = metrics.roc_curve(scores, labels)
    for k, threshold in enumerate(thresholds):
        at, above = scores >= threshold, scores > threshold
        assert (fpr[k], tpr[k]) == (at[~labels].mean(), at[labels].mean())
        if k:
            before = above[~labels].mean(), above[labels].mean()
            assert (fpr[k - 1], tpr[k - 1]) == before


@pytest.mark.parametrize("ties", TIES)
def test_pixel_auroc_agrees_with_scikit_learn(ties):
    maps, masks = some_maps(1, ties=ties)
    expected = sk.roc_auc_score(masks.ravel(), maps.ravel())
    assert metrics.pixel_auroc(maps, masks) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("ties", TIES)
def test_au_pro_equals_the_literal_algorithm(ties, limit):
    for seed in range(3):
        maps, masks = some_maps(seed, ties=ties)
        expected = literal_au_pro(some_curve(seed, ties), limit)
        assert metrics.au_pro(maps, masks, limit) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("ties", TIES)
def test_pro_curve_passes_through_the_literal_points_and_has_the_area(ties, limit):
    maps, masks = some_maps(3, ties=ties)
    fpr, pro = metrics.pro_curve(maps, masks, limit)
    assert (np.diff(fpr) >= 0).all() and (np.diff(pro) >= -1e-12).all()
    assert fpr[0] == pro[0] == 0 and fpr[-1] == limit
    area = trapezoid(pro, fpr) / limit
    assert area == pytest.approx(metrics.au_pro(maps, masks, limit), abs=1e-12)
    for x, y in some_curve(3, ties).T:
        if x < limit:  # a point of the literal curve lies on a vertex or a flat part
            here = fpr == x
            low = pro[here].min() if here.any() else np.interp(x, fpr, pro)
            high = pro[here].max() if here.any() else low
            assert low - 1e-12 <= y <= high + 1e-12


def test_au_pro_by_hand():
    # One region of two pixels (scores 5 and 2), normals 4, 3, 1, 0.
    # Pixel 5 is found from FPR 0, pixel 2 from FPR 1/2.
    maps = np.array([[[5.0, 2.0], [4.0, 3.0], [1.0, 0.0]]])
    masks = np.array([[[1, 1], [0, 0], [0, 0]]], dtype=bool)
    assert metrics.au_pro(maps, masks, 1.0) == pytest.approx((1 + 0.5) / 2)
    assert metrics.au_pro(maps, masks, 0.5) == pytest.approx(0.5)
    assert metrics.au_pro(maps, masks, 0.75) == pytest.approx((0.75 + 0.25) / 1.5)
    # Pixel 2 tied with normal 3: found linearly over FPR [1/4, 1/2].
    maps[0, 0, 1] = 3.0
    assert metrics.au_pro(maps, masks, 0.5) == pytest.approx((0.5 + 0.125) / 1.0)
    assert metrics.au_pro(maps, masks, 0.375) == pytest.approx(
        (0.375 + 0.125**2 / (2 * 0.25)) / 0.75
    )


def test_the_defaults_are_those_of_the_papers():
    """AU-PRO up to a false positive rate of 0.3, AUPIMO from 1e-5 to 1e-4."""
    rng = np.random.default_rng(0)
    maps = rng.random((4, 300, 300))
    masks = np.zeros(maps.shape, dtype=bool)
    masks[2:, 100:140, 50:90] = True
    maps[masks] = 1 - 10 ** rng.uniform(-6, -3, masks.sum())
    assert metrics.au_pro(maps, masks) == metrics.au_pro(maps, masks, limit=0.3)
    bounds = {"fpr_bounds": (1e-5, 1e-4), "min_points": 5}
    with pytest.warns(UserWarning, match="coarse"):
        chosen = metrics.aupimo(maps, masks, **bounds)
        assert np.array_equal(metrics.aupimo(maps, masks, min_points=5), chosen)


def test_small_and_large_regions_weigh_the_same_and_corners_connect():
    masks = np.zeros((1, 9, 9), dtype=bool)
    masks[0, :4, :4] = True  # 16 pixels
    masks[0, 7, 7] = True  # 1 pixel
    maps = np.zeros((1, 9, 9))
    maps[0, 7, 7] = 1.0  # finds only the small one
    found_at_zero = metrics.pro_curve(maps, masks)[1][2]
    assert found_at_zero == pytest.approx(0.5)
    masks[0, 4:8, 4:8] = np.eye(4, dtype=bool)  # a diagonal joins the two
    assert metrics.pro_curve(maps, masks)[1][2] == pytest.approx(1 / 20)


@pytest.mark.filterwarnings("ignore:.*AUPIMO is coarse")
def test_perfect_constant_and_inverted_maps():
    _, masks = some_maps(2)
    perfect = masks.astype(float)
    for limit in LIMITS:
        assert metrics.au_pro(perfect, masks, limit) == pytest.approx(1)
        constant = metrics.au_pro(np.zeros(masks.shape), masks, limit)
        assert constant == pytest.approx(limit / 2)
        assert metrics.au_pro(-perfect, masks, limit) == pytest.approx(0)
    assert metrics.pixel_auroc(perfect, masks) == 1
    assert metrics.pixel_auroc(np.zeros(masks.shape), masks) == 0.5
    np.testing.assert_allclose(metrics.aupimo(perfect, masks, (0.01, 1), 1), 1)
    np.testing.assert_allclose(metrics.aupimo(0 * perfect, masks, (0.01, 1), 1), 0)


@pytest.mark.filterwarnings("ignore:.*AUPIMO is coarse")
@pytest.mark.parametrize("ties", [None, 2])
def test_monotone_maps_change_nothing(ties):
    maps, masks = some_maps(4, n=8, ties=ties)
    scores, labels = some_scores(4, ties=bool(ties))
    rank = np.unique(maps, return_inverse=True)[1].reshape(maps.shape)
    for other in (np.exp(3 * maps), rank, 1e-6 * maps - 25):
        for metric in (metrics.au_pro, metrics.pixel_auroc):
            assert metric(other, masks) == metric(maps, masks)
        bounds = (0.05, 0.5)
        np.testing.assert_array_equal(
            metrics.aupimo(other, masks, bounds, 1),
            metrics.aupimo(maps, masks, bounds, 1),
        )
    for metric in (metrics.image_auroc, metrics.average_precision):
        assert metric(np.exp(3 * scores), labels) == metric(scores, labels)


@pytest.mark.filterwarnings("ignore:.*AUPIMO is coarse")
@pytest.mark.parametrize("ties", [None, 10])
def test_aupimo_equals_brute_force(ties):
    maps, masks = some_maps(5, n=8, ties=ties)
    low, high = 0.02, 0.4
    ours = metrics.aupimo(maps, masks, (low, high))
    assert ours.shape == (masks.any((1, 2)).sum(),)
    np.testing.assert_allclose(ours, literal_aupimo(maps, masks, low, high), atol=1e-4)


def test_aupimo_refuses_and_warns_when_too_few_pixels_carry_it():
    maps, masks = some_maps(5, n=8)
    with pytest.raises(ValueError, match=r"distinct normal scores out of 800.*wider"):
        metrics.aupimo(maps, masks)
    with pytest.warns(UserWarning, match="coarse"):
        metrics.aupimo(maps, masks, (0.1, 0.2))
    with pytest.raises(ValueError, match="fpr_bounds"):
        metrics.aupimo(maps, masks, (0.2, 0.1))
    with pytest.raises(ValueError, match="normal images"):
        metrics.aupimo(maps[2:], masks[2:])


def test_auroc_keeps_the_order_of_large_scores():
    # A sigmoid would map all of these to 1.0 in single precision.
    scores = torch.tensor([25.0, 26.0, 27.0, 28.0])
    assert metrics.image_auroc(scores, torch.tensor([0, 0, 1, 1])) == 1.0


def test_torch_and_numpy_agree():
    maps, masks = some_maps(6)
    maps = maps.astype(np.float32)
    tensors = torch.tensor(maps, requires_grad=True), torch.tensor(masks)
    for metric in (metrics.au_pro, metrics.pixel_auroc):
        assert metric(*tensors) == metric(maps, masks)


@pytest.mark.parametrize("metric", [metrics.au_pro, metrics.pixel_auroc])
@pytest.mark.parametrize("stratified", [False, True])
def test_fast_bootstrap_equals_the_literal_one(metric, stratified):
    maps, masks = some_maps(7, n=8, ties=4)
    stratify = masks.any((1, 2)) if stratified else None
    options = {"n": 50, "seed": 3, "stratify": stratify}
    fast = metrics.bootstrap_interval(metric, maps, masks, **options)
    literal = metrics.bootstrap_interval(
        lambda maps, masks: metric(maps, masks), maps, masks, **options
    )
    assert fast == pytest.approx(literal, abs=1e-12)


def test_bootstrap_of_a_mean_has_the_width_of_its_standard_error():
    # For the mean the replicates are nearly normal: half-width 1.96 s / sqrt(n).
    x = np.random.default_rng(0).normal(size=400)
    low, high = metrics.bootstrap_interval(np.mean, x, n=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.05)
    assert (high + low) / 2 == pytest.approx(x.mean(), abs=0.01)


def test_bootstrap_interval_covers_the_known_auroc():
    # Unit normals a distance 1 apart: AUROC = Phi(1 / sqrt 2).
    truth = 0.5 * (1 + torch.erf(torch.tensor(0.5))).item()
    rng = np.random.default_rng(1)
    labels = np.repeat([False, True], 40)
    covered = 0
    for seed in range(100):
        scores = rng.normal(size=80) + labels
        low, high = metrics.bootstrap_interval(
            metrics.image_auroc, scores, labels, n=100, seed=seed, stratify=labels
        )
        covered += low <= truth <= high
    assert 86 <= covered <= 100  # nominally 95


def test_paired_interval_equals_the_literal_one_and_is_0_for_equal_answers():
    rng = np.random.default_rng(3)
    masks = np.zeros((6, 8, 8), dtype=bool)
    masks[:4, 2:5, 3:6] = True
    first, second = rng.normal(size=(2, 6, 8, 8)) + masks
    for metric in (metrics.au_pro, metrics.pixel_auroc):
        fast = metrics.paired_interval(metric, first, second, masks, n=40)
        stacked = np.stack([first, second], 1)

        def difference(pair, truth, metric=metric):
            return metric(pair[:, 0], truth) - metric(pair[:, 1], truth)

        literal = metrics.bootstrap_interval(difference, stacked, masks, n=40)
        assert fast == pytest.approx(literal, abs=1e-12)
        assert metrics.paired_interval(metric, first, first, masks, n=9) == (0, 0)


def test_what_makes_images_hard_for_both_cancels_in_a_paired_interval():
    rng = np.random.default_rng(4)
    labels = np.arange(200) % 2 == 0
    shared = rng.normal(size=200) + labels
    first, second = (shared + 0.1 * rng.normal(size=200) for _ in range(2))
    low, high = metrics.paired_interval(metrics.image_auroc, first, second, labels)
    alone = metrics.bootstrap_interval(metrics.image_auroc, first, labels)
    assert low < 0 < high and high - low < 0.4 * (alone[1] - alone[0])
    swapped = metrics.paired_interval(metrics.image_auroc, second, first, labels)
    assert swapped == pytest.approx((-high, -low))


def test_bootstrap_is_reproducible_and_degenerates_when_it_should():
    scores, labels = some_scores(8)
    args = (metrics.image_auroc, scores, labels)
    assert metrics.bootstrap_interval(*args) == metrics.bootstrap_interval(*args)
    assert metrics.bootstrap_interval(*args, seed=1) != metrics.bootstrap_interval(
        *args
    )
    perfect = metrics.bootstrap_interval(metrics.image_auroc, labels, labels)
    assert perfect == (1, 1)


def test_stratified_bootstrap_keeps_a_single_normal_image():
    scores, labels = np.arange(20.0), np.arange(20) > 0
    low, high = metrics.bootstrap_interval(
        metrics.image_auroc, scores, labels, n=50, stratify=labels
    )
    assert low == high == 1
    # Left to itself, a resample of 2 images misses one class half of the time: such
    # resamples are drawn again, and the only ones left here are perfect.
    assert metrics.bootstrap_interval(metrics.image_auroc, [0.0, 1], [0, 1]) == (1, 1)
    with pytest.raises(ValueError, match="one label per image"):
        metrics.bootstrap_interval(np.mean, scores, stratify=labels[1:])
    with pytest.raises(ValueError, match="same number of images"):
        metrics.bootstrap_interval(metrics.image_auroc, scores, labels[1:])
    with pytest.raises(ValueError, match="level"):
        metrics.bootstrap_interval(np.mean, scores, level=95)


def test_bootstrap_stops_when_resamples_are_hardly_ever_defined():
    def picky(index):
        if len(set(index)) < 20:
            raise ValueError("needs all different.")
        return 0.0

    with pytest.raises(ValueError, match=r"undefined on .*needs all.*stratify=labels"):
        metrics.bootstrap_interval(picky, np.arange(20), n=10)


@pytest.mark.parametrize(
    "metric", [metrics.image_auroc, metrics.average_precision, metrics.roc_curve]
)
def test_image_metrics_say_what_is_wrong(metric):
    with pytest.raises(ValueError, match="both classes, got 3 normal and 0"):
        metric([1.0, 2, 3], [0, 0, 0])
    with pytest.raises(ValueError, match="both classes, got 0 normal and 3"):
        metric([1.0, 2, 3], [1, 1, 1])
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        metric([1.0, 2], [0, 1, 1])
    with pytest.raises(ValueError, match="1 NaN or infinite values of 3"):
        metric([1.0, np.nan, 3], [0, 1, 1])
    with pytest.raises(ValueError, match=r"0 \(normal\) or 1"):
        metric([1.0, 2, 3], [0, 1, 2])
    with pytest.raises(TypeError, match="real numbers"):
        metric(["a", "b"], [0, 1])
    with pytest.raises(ValueError, match="both classes, got 0 normal and 0"):
        metric(np.zeros(0), np.zeros(0, dtype=bool))


@pytest.mark.parametrize("metric", [metrics.pixel_auroc, metrics.au_pro])
def test_pixel_metrics_say_what_is_wrong(metric):
    maps, masks = some_maps(9)
    with pytest.raises(ValueError, match="every mask is empty"):
        metric(maps, np.zeros_like(masks))
    with pytest.raises(ValueError, match="every mask is full"):
        metric(maps, np.ones_like(masks))
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        metric(maps[:, None], masks[:, None])
    with pytest.raises(ValueError, match="same shape"):
        metric(maps[1:], masks)
    with pytest.raises(TypeError, match="masks > 0"):
        metric(maps, masks.astype(np.uint8))
    maps[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        metric(maps, masks)


@pytest.mark.parametrize("limit", [0, -0.1, 1.1, 30, float("nan")])
def test_limits_outside_the_range_are_refused(limit):
    maps, masks = some_maps(9)
    for metric in (metrics.au_pro, metrics.pro_curve):
        with pytest.raises(ValueError, match="false positive rate"):
            metric(maps, masks, limit)
