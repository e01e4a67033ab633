"""The exported chain gives what the detector gives, or is refused before the work."""

import importlib.util
import json

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch.fx.experimental.proxy_tensor import make_fx

from ebmlib import export
from ebmlib.commands.export import command
from ebmlib.data import load
from ebmlib.detector import EnergyDetector
from ebmlib.export import (
    Chain,
    ExportError,
    decompositions,
    difference,
    example_photographs,
    fold,
    record,
)
from ebmlib.pretrained import COSINE
from ebmlib.recipes import (
    RECIPES,
    Contrast,
    ContrastiveDivergence,
    Experts,
    Fields,
    LearnedFeatures,
    ScoreMatching,
)
from ebmlib.view.pose import PartFrame

SIZE = 32
QUICK = {"false_alarm_rate": 0.4, "aligned": True, "device": "cpu"}
PLAIN = {**QUICK, "register": False}
DETECTORS = {
    "contrast": (Contrast(steps=2, width=4), PLAIN),
    "experts": (Experts(steps=2, width=4), PLAIN),
    "score_matching": (ScoreMatching(steps=2), PLAIN),
    "contrastive_divergence": (ContrastiveDivergence(2, 4, 2), PLAIN),
    "fields": (Fields(COSINE, memory=4), PLAIN),
    "learned_features": (LearnedFeatures(COSINE, steps=2, width=8), PLAIN),
    "registered": (Fields(COSINE, field="gaussian"), QUICK),
    "gradient of fields": (Fields(COSINE, memory=4), {**PLAIN, "map": "weighted"}),
    "texture": (Fields(COSINE, memory=1), {**PLAIN, "aligned": False}),
    "tiles": (Contrast(steps=2, width=4), {**PLAIN, "tile": 16, "aligned": False}),
    "energy": (ScoreMatching(steps=2), {**PLAIN, "score": "energy"}),
}
needs_onnx = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("onnx", "onnxscript", "onnxruntime")
    ),
    reason='needs pip install "ebmlib[export]"',
)


@pytest.fixture(scope="module")
def nut():
    return load("synthetic/nut", size=SIZE, n_train=12, n_test=2, n_defective=1)


@pytest.fixture(scope="module")
def made(nut):
    """made(name): a detector of this kind, fitted once."""
    known = {}

    def fitted(name):
        if name not in known:
            recipe, options = DETECTORS[name]
            known[name] = EnergyDetector(recipe, SIZE, **options).fit(nut.train)
        return known[name]

    return fitted


def as_bytes(images):
    return (255 * images).round().byte().permute(0, 2, 3, 1).contiguous()


def chain_of(detector):
    line = detector.pipeline_
    return Chain(line, detector.score_, detector.threshold_, (SIZE, SIZE))


# ------------------------------------------------------------------------ agreement


def test_every_recipe_is_tried():
    assert set(RECIPES) <= set(DETECTORS)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_recorded_chain_gives_what_the_detector_gives(name, made, nut):
    detector = made(name)
    recorded = record(chain_of(detector), example_photographs(detector, (SIZE,) * 2, 1))
    for x in as_bytes(nut.test[1:4]).split(1):
        assert max(difference(detector, recorded, x)) < 1e-4
        verdict = detector.predict(x.numpy()).anomalous
        assert torch.equal(recorded(x)[1], verdict)


@needs_onnx
@pytest.mark.parametrize("name", ["contrast", "fields"])
def test_a_file_of_onnx_agrees_and_says_what_it_is(name, made, nut, tmp_path):
    import onnx

    path = tmp_path / "part.onnx"
    found = made(name).export(path, photo_size=(40, 50), batch=2)
    assert found.score_difference < 1e-4 and found.map_difference < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["part.onnx"]
    model = onnx.load(path)
    (taken,) = model.graph.input
    sides = [one.dim_value for one in taken.type.tensor_type.shape.dim]
    assert taken.name == "photographs" and sides == [2, 40, 50, 3]
    assert [one.name for one in model.graph.output] == ["score", "anomalous", "map"]
    about = json.loads({one.key: one.value for one in model.metadata_props}["ebmlib"])
    assert about["threshold"] == made(name).threshold_
    run = export.onnx_runner(path)
    photographs = as_bytes(F.interpolate(nut.test[2:4], (40, 50), mode="bicubic"))
    assert max(difference(made(name), run, photographs)) < 1e-4


def test_a_program_of_torch_export_agrees_when_it_is_loaded(made, nut, tmp_path):
    path = tmp_path / "part.pt2"
    found = made("score_matching").export(path)
    assert found.channels == 3 and found.photo_size == (SIZE, SIZE)
    run = torch.export.load(path).module()
    x = as_bytes(nut.test[3:4])
    assert max(difference(made("score_matching"), run, x)) < 1e-4


# ------------------------------------------------------------------------ operations


