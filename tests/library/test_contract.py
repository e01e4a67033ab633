"""What every detector and baseline must obey; add a new one to `DETECTORS`.

Each entry makes an unfitted object that can be fitted on 24 color images of 32 px in
some seconds.
"""

import pickle
import random
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

from ebmlib.baselines import BASELINES, PatchKNN, PerPixelGaussian
from ebmlib.detector import EnergyDetector
from ebmlib.estimator import AnomalyDetector, NotFittedError
from ebmlib.feature_recipes import FIELDS
from ebmlib.pretrained import COSINE
from ebmlib.recipes import ContrastiveDivergence, Experts, Fields

SIDE = 32
QUICK = {
    "pca": {"components": 3},
    "autoencoder": {"steps": 4, "width": 4, "code": 8},
    "position_gaussian": {"patch": 8, "stride": 4},
    "patch_knn": {"memory": 50},
}
DETECTORS = {
    **{name: lambda n=name: BASELINES[n](**QUICK.get(n, {})) for name in BASELINES},
    "contrastive divergence": lambda: EnergyDetector(
        ContrastiveDivergence(steps=2, width=4), SIDE, false_alarm_rate=0.3
    ),
    "experts": lambda: EnergyDetector(
        Experts(steps=2, width=8), SIDE, false_alarm_rate=0.3
    ),
    **{
        f"fields, {field}": lambda field=field: EnergyDetector(
            Fields(COSINE, field=field, memory=8),
            SIDE,
            false_alarm_rate=0.3,
            max_pixels=SIDE**2,  # not doubled, and not registered: faster
            register=False,
        )
        for field in FIELDS
    },
    "brightness, two-sided": lambda: BASELINES["brightness"](two_sided=True),
}
ALL = pytest.mark.parametrize("make", DETECTORS.values(), ids=DETECTORS.keys())


@cache
def pixels(count=24, pattern=9, seed=0):
    """A fixed pattern with noise: uint8 (N, 32, 32, 3)."""
    generator = torch.Generator().manual_seed(pattern)
    base = torch.rand(SIDE, SIDE, 3, generator=generator)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, SIDE, SIDE, 3, generator=generator)
    return (255 * (0.3 + 0.4 * base + 0.03 * noise).clamp(0, 1)).byte()


def pictures(**options):
    """The same, float (N, 3, 32, 32) in [0, 1]."""
    return pixels(**options).permute(0, 3, 1, 2) / 255


def damaged():
    """Two images as those of training, the second one with a blot."""
    images = pictures(count=2, seed=5)
    images[1, :, 8:20, 8:20] = 1
    return images


def same(first, second):
    """Scores and maps of two objects are equal to the last bit."""
    x = damaged()
    return torch.equal(first.anomaly_score(x), second.anomaly_score(x)) and torch.equal(
        first.anomaly_map(x), second.anomaly_map(x)
    )


