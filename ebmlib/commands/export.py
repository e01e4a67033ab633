"""`ebmlib export`: from a detector's file to a graph that runs without Python."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The file to write: part.onnx, or part.pt2 for torch.export.",
)
@click.option(
    "--photo-size",
    metavar="PX",
    help="Side of the photographs, or HEIGHTxWIDTH; by default the detector's size.",
)
@click.option(
    "--batch",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Photographs that the graph takes at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what was written as JSON.")
def command(
    detector: Path, output: Path, photo_size: str | None, batch: int, as_json: bool
) -> None:
    """Write the chain of DETECTOR, from photograph to map, as one graph.

    The graph takes photographs as bytes, uint8 (N, height, width, channels), and gives
    a score, a verdict and a map of each. All sizes are fixed. It is compared with the
    detector before the file gets its name.

    \b
    ebmlib export part.safetensors -o part.onnx --photo-size 1024
    """
    from ebmlib.detector import EnergyDetector

    size = None if photo_size is None else _size(photo_size)
    made = EnergyDetector.load(detector, "cpu").export(
        output, photo_size=size, batch=batch
    )
    height, width = made.photo_size
    told = {
        "graph": str(made.path),
        "photo_size": [height, width],
        "channels": made.channels,
        "batch": made.batch,
        "megabytes": made.path.stat().st_size / 1e6,
        "score_difference": made.score_difference,
        "map_difference": made.map_difference,
    }
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(
        f"{made.path}: {told['megabytes']:.1f} MB, takes uint8 "
        f"({made.batch}, {height}, {width}, {made.channels}) and gives score, "
        "anomalous, map"
    )
    if made.score_difference is None:
        click.echo("not compared: pip install onnxruntime", err=True)
    else:
        click.echo(
            f"compared with the detector: scores differ by {made.score_difference:.1g} "
            f"of the threshold, maps by {made.map_difference:.1g}"
        )


def _size(text: str) -> tuple[int, int]:
    """(height, width) of "1024" or "768x1024"."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(
            f"--photo-size must be a side in px or HEIGHTxWIDTH, got {text!r}"
        )
    return int(sides[0]), int(sides[-1])
