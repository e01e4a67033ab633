"""The whole chain as one graph that runs without Python (chapter 15).

    photograph uint8 (B, H, W, C)
      -> resize, frame, exposure     as `ebmlib.view`
      -> energy and its gradient     as `ebmlib.scoring.evaluate`
      -> map, standardized           as `ebmlib.scoring.map_of`
      -> score (B,), anomalous (B,), map (B, h, w)

A graph is a list of tensor operations for photographs of one size. The gradient is a
list of tensor operations too: the chain is run once, and the operations of both passes
are recorded. Operations that ONNX has no word for are written in others, see
`DECOMPOSITIONS`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import platform
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

import ebmlib
from ebmlib.data.resizing import Size, check_size
from ebmlib.energy import check_positive, frozen, full_precision
from ebmlib.pipeline import SCORES, Pipeline
from ebmlib.scoring import Evaluation, image_score, map_of
from ebmlib.view.exposure import MatchedExposure
from ebmlib.view.geometry import area_resize
from ebmlib.view.pose import PartFrame

if TYPE_CHECKING:
    from ebmlib.detector import EnergyDetector

ONNX, TORCH = ".onnx", ".pt2"
SUFFIXES = (ONNX, TORCH)
OUTPUTS = ("score", "anomalous", "map")
PACKAGES = ("onnx", "onnxscript")  # what the format ONNX needs
LARGE = 2**20  # numbers of a tensor that is stored once, whatever is cut out of it
MOST_BYTES = 1_900_000_000  # of a file of ONNX, which holds 2 GB
MOST_BATCH = 32
TOLERANCE = 0.01  # of the thresholds; rounding makes some 1e-5
Runner = Callable[[Tensor], tuple[Tensor, ...]]


class ExportError(ValueError):
    """The chain of a detector cannot be written as one graph."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how well it agrees with the detector.

    Attributes:
        path: the file.
        photo_size: height and width of the photographs that the graph takes, in px.
        batch: how many photographs it takes at once.
        channels: 1 for gray, 3 for RGB.
        score_difference: largest difference of a score, over the threshold; None where
            ONNX Runtime is not installed, so that nothing could run the graph.
        map_difference: largest difference of a map value, over the pixel threshold.
    """

    path: Path
    photo_size: tuple[int, int]
    batch: int
    channels: int
    score_difference: float | None
    map_difference: float | None


class Chain(nn.Module):
    """From photographs to scores, verdicts and maps, as `EnergyDetector.predict`.

    Nothing in it depends on the values of a photograph but through tensor operations.

    Args:
        pipeline: fitted, on the CPU.
        score: the image score.
        threshold: scores above it are anomalous.
        size: height and width that photographs are resized to.

    Raises:
        ExportError: a step of the pipeline is no tensor operation.
    """

    def __init__(
        self, pipeline: Pipeline, score: str, threshold: float, size: tuple[int, int]
    ):
        super().__init__()
        if isinstance(pipeline.view.frame_, PartFrame):
            raise ExportError(
                "this detector looks for the part in every photograph and rotates it "
                "(PartFrame); the search for its outline is no tensor operation. Fit "
                "a detector with aligned=True if the part always lies alike, or with "
                "aligned=False"
            )
        if score not in SCORES:
            raise ExportError(f"score must be one of {SCORES}, got {score!r}")
        self.pipeline, self.energy = pipeline, pipeline.energy
        self.score, self.threshold, self.size = score, threshold, size
        nothing = torch.zeros(1, *pipeline.view.size_)
        # Where the view does not look, the map has the value of "nothing there".
        self.outside = float(pipeline.standardizer(nothing).min())

    def forward(self, photographs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score `(B,)`, verdict `(B,)` and map `(B, *size)` of uint8 `(B, H, W, C)`."""
        images = photographs.permute(0, 3, 1, 2).float() / 255
        images = area_resize(images, self.size).clamp(0, 1)
        line = self.pipeline
        seen = line.view(images)
        one = self._evaluate(seen.images)
        raw = line.standardizer(map_of(one, line.map, smoothing=line.smoothing))
        maps = line.view.inverse(raw, seen.poses, self.size, self.outside)
        if self.score == "energy":
            score = one.energy.view(len(photographs), -1).sum(1)
        else:
            score = image_score(maps, self.score)
        return score, score > self.threshold, maps

    def _evaluate(self, x: Tensor) -> Evaluation:
        """`ebmlib.scoring.evaluate`, without checks that read values."""
        energy_of: Any = self.energy
        has_map = hasattr(energy_of, "energy_map")
        gradient = self.pipeline.map != "patches"
        with torch.set_grad_enabled(gradient), full_precision(x.device):
            x = x.detach().requires_grad_(gradient)
            cells = energy_of.energy_map(x) if has_map else None
            energy = energy_of(x) if cells is None else cells.sum((1, 2))
            slope = None
            if gradient:
                (slope,) = torch.autograd.grad(energy.sum(), x)
                slope = slope.detach()
        stride = None
        if cells is not None:
            cells = cells.detach()
            stride = int(getattr(self.energy, "stride", x.shape[-1] // cells.shape[-1]))
        return Evaluation(energy.detach(), slope, cells, stride, x.detach())


class Recorded(nn.Module):
    """A recorded list of operations with the large tensors that it reads."""

    def __init__(self, graph: nn.Module, tensors: list[Tensor]):
        super().__init__()
        self.operations, self.count = graph, len(tensors)
        for i, tensor in enumerate(tensors):
            self.register_buffer(f"large{i}", tensor)

    def forward(self, photographs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Chain.forward`."""
        large = [getattr(self, f"large{i}") for i in range(self.count)]
        found: tuple[Tensor, Tensor, Tensor] = self.operations(large, photographs)
        return found


# ------------------------------------------------------------------------ operations


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor, None, None]:
    """The gradient of a convolution with respect to its input, a transposed one."""
    if transposed or mask[1] or mask[2]:
        raise ExportError("only gradients with respect to the image are recorded")
    rest = [
        x.shape[2 + i]
        - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i])
        - (dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(2)
    ]
    made = F.conv_transpose2d(
        gradient, weight, None, stride, padding, rest, groups, dilation
    )
    return made, None, None


def _replication_backward(gradient: Tensor, x: Tensor, padding: list[int]) -> Tensor:
    """The gradient of a border that repeats its last pixels: sums, as two products."""
    left, right, above, below = padding

    def sums(side: int, before: int, after: int) -> Tensor:
        index = torch.arange(-before, side + after).clamp(0, side - 1)
        return (index[:, None] == torch.arange(side)).to(gradient.dtype)

    rows, columns = sums(x.shape[-2], above, below), sums(x.shape[-1], left, right)
    return rows.T @ gradient @ columns


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower median, as the last of the smallest half."""
    count = (x.shape[dim] + 1) // 2
    values, places = torch.topk(x, count, dim, largest=False)
    values, places = values.narrow(dim, count - 1, 1), places.narrow(dim, count - 1, 1)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What is recorded in place of operations that ONNX has no word for."""
    from torch._decomp import get_decompositions

    aten = torch.ops.aten
    known = get_decompositions(
        [
            aten.silu_backward,
            aten.softplus_backward,
            aten.native_group_norm_backward,
            aten.avg_pool2d_backward,
            aten.threshold_backward,
            aten.hardtanh_backward,
        ]
    )
    return {
        **known,
        aten.convolution_backward.default: _convolution_backward,
        aten.replication_pad2d_backward.default: _replication_backward,
        aten.median.dim: _median,
    }


def record(chain: Chain, example: Tensor) -> Recorded:
    """The chain as a list of operations, for photographs of the example's shape."""
    named = {
        name: tensor.detach()
        for name, tensor in chain.state_dict(keep_vars=True).items()
        if tensor.numel() >= LARGE
    }
    names, tensors = [*named], [*named.values()]

    def run(large: list[Tensor], photographs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = dict(zip(names, large, strict=True))
        found: tuple[Tensor, Tensor, Tensor] = torch.func.functional_call(
            chain, state, (photographs,)
        )
        return found

    with frozen(chain), torch.no_grad():
        graph = make_fx(run, decomposition_table=decompositions())(tensors, example)
        fold(graph)
    return Recorded(graph, tensors)


def fold(graph: GraphModule) -> None:
    """Compute once, here, what does not depend on the inputs of a recorded graph.

    What is written into later by an operation that does depend on them stays a list of
    operations, so that every call begins with a fresh tensor.
    """
    values: dict[Node, Any] = {}
    attributes, written = set(), set()  # memory of attributes; memory written into
    nodes = list(graph.graph.nodes)
    for node in nodes:
        if node.op == "get_attr":
            values[node] = getattr(graph, node.target)
            attributes.add(_memory(values[node]))
        elif node.op == "call_function":
            mutable = _writes(node)
            if all(one in values for one in node.all_input_nodes):
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
                if mutable and _memory(values[node]) in attributes:
                    raise ExportError(f"{node.target} writes into a constant")
            elif mutable:
                known = (values.get(one) for one in node.all_input_nodes)
                written |= {_memory(one) for one in known}
    written.discard(None)
    kept = {node for node in values if _memory(values[node]) in written}
    for count, node in enumerate(nodes):
        value = values.get(node)
        if node.op == "get_attr" or node in kept or not isinstance(value, Tensor):
            continue
        if all(user in values and user not in kept for user in node.users):
            continue  # what was made of it is constant too
        name = f"constant{count}"
        graph.register_buffer(name, value.detach().clone().contiguous())
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(name))
    for node in reversed(nodes):
        if not node.users and node in values and node not in kept:
            graph.graph.erase_node(node)
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()


def _memory(value: Any) -> int | None:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


# ------------------------------------------------------------------------ files


def export_detector(
    detector: EnergyDetector,
    path: str | Path,
    *,
    photo_size: Size | None = None,
    batch: int = 1,
) -> Exported:
    """Write the whole chain of a detector as one graph, and compare the two.

    The graph takes photographs, uint8 `(batch, height, width, channels)`, and gives
    `score` `(batch,)`, `anomalous` `(batch,)` and `map` `(batch, h, w)` at the
    detector's image size, as `EnergyDetector.predict` does. The sizes are fixed.

    `.onnx` runs in ONNX Runtime and others, and needs `pip install "ebmlib[export]"`
    here; its metadata hold the thresholds. `.pt2` is a program of `torch.export`;
    loading such a file unpickles, so take it from nobody else.

    Args:
        detector: fitted.
        path: of the file; an older one is replaced in one step, at the end.
        photo_size: side of square photographs in px, or (height, width); None: the
            detector's image size. They are resized in the graph, by area.
        batch: photographs at once, from 1 to MOST_BATCH.

    Raises:
        ExportError: the chain cannot be written as a graph, which is known first; or
            the graph that was written does not agree with the detector.
        ModuleNotFoundError: a package is missing.
        ValueError: a path that cannot be written, or arguments out of range.
    """
    path = _writable(path)
    size = check_size(detector.image_size)
    height, width = size if photo_size is None else check_size(photo_size)
    check_positive(batch=batch)
    if batch > MOST_BATCH:
        raise ValueError(f"batch must be at most {MOST_BATCH}, got {batch}")
    detector.check_fitted()
    chain = _chain(detector, size)
    channels = detector.pipeline_.channels
    if path.suffix == ONNX:
        _check_onnx(chain)
    photographs = example_photographs(detector, (height, width), batch)
    program = trace(chain, photographs)
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        if path.suffix == ONNX:
            about = _about(detector, (height, width), batch)
            write_onnx(program, photographs, temporary, about)
            run = onnx_runner(temporary)
        else:
            with quiet():
                torch.export.save(program, temporary)
            run = program.module()
        gaps = None if run is None else difference(detector, run, photographs)
        if gaps is not None and not all(gap < TOLERANCE for gap in gaps):  # or NaN
            scores, maps = gaps
            raise ExportError(
                f"the graph does not agree with the detector: scores differ by "
                f"{scores:.2g} of the threshold, maps by {maps:.2g} of theirs; nothing "
                "was written"
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(path, (height, width), batch, channels, *(gaps or (None, None)))


def trace(chain: Chain, photographs: Tensor) -> ExportedProgram:
    """The chain as a program of `torch.export`.

    Raises:
        ExportError: an operation cannot be recorded.
    """
    try:
        with quiet():
            recorded = record(chain, photographs).eval()
            return torch.export.export(recorded, (photographs,))
    except ExportError:
        raise
    except Exception as error:  # of the recorder, of many kinds
        raise ExportError(
            f"the chain cannot be recorded as a graph: {type(error).__name__}: {error}"
        ) from error


def write_onnx(
    program: ExportedProgram,
    photographs: Tensor,
    path: Path,
    about: dict[str, Any] | None = None,
) -> None:
    """Write a program as one file of ONNX.

    Raises:
        ExportError: ONNX has no word for an operation.
    """
    try:
        with quiet():
            made = torch.onnx.export(
                program,
                (photographs,),
                dynamo=True,
                optimize=False,  # ONNX Runtime does it when it loads the file
                verbose=False,
                input_names=["photographs"],
                output_names=list(OUTPUTS),
            )
            assert made is not None
            made.model.metadata_props["ebmlib"] = json.dumps(about or {})
            made.save(path, external_data=False)
    except Exception as error:  # of the converter, of many kinds
        raise ExportError(f"the graph cannot be written as ONNX: {error}") from error


def onnx_runner(path: str | Path, threads: int = 1) -> Runner | None:
    """A function that runs a file in ONNX Runtime; None where that is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )

    def run(photographs: Tensor) -> tuple[Tensor, ...]:
        found = session.run(list(OUTPUTS), {"photographs": photographs.numpy()})
        return tuple(torch.from_numpy(one) for one in found)

    return run


def difference(
    detector: EnergyDetector, run: Runner, photographs: Tensor
) -> tuple[float, float]:
    """Largest difference of scores and of map values, over their thresholds.

    A value above its threshold counts relative to itself.
    """
    with torch.no_grad():
        score, _, maps = run(photographs)
    told = detector.predict(photographs.numpy())
    limits = detector.threshold_, detector.pixel_threshold_
    gaps = []
    for ours, theirs, limit in zip(
        (told.scores, told.maps), (score, maps), limits, strict=True
    ):
        unit = ours.abs().clamp_min(max(abs(limit), 1e-6))
        gaps.append(float(((ours - theirs).abs() / unit).max()))
    return gaps[0], gaps[1]


def example_photographs(
    detector: EnergyDetector, size: tuple[int, int], batch: int
) -> Tensor:
    """Photographs to run a chain with, uint8 `(batch, *size, C)`: usual ones, nearly.

    The mean part with noise where the view knows it, else colored noise.
    """
    view, channels = detector.pipeline_.view, detector.pipeline_.channels
    generator = torch.Generator().manual_seed(0)
    if isinstance(view.exposure_, MatchedExposure):
        base = view.exposure_.template.cpu()[None].float()
    elif view.frame_ is not None:
        base = 0.5 + 0.15 * view.frame_.template.cpu()[None, None].float()
    else:
        base = torch.rand(1, channels, 8, 8, generator=generator)
    base = F.interpolate(base, size, mode="bilinear").expand(batch, channels, -1, -1)
    noise = torch.randn(base.shape, generator=generator)
    pictures = (base + 0.02 * noise).clamp(0, 1)
    return (255 * pictures).round().byte().permute(0, 2, 3, 1).contiguous()


# ------------------------------------------------------------------------ details


def _chain(detector: EnergyDetector, size: tuple[int, int]) -> Chain:
    """A copy of the detector's chain on the CPU."""
    if detector.bits_ is not None:
        raise ExportError(
            "this detector learned from 16-bit photographs, and a graph takes those of "
            "8 bits: fit one to photographs of 8 bits"
        )
    tensors, header = detector.pipeline_.state()
    pipeline = Pipeline.restore(tensors, header, torch.device("cpu"))
    return Chain(pipeline, detector.score_, detector.threshold_, size)


def _check_onnx(chain: Chain) -> None:
    """Refuse what cannot become a file of ONNX, before the work."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"a file of ONNX needs {' and '.join(missing)}: run "
            '`pip install "ebmlib[export]"`, or export to .pt2'
        )
    needed = sum(
        one.numel() * one.element_size() for one in chain.state_dict().values()
    )
    if needed > MOST_BYTES:
        raise ExportError(
            f"the energy holds {needed / 1e9:.1f} GB, and a file of ONNX 2 GB at most: "
            "fit a detector with a smaller image_size or memory, or export to .pt2"
        )


def _about(
    detector: EnergyDetector, photo_size: tuple[int, int], batch: int
) -> dict[str, Any]:
    """What a file says of itself, such that JSON can hold it."""
    return {
        "ebmlib": ebmlib.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "recipe": detector.recipe_.name,
        "score": detector.score_,
        "threshold": detector.threshold_,
        "pixel_threshold": detector.pixel_threshold_,
        "image_size": list(check_size(detector.image_size)),
        "photo_size": list(photo_size),
        "batch": batch,
    }


def _writable(path: str | Path) -> Path:
    """The path, if a graph can be written there; nothing that was there is touched."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a graph is a file {' or '.join(SUFFIXES)}, got {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    trial = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"{path} cannot be written ({reason}); name a file in a folder that exists"
        ) from None
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of PyTorch's exporters."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