class Calls(TorchFunctionMode):
    """Counts calls of torch; stops like Ctrl-C at the call with a given number."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.count, self.stop_at = 0, stop_at

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.stop_at:
            raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))


# ------------------------------------------------------------------------ results


@ALL
def test_scores_and_maps_are_finite_float32_on_the_cpu(make):
    model, x = make(), damaged()
    assert isinstance(model, AnomalyDetector)
    assert model.fit(pictures()) is model
    scores, maps = model.anomaly_score(x), model.anomaly_map(x)
    assert scores.shape == (2,) and maps.shape == (2, SIDE, SIDE)
    for found in (scores, maps):
        assert found.dtype == torch.float32 and found.device.type == "cpu"
        assert found.isfinite().all() and not found.requires_grad
    assert scores[1] > scores[0]


@ALL
def test_the_score_of_an_image_does_not_depend_on_its_batch(make):
    model, x = make().fit(pictures()), pictures(seed=1)
    scores, maps = model.anomaly_score(x), model.anomaly_map(x)
    for i in (0, 7, 23):
        one, its_map = (
            model.anomaly_score(x[i : i + 1]),
            model.anomaly_map(x[i : i + 1]),
        )
        torch.testing.assert_close(one, scores[i : i + 1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(its_map, maps[i : i + 1], rtol=1e-4, atol=1e-4)


@ALL
def test_equal_training_images_do_not_make_scores_of_rounding_errors(make):
    # What never varied has no spread to be measured in. Rounding depends on the batch,
    # and must not be taken for a difference; scores are gray levels or units of spread.
    train = pictures()[:1].repeat(24, 1, 1, 1)
    model = make().fit(train)
    alone, batch = model.anomaly_score(train[:1]), model.anomaly_score(train)
    torch.testing.assert_close(batch, alone.expand(24), rtol=1e-3, atol=1e-2)
    assert model.anomaly_score(damaged()[1:]) > alone + 0.01


@ALL
def test_a_fitted_object_can_be_pickled(make):
    model = make().fit(pictures())
    assert same(pickle.loads(pickle.dumps(model)), model)


# ------------------------------------------------------------------------ parameters


@ALL
def test_fit_writes_no_argument_of_the_constructor(make):
    model = make()
    before, shown = model.get_params(deep=False), repr(model)
    model.fit(pictures()).anomaly_map(damaged())
    after = model.get_params(deep=False)
    assert after.keys() == before.keys() and repr(model) == shown
    assert all(after[name] is before[name] for name in before)
    found = vars(model).keys() - before.keys()
    assert all(name.endswith("_") or name.startswith("_") for name in found)


@ALL
def test_a_clone_has_the_parameters_and_is_not_fitted(make):
    model = make().fit(pictures())
    twin = clone(model)
    assert type(twin) is type(model) and repr(twin) == repr(model)
    with pytest.raises(NotFittedError):
        twin.anomaly_score(damaged())
    assert same(twin.fit(pictures()), model)


@ALL
def test_repr_shows_what_is_not_default_and_set_params_refuses_what_it_does_not_know(
    make,
):
    model = make()
    defaults = repr(type(model)())
    assert defaults == f"{type(model).__name__}()"
    assert model.set_params(**model.get_params(deep=False)) is model
    with pytest.raises(ValueError, match=r"no parameter 'image_sise'.*'image_size'\?"):
        model.set_params(image_sise=3)


# ------------------------------------------------------------------------ fit


@ALL
def test_before_fit_every_result_is_refused(make):
    model = make()
    for method in (model.anomaly_score, model.anomaly_map):
        with pytest.raises(NotFittedError, match=r"not fitted yet: call fit"):
            method(damaged())


@ALL
def test_a_second_fit_equals_that_of_a_fresh_object(make):
    model = make().fit(pictures(pattern=1, seed=1)).fit(pictures())
    assert same(model, make().fit(pictures()))


@ALL
def test_fit_neither_reads_nor_changes_global_random_states(make):
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()

    before, of_python = states(), random.getstate()
    first = make().fit(pictures())
    assert states() == before and random.getstate() == of_python
    torch.rand(3), np.random.rand(3), random.random()
    assert same(make().fit(pictures()), first)


@ALL
@pytest.mark.parametrize("where", [0.02, 0.5, 0.98])
def test_a_fit_that_is_stopped_leaves_the_object_as_it_was(make, where):
    model, fresh = make().fit(pictures()), make().fit(pictures())
    other, never = pictures(pattern=1, seed=1), make()
    with Calls() as calls:
        make().fit(other)
    stop_at = max(1, round(where * calls.count))
    for one in (model, never):
        with pytest.raises(KeyboardInterrupt), Calls(stop_at):
            one.fit(other)
    assert same(model, fresh)
    with pytest.raises(NotFittedError):
        never.anomaly_score(damaged())


@ALL
def test_a_fit_that_fails_says_why_and_leaves_the_object_as_it_was(make):
    model, images = make().fit(pictures()), pictures()
    black, broken = torch.zeros_like(images), images.clone()
    broken[3, 0, 4, 4] = float("nan")
    for wrong, message in (
        (black, "no contrast"),
        (broken, "NaN"),
        (images[:0], "no images"),
        (images * 255, r"\[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(wrong)
    assert same(model, make().fit(images))


# ------------------------------------------------------------------------ inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The images as PNG files."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(pixels().numpy()):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return folder


SOURCES = {
    "floats": lambda folder: pictures(),
    "bytes": lambda folder: pixels().permute(0, 3, 1, 2),
    "array": lambda folder: pixels().numpy(),
    "folder": lambda folder: folder,
    "text": str,
    "paths": lambda folder: sorted(folder.iterdir()),
    "list of tensors": lambda folder: list(pictures()),
    "list of arrays": lambda folder: list(pixels().numpy()),
    "Pillow": lambda folder: [Image.fromarray(one) for one in pixels().numpy()],
    "Dataset": lambda folder: TensorDataset(pictures()),
    "DataLoader": lambda folder: DataLoader(TensorDataset(pictures()), batch_size=5),
}


@ALL
def test_every_source_of_images_gives_the_same_result(make, folder):
    expected = make().fit(pictures()).anomaly_score(pictures())
    for name, source_in in SOURCES.items():
        source = source_in(folder)
        scores = make().fit(source).anomaly_score(source)
        torch.testing.assert_close(
            scores, expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@ALL
def test_images_of_another_size_are_refused_and_gray_ones_become_color(make):
    model, gray = make().fit(pictures()), damaged()[:, :1]
    scores = model.anomaly_score(gray)
    assert torch.equal(scores, model.anomaly_score(gray.expand(-1, 3, -1, -1)))


def test_files_of_any_size_are_brought_to_image_size(tmp_path):
    for i, image in enumerate(pixels().numpy()):
        side = 32 + 16 * (i % 2)
        Image.fromarray(image).resize((side, 32)).save(tmp_path / f"{i}.png")
    for model in (PerPixelGaussian(), PatchKNN()):
        with pytest.raises(ValueError, match=r"32 x 48.*size="):
            model.fit(tmp_path)
        model.set_params(image_size=(16, 24)).fit(tmp_path)
        assert model.anomaly_map(tmp_path).shape == (24, 16, 24)
        assert model.shape_ == (3, 16, 24)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_without_image_size_keeps_the_size_of_its_images(name):
    model = BASELINES[name](**QUICK.get(name, {})).fit(pictures()[..., :24, :])
    assert model.anomaly_map(damaged()[..., :24, :]).shape == (2, 24, 32)
    with pytest.raises(ValueError, match=r"fitted on images .*\(3, 24, 32\), got .*32"):
        model.anomaly_score(damaged())
    with pytest.raises(ValueError, match="size must be"):
        BASELINES[name](image_size=-3)