def test_gradients_in_other_words_are_those_of_autograd():
    table = {str(key): value for key, value in decompositions().items()}
    x = torch.rand(2, 3, 9, 7, requires_grad=True)
    for stride, dilation, groups in ((1, 1, 1), (2, 1, 3), (2, 2, 1)):
        weight = torch.rand(6, 3 // groups, 3, 3)
        y = F.conv2d(x, weight, None, stride, 1, dilation, groups)
        slope = torch.rand_like(y)
        (expected,) = torch.autograd.grad(y, x, slope)
        options = [stride] * 2, [1, 1], [dilation] * 2, False, [0, 0], groups
        backward = table["aten.convolution_backward.default"]
        with torch.no_grad():
            found = backward(slope, x, weight, None, *options, [True, False, False])[0]
        torch.testing.assert_close(found, expected)
    y = F.pad(x, (1, 2, 3, 0), mode="replicate")
    slope = torch.rand_like(y)
    (expected,) = torch.autograd.grad(y, x, slope)
    found = table["aten.replication_pad2d_backward.default"](slope, x, [1, 2, 3, 0])
    torch.testing.assert_close(found, expected)
    for count in (4, 5):
        values = torch.rand(3, count)
        found = table["aten.median.dim"](values, 1, True)[0]
        assert torch.equal(found, values.median(1, keepdim=True).values)


def test_constants_are_computed_once_and_fresh_memory_stays_fresh():
    def run(x):
        weights = torch.arange(3.0).exp_().add_(1)  # constant, written into
        total = torch.zeros(3)
        total += x  # depends on x: must begin with zeros in every call
        return total * weights

    graph = make_fx(run)(torch.ones(3))
    before = len(graph.graph.nodes)
    fold(graph)
    assert len(graph.graph.nodes) < before
    for _ in range(2):
        x = torch.rand(3)
        torch.testing.assert_close(graph(x), run(x))


# ------------------------------------------------------------------------ refusals


def refuse(monkeypatch):
    """Whatever is refused is refused before anything is recorded."""
    monkeypatch.setattr(export, "record", None)


@pytest.mark.parametrize("name", ["part.tflite", "missing/part.pt2", "folder.onnx"])
def test_a_place_that_cannot_be_written_is_known_first(
    name, made, tmp_path, monkeypatch
):
    refuse(monkeypatch)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match=r"\.onnx or \.pt2|cannot be written|a folder"):
        made("score_matching").export(tmp_path / name)


def test_a_search_for_the_part_is_refused(made, monkeypatch, tmp_path):
    refuse(monkeypatch)
    detector = made("score_matching")
    view = detector.pipeline_.view
    monkeypatch.setattr(view, "frame_", PartFrame(torch.zeros(16, 32)))
    with pytest.raises(ExportError, match="rotates it"):
        detector.export(tmp_path / "part.pt2")


def test_sixteen_bits_are_refused(made, monkeypatch, tmp_path):
    refuse(monkeypatch)
    monkeypatch.setattr(made("score_matching"), "bits_", 12)
    with pytest.raises(ExportError, match="16-bit"):
        made("score_matching").export(tmp_path / "part.pt2")


@pytest.mark.parametrize("batch", [0, 33, 1.5])
def test_batches_out_of_range_are_refused(batch, made, monkeypatch, tmp_path):
    refuse(monkeypatch)
    with pytest.raises(ValueError, match="batch must be"):
        made("score_matching").export(tmp_path / "part.pt2", batch=batch)


def test_missing_packages_are_named(made, monkeypatch, tmp_path):
    refuse(monkeypatch)
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "ebmlib\[export\]"'):
        made("score_matching").export(tmp_path / "part.onnx")


def test_what_is_too_large_for_a_file_of_onnx_is_refused(made, monkeypatch, tmp_path):
    refuse(monkeypatch)
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(export, "MOST_BYTES", 1000)
    with pytest.raises(ExportError, match="2 GB at most"):
        made("score_matching").export(tmp_path / "part.onnx")


def test_a_graph_that_does_not_agree_leaves_the_old_file(made, monkeypatch, tmp_path):
    path = tmp_path / "part.pt2"
    path.write_text("old")
    monkeypatch.setattr(export, "difference", lambda *_: (0.0, float("nan")))
    with pytest.raises(ExportError, match="does not agree"):
        made("score_matching").export(path)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


# ------------------------------------------------------------------------ the command


def test_the_command_says_what_it_wrote(made, tmp_path):
    made("score_matching").save(tmp_path / "part.safetensors")
    words = [tmp_path / "part.safetensors", "-o", tmp_path / "part.pt2", "--json"]
    words += ["--photo-size", "40x36"]
    said = CliRunner().invoke(command, [str(word) for word in words])
    assert said.exit_code == 0, said.exception
    found = json.loads(said.stdout)
    assert found["photo_size"] == [40, 36] and found["score_difference"] < 1e-4
