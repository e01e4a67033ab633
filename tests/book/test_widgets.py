"""Sliders without a browser: what they say and draw follows the slider."""

import builtins
import io
import sys
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

from ebmbook import widgets
from ebmlib.langevin import langevin
from ebmlib.metrics import pixel_auroc
from ebmlib.scoring import smooth
from ebmlib.toy import GaussianEnergy

SCORES = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.9, 0.8])
LABELS = torch.tensor([0, 0, 0, 1, 1, 1]).bool()


def pixels(widget) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(widget.children[2].value)))


def test_the_threshold_counts_what_lies_above_it():
    widget = widgets.threshold(SCORES, LABELS, 0.25)
    slider, sentence, _ = widget.children
    assert "flags 1 of 3 normal and 3 of 3 anomalous" in sentence.value
    before = pixels(widget)
    slider.value = 0.5
    assert "flags 0 of 3 normal and 2 of 3 anomalous" in sentence.value
    assert not np.array_equal(before, pixels(widget))
    slider.value = 0.25
    assert np.array_equal(before, pixels(widget))


def test_the_threshold_starts_at_the_largest_normal_score():
    slider, sentence, _ = widgets.threshold(SCORES, LABELS).children
    assert slider.value == pytest.approx(0.4)
    assert "flags 0 of 3 normal" in sentence.value
    assert (slider.min, slider.max) == pytest.approx((0.1, 0.9))
    assert widgets.threshold(SCORES, LABELS, 7.0).children[0].value == slider.max


def test_smoothing_lowers_the_peak_and_tells_the_pixel_auroc():
    g = torch.Generator().manual_seed(0)
    image, raw = torch.rand(3, 16, 16, generator=g), torch.rand(16, 16, generator=g)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:8, 4:8] = True
    widget = widgets.smoothing(image, raw, mask, 0.0)
    slider, sentence, _ = widget.children
    before = pixels(widget)
    for sigma in (0.0, 2.0):
        slider.value = sigma
        maps = smooth(raw[None], sigma)
        assert f"largest value {float(maps.max()):.3g}" in sentence.value
        assert f"AUROC {pixel_auroc(maps, mask[None]):.3f}" in sentence.value
    assert not np.array_equal(before, pixels(widget))
    bare = widgets.smoothing(image, raw).children[1]
    assert "AUROC" not in bare.value


def test_the_step_size_moves_the_spread_of_the_chains_as_computed():
    bell, start = GaussianEnergy(torch.zeros(1), torch.eye(1)), torch.zeros(4000, 1)
    widget = widgets.step_size(bell, start, 0.1, largest=10.0)
    slider, sentence, _ = widget.children
    for step in (0.1, 1.0):
        slider.value = step
        g = torch.Generator().manual_seed(0)
        end = langevin(bell, start, steps=200, step_size=step, generator=g).x
        assert f"standard deviation {float(end.std()):.2f}" in sentence.value
        assert float(end.var()) == pytest.approx(1 / (1 - step / 2), rel=0.1)
    slider.value = 10.0
    assert "diverge" in sentence.value


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: widgets.threshold(SCORES, LABELS[:3]), "must be"),
        (lambda: widgets.threshold(SCORES, LABELS | True), "one normal image"),
        (lambda: widgets.threshold(0 * SCORES, LABELS), "differ"),
        (lambda: widgets.smoothing(torch.rand(3, 8, 8), torch.rand(8, 9)), "pixel"),
        (lambda: widgets.step_size(torch.sum, torch.zeros(5, 2), 0.1), "(B, 1)"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)


def test_a_missing_ipywidgets_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install ipywidgets"):
        widgets.threshold(SCORES, LABELS)


@pytest.fixture
def unasked(monkeypatch):
    monkeypatch.delenv("EBMLIB_WIDGETS", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    return monkeypatch


@pytest.mark.parametrize("answers", [True, False])
def test_live_asks_the_front_end(unasked, answers):
    request = {"content": {"allow_stdin": answers}}
    shell = SimpleNamespace(get_parent=lambda: request)
    module = SimpleNamespace(get_ipython=lambda: shell)
    unasked.setitem(sys.modules, "IPython", module)
    assert widgets.live() is answers


def test_a_plain_program_and_a_terminal_are_not_live(unasked):
    unasked.setitem(
        sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: object())
    )
    assert not widgets.live()
    unasked.delitem(sys.modules, "IPython")
    assert not widgets.live()


def test_colab_is_live(unasked):
    unasked.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert widgets.live()


def test_the_environment_overrules(unasked):
    unasked.setenv("EBMLIB_WIDGETS", "1")
    assert widgets.live()
    unasked.setenv("EBMLIB_WIDGETS", "0")
    assert not widgets.live()
    unasked.setenv("EBMLIB_WIDGETS", "yes")
    with pytest.raises(ValueError, match="EBMLIB_WIDGETS"):
        widgets.live()


def test_an_executed_notebook_stores_no_widget(unasked):
    source = "from ebmbook import widgets\nwidgets.live()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    assert output["data"]["text/plain"] == "False"
