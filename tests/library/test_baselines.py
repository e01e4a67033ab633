"""Baselines on data whose answer is known in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.decomposition import PCA

from ebmlib.baselines import (
    BASELINES,
    TRIVIAL,
    Autoencoder,
    MeanBrightness,
    PatchKNN,
    PCAReconstruction,
    PerPixelGaussian,
    PositionGaussian,
    autoencoder,
    farthest_points,
)
from ebmlib.metrics import image_auroc


def gray_noise(n, channels=3, side=16, std=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, channels, side, side, generator=generator)
    return (0.5 + std * noise).clamp(0, 1)


def test_labels_say_what_is_borrowed_and_what_is_not():
    labels = {name: model.label for name, model in BASELINES.items()}
    assert len(set(labels.values())) == len(labels) and set(TRIVIAL) < set(labels)
    for name, style in (("patch_knn", "PatchCore"), ("position_gaussian", "PaDiM")):
        assert f"({style}-style, cosine features)" in labels[name]


def test_brightness_is_the_mean_and_its_auroc_below_one_half_is_a_shortcut_too():
    train = gray_noise(20)
    bright, dark = (train + 0.2).clamp(0, 1), (train - 0.2).clamp(0, 1)
    raw = MeanBrightness().fit(train)
    torch.testing.assert_close(raw.anomaly_score(train), train.mean((1, 2, 3)))
    labels = np.repeat([0, 1], 20)
    for defective, auroc in ((bright, 1.0), (dark, 0.0)):
        scores = raw.anomaly_score(torch.cat([train, defective]))
        assert image_auroc(scores, labels) == auroc
        two_sided = MeanBrightness(two_sided=True).fit(train)
        scores = two_sided.anomaly_score(torch.cat([train, defective]))
        assert image_auroc(scores, labels) == 1.0


def test_brightness_ignores_where_the_pixels_are():
    images = gray_noise(4)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(2))
    shuffled = images.flatten(2)[:, :, order].view_as(images)
    model = MeanBrightness().fit(images)
    torch.testing.assert_close(
        model.anomaly_score(shuffled), model.anomaly_score(images)
    )


def test_per_pixel_gaussian_standardizes_normal_images_to_unit_variance():
    train, test = gray_noise(400), gray_noise(200, seed=1)
    model = PerPixelGaussian().fit(train)
    z = model.z_scores(train)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, 16, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones(3, 16, 16), atol=1e-4, rtol=0)
    # For new images: Var z = (1 + 1/n) E[sigma^2 / s^2] = 1.0075 at n = 400.
    assert model.z_scores(test).var().item() == pytest.approx(1.0075, abs=0.01)


def test_per_pixel_gaussian_map_by_hand():
    ramp = torch.linspace(0, 0.2, 8).expand(1, 1, 8, 8)
    train = torch.cat((ramp, ramp + 0.2))
    model = PerPixelGaussian(smoothing=0).fit(train)
    image = ramp + 0.1
    image[0, 0, 3, 5] += 0.5
    expected = 0.5 / (0.1 * math.sqrt(2))
    found = model.anomaly_map(image)[0]
    assert found[3, 5].item() == pytest.approx(expected, rel=1e-5)
    assert found.sum().item() == pytest.approx(expected, rel=1e-5)
    assert model.anomaly_score(image).item() == pytest.approx(expected, rel=1e-5)


def test_min_std_bounds_the_score_of_pixels_that_never_varied():
    train = torch.zeros(5, 1, 8, 8)
    train[..., :4] = 1  # no pixel varies from image to image
    model = PerPixelGaussian(smoothing=0, min_std=0.02).fit(train)
    score = model.anomaly_score((train[:1] - 0.2).abs()).item()
    assert score == pytest.approx(10, rel=1e-5)


def test_min_std_bounds_the_score_of_a_brightness_that_never_varied():
    train = gray_noise(1).repeat(8, 1, 1, 1)
    model = MeanBrightness(two_sided=True).fit(train)
    assert model.anomaly_score(train).max() < 0.01  # rounding, not a distance
    brighter = model.anomaly_score(train[:1] + 0.01)
    assert brighter.item() == pytest.approx(10, rel=1e-2)


def test_pca_reconstructs_rank_k_data_exactly_and_nothing_outside_it():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(192, 4, generator=generator)).Q.T  # (4, 192)
    codes = 0.3 * torch.randn(30, 4, generator=generator)
    images = (0.5 + codes @ basis).view(30, 3, 8, 8).clamp(0, 1)
    model = PCAReconstruction(components=4).fit(images[:20])
    assert model.anomaly_score(images[20:]).max() < 1e-5
    torch.testing.assert_close(model.reconstruct(images), images, atol=1e-5, rtol=0)
    # A change orthogonal to the subspace is the whole residual: its own rms.
    change = torch.randn(192, generator=generator)
    change = 0.05 * (change - change @ basis.T @ basis)
    changed = images[20:] + change.view(3, 8, 8)
    score = model.anomaly_score(changed.clamp(0, 1))
    assert score.mean().item() == pytest.approx(
        change.square().mean().sqrt().item(), rel=1e-3
    )


def test_pca_agrees_with_scikit_learn():
    train, test = gray_noise(20), gray_noise(5, seed=1)
    peer = PCA(6, svd_solver="full").fit(train.flatten(1).double().numpy())
    flat = test.flatten(1).double().numpy()
    residual = flat - peer.inverse_transform(peer.transform(flat))
    ours = PCAReconstruction(components=6).fit(train).anomaly_score(test)
    np.testing.assert_allclose(ours, np.sqrt((residual**2).mean(1)), rtol=1e-4)


def test_pca_maps_locate_a_square():
    train, test = gray_noise(20, side=32, std=0.02), gray_noise(1, side=32, seed=1)
    test[:, :, 8:16, 20:28] = 1.0
    found = PCAReconstruction(components=2).fit(train).anomaly_map(test)[0]
    row, column = divmod(int(found.argmax()), 32)
    assert 8 <= row < 16 and 20 <= column < 28


def test_pca_needs_more_images_than_components():
    with pytest.raises(ValueError, match=r"6 images span at most 5 .*components=20"):
        PCAReconstruction().fit(gray_noise(6))


def test_autoencoder_rebuilds_what_varies_in_training_and_nothing_else():
    # Normal images are a wave of random phase: two numbers describe each of them.
    generator = torch.Generator().manual_seed(0)
    phase = 2 * math.pi * torch.rand(40, 1, 1, 1, generator=generator)
    columns = torch.arange(32) * 2 * math.pi / 16
    images = (0.5 + 0.3 * torch.sin(columns + phase)).expand(-1, -1, 32, -1)
    train, test = images[:32], images[32:]
    model = Autoencoder(code=4, width=8, steps=150).fit(train)
    rms = (test - model.reconstruct(test)).square().mean().sqrt()
    assert rms < 0.25 * train.std()  # the mean image alone would leave all of it
    damaged = test.clone()
    damaged[:, :, 8:16, 20:28] = 0.5
    assert (model.anomaly_score(damaged) > model.anomaly_score(test)).all()
    row, column = divmod(int(model.anomaly_map(damaged).mean(0).argmax()), 32)
    assert 6 <= row < 18 and 18 <= column < 30


def test_autoencoder_learns_ever_slower_along_a_half_cosine(monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def noted(adam, *arguments, **options):
        rates.append(adam.param_groups[0]["lr"])
        return step(adam, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    Autoencoder(steps=20, width=4, learning_rate=1e-3).fit(gray_noise(4))
    expected = [5e-4 * (1 + math.cos(math.pi * k / 20)) for k in range(20)]
    assert rates == pytest.approx(expected)


def test_autoencoder_is_repeatable_and_leaves_all_global_generators_alone(monkeypatch):
    def refuse(seed):
        raise AssertionError("the generators of all devices were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    images = gray_noise(4)
    state = torch.get_rng_state()
    first, again, other = (
        Autoencoder(steps=3, width=4, seed=seed).fit(images).anomaly_score(images)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_autoencoder_is_trained_and_evaluated_on_its_device(monkeypatch, second_device):
    images, options = gray_noise(4), {"steps": 2, "width": 4, "code": 8}
    expected = Autoencoder(**options).fit(images).anomaly_map(images)
    device = second_device.device
    monkeypatch.setattr(autoencoder, "choose_device", lambda name: device)
    model = Autoencoder(**options).fit(images)
    assert {p.device for p in model.network_.parameters()} == {device}
    found = model.anomaly_map(images)
    assert found.device.type == model.anomaly_score(images).device.type == "cpu"
    assert torch.allclose(found, expected, rtol=1e-4)


def test_autoencoder_says_when_its_training_diverges():
    with pytest.raises(ValueError, match=r"diverged at learning_rate=1e\+30"):
        Autoencoder(steps=10, width=4, learning_rate=1e30).fit(gray_noise(4))


def test_position_gaussian_is_the_mahalanobis_distance_of_a_known_gaussian():
    # One patch fills the image and all coefficients are kept: phi is a rotation of the
    # pixels, so the distance is that of scipy between pixels.
    train, test = gray_noise(400, channels=1, side=4), gray_noise(5, 1, 4, seed=1)
    model = PositionGaussian(patch=4, frequencies=4, noise=0.01).fit(train)
    flat = train.flatten(1).double().numpy()
    covariance = np.cov(flat.T) + 0.01**2 * np.eye(16)
    inverse, mean = np.linalg.inv(covariance), flat.mean(0)
    expected = [
        mahalanobis(x, mean, inverse) / 4 for x in test.flatten(1).double().numpy()
    ]
    np.testing.assert_allclose(model.distances(test).flatten(), expected, rtol=1e-4)


def test_position_gaussian_finds_normal_images_one_standard_deviation_away():
    # E d^2 = tr(Sigma^-1 S) / F; with noise of 0.01 beside 0.05 that is 25 / 26, and
    # estimating Sigma from n images adds a factor of about n / (n - F) = 600 / 525.
    model = PositionGaussian(patch=8, noise=0.01).fit(gray_noise(600))
    mean = model.distances(gray_noise(100, seed=1)).square().mean().item()
    assert mean == pytest.approx(25 / 26 * 600 / 525, rel=0.03)


def test_position_gaussian_sees_a_good_patch_in_the_wrong_place_patch_knn_does_not():
    ramp = torch.linspace(0, 0.9, 32).expand(12, 1, 32, 32)
    train = ramp + 0.1 * gray_noise(12, channels=1, side=32)
    swapped = train[:1].roll(16, dims=3)  # left and right change places
    options = {"patch": 8, "stride": 4, "frequencies": 5}
    increase = {}
    for model in (PositionGaussian(**options), PatchKNN(**options)):
        model.fit(train[1:])
        usual, unusual = (model.distances(x)[0] for x in (train[:1], swapped))
        whole = [0, 1, 2, 4, 5, 6]  # patches without the seam in the middle
        increase[type(model)] = (unusual[:, whole] / usual[:, whole]).mean()
    assert increase[PositionGaussian] > 10
    assert increase[PatchKNN] == pytest.approx(1, abs=0.2)


def test_patch_knn_knows_every_training_patch():
    train = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = PatchKNN(patch=8, stride=4).fit(train)
    assert model.anomaly_score(train).max() < 1e-5
    # ... also at another place, as long as the patch grid agrees.
    moved = train.roll(4, dims=3)[:, :, :, 4:]
    moved = torch.cat([moved, moved[..., -4:]], dim=3)
    assert model.distances(moved)[:, :, :2].max() < 1e-5


def test_patch_knn_with_all_frequencies_is_the_distance_between_raw_patches():
    train, test = gray_noise(2), gray_noise(2, seed=1)
    model = PatchKNN(patch=8, stride=8, frequencies=8).fit(train)

    def raw(images):
        patches = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (N, C, h, w, 8, 8)
        return patches.permute(0, 2, 3, 1, 4, 5).reshape(len(images) * 4, -1).numpy()

    expected = cdist(raw(test), raw(train)).min(1).reshape(2, 2, 2)
    np.testing.assert_allclose(model.distances(test), expected, rtol=1e-4)


def test_patch_knn_without_brightness_ignores_the_mean_level():
    train = 0.5 * gray_noise(4)
    model = PatchKNN(brightness=False).fit(train)
    torch.testing.assert_close(
        model.anomaly_score(train + 0.2), model.anomaly_score(train), atol=1e-5, rtol=0
    )
    with_mean = PatchKNN(patch=8).fit(train)
    # An offset of 0.2 in each of 8 x 8 x 3 pixels is a distance of 0.2 sqrt(192).
    far = with_mean.anomaly_score(torch.full((1, 3, 16, 16), 0.9)).item()
    assert far > 0.6 * math.sqrt(192)


def test_patch_knn_map_covers_the_whole_image_and_locates_a_square():
    train, test = gray_noise(8, side=34), gray_noise(1, side=34, seed=1)
    test[:, :, 20:30, 4:14] = 1.0
    found = PatchKNN(smoothing=1, memory=400).fit(train).anomaly_map(test)[0]
    row, column = divmod(int(found.argmax()), 34)
    assert 20 <= row < 30 and 4 <= column < 14
    assert (found > 0).all()


def test_patch_knn_is_repeatable_and_respects_its_memory():
    train, test = gray_noise(8, side=32), gray_noise(2, side=32, seed=1)
    for subsample in ("random", "coreset"):
        options = {"memory": 50, "subsample": subsample}
        first = PatchKNN(**options).fit(train)
        again = PatchKNN(**options).fit(train)
        assert first.bank_.shape == (50, 75)
        assert torch.equal(first.anomaly_score(test), again.anomaly_score(test))
    other = PatchKNN(**options, seed=1).fit(train)
    assert not torch.equal(other.bank_, first.bank_)


def test_farthest_points_cover_separate_clusters_first():
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0], [100, 0], [0, 100], [100, 100]])
    which = torch.randint(4, (200,), generator=generator)
    points = centers[which] + torch.randn(200, 2, generator=generator)
    chosen = farthest_points(points, 4)
    assert sorted(which[chosen].tolist()) == [0, 1, 2, 3]
    assert sorted(farthest_points(points[:5], 9).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PerPixelGaussian(smoothing=-1), "smoothing must be >= 0"),
        (lambda: PerPixelGaussian(min_std=0), "min_std must be > 0"),
        (lambda: PCAReconstruction(components=0), "components must be >= 1"),
        (lambda: PCAReconstruction(smoothing=-1), "smoothing must be >= 0"),
        (lambda: Autoencoder(code=0), "code must be >= 1"),
        (lambda: Autoencoder(steps=0), "steps must be >= 1"),
        (lambda: Autoencoder(learning_rate=0), "learning_rate must be > 0"),
        (lambda: Autoencoder(smoothing=-1), "smoothing must be >= 0"),
        (lambda: Autoencoder(device="abacus"), "no device 'abacus'"),
        (lambda: MeanBrightness(min_std=0), "min_std must be > 0"),
        (lambda: PositionGaussian(noise=0), "noise must be > 0"),
        (lambda: PositionGaussian(frequencies=0), "frequencies must be >= 1"),
        (lambda: PositionGaussian(patch=32).fit(gray_noise(2)), "image side.*patch=32"),
        (lambda: PositionGaussian(smoothing=-1), "smoothing must be >= 0"),
        (lambda: PatchKNN(frequencies=0), "frequencies must be >= 1"),
        (lambda: PatchKNN(frequencies=1, brightness=False), ">= 2 without"),
        (lambda: PatchKNN(patch=4).fit(gray_noise(2)), "frequencies=5, patch=4"),
        (lambda: PatchKNN(patch=8, stride=9).fit(gray_noise(2)), "stride=9"),
        (lambda: PatchKNN(memory=0), "memory"),
        (lambda: PatchKNN(subsample="best"), "'best'"),
        (lambda: PatchKNN(smoothing=-1), "smoothing must be >= 0"),
        (lambda: PatchKNN(patch=32).fit(gray_noise(2)), "image side.*patch=32"),
    ],
)
def test_settings_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
