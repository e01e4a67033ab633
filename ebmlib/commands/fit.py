"""`ebmlib fit`: from a folder of good parts to one file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from ebmlib.commands import Stopped

UNFINISHED = ".unfinished"  # ends the name of the checkpoint beside the output


@click.command()
@click.argument("photographs", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The file to write, such as part.safetensors.",
)
@click.option(
    "--recipe",
    default="auto",
    show_default=True,
    help="fields, experts, learned_features, ...; auto takes the best installed.",
)
@click.option(
    "--size",
    default="256",
    show_default=True,
    metavar="PX",
    help="Photographs are resized to this side, or HEIGHTxWIDTH.",
)
@click.option(
    "--false-alarms",
    type=float,
    default=0.05,
    show_default=True,
    metavar="RATE",
    help="Share of good parts that may be flagged.",
)
@click.option(
    "--aligned",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Does the part always lie in the same place?",
)
@click.option("--steps", type=int, help="Training steps, for a recipe that trains.")
@click.option("--features", metavar="NAME", help="Network of fields: resnet18, ...")
@click.option("--weights", metavar="FILE", help="Of that network.")
@click.option("--tile", type=int, metavar="PX", help="Look at tiles, not reduced.")
@click.option("--bits", type=int, help="Of the camera, if 16-bit files hold fewer.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
@click.option("--skip-errors", is_flag=True, help="Leave out what cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="Say what was found as JSON.")
def command(
    photographs: Path,
    output: Path,
    recipe: str,
    size: str,
    false_alarms: float,
    aligned: str,
    steps: int | None,
    features: str | None,
    weights: str | None,
    tile: int | None,
    bits: int | None,
    seed: int,
    device: str,
    skip_errors: bool,
    as_json: bool,
) -> None:
    """Learn from PHOTOGRAPHS of good parts, a folder, and write one file.

    Some photographs are held out of the learning and set the threshold. Ctrl-C leaves
    a checkpoint beside the output where a recipe trains, and the same command goes on
    there; the other recipes start anew.

    \b
    ebmlib fit photos/good -o part.safetensors
    ebmlib fit photos/good -o part.safetensors --size 512 --false-alarms 0.01
    ebmlib fit photos/good -o part.safetensors --recipe experts --steps 8000
    """
    import warnings

    from ebmlib.checkpoint import CheckpointError, check_folder
    from ebmlib.data.images import list_images
    from ebmlib.data.resizing import parse_size
    from ebmlib.detector import EnergyDetector
    from ebmlib.findings import findings
    from ebmlib.survey import in_subfolders, survey

    began = time.monotonic()
    if output.suffix != ".safetensors":
        raise ValueError(f"{output}: the name must end in .safetensors")
    check_folder(output)
    chosen = _recipe(recipe, steps=steps, features=features, weights=weights)
    trains = hasattr(chosen, "steps")
    detector = EnergyDetector(
        chosen,
        parse_size(size),
        aligned={"yes": True, "no": False}.get(aligned, "auto"),
        tile=tile,
        false_alarm_rate=false_alarms,
        bits=bits,
        seed=seed,
        device=device,
    )
    files = list_images(photographs)
    found = survey(files, detector.image_size, bits, skip_errors=skip_errors)
    hurts = found.warnings(bits)
    if hidden := in_subfolders(photographs):
        hurts.append(
            f"{hidden} images in subfolders of {photographs} are not read; move them "
            "up if they show good parts"
        )
    for text in hurts:
        warnings.warn(text, stacklevel=2)
    for name, problem in found.errors:
        click.echo(f"skipped: {name}: {problem}", err=True)

    unfinished = output.with_name(output.name + UNFINISHED)
    training: dict[str, Any] = {"checkpoint": unfinished} if trains else {}
    if unfinished.exists() and trains:
        click.echo(f"going on from {unfinished}", err=True)
    click.echo(f"learning from {len(found.paths)} photographs", err=True)
    with warnings.catch_warnings():  # both are said below, in the command's own words
        warnings.filterwarnings("ignore", message=".*held-out normal images cannot")
        warnings.filterwarnings("ignore", message="the 16-bit images hold no value")
        try:
            detector.fit(found.paths, progress=True, **training)
        except CheckpointError as error:
            raise ValueError(f"{error}. To start anew, delete {unfinished}") from error
        except KeyboardInterrupt:
            left = "starts anew"
            if trains and unfinished.exists():
                left = f"goes on from {unfinished}"
            raise Stopped(f"stopped; the same command {left}") from None
    detector.save(output)
    unfinished.unlink(missing_ok=True)

    made = findings(detector, found.sizes)
    seconds = time.monotonic() - began
    if as_json:
        told: dict[str, Any] = {"output": str(output), "photographs": len(found.paths)}
        told |= {"unreadable": [list(error) for error in found.errors]}
        told |= {"warnings": hurts, "seconds": round(seconds, 1), **made.as_dict()}
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo(f"{output}: {made.recipe}, {seconds:.0f} s\n{made}")


def _recipe(name: str, **options: Any) -> Any:
    """The recipe with the options that were given.

    Raises:
        ValueError: an unknown name, or an option that it does not have.
    """
    from dataclasses import fields

    from ebmlib.recipes import RECIPES, make_recipe

    given = {key: value for key, value in options.items() if value is not None}
    if name not in RECIPES or not given:
        chosen = make_recipe(name)
        if not given:
            return chosen
        name = chosen.name
    known = {field.name for field in fields(RECIPES[name])}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"the recipe {name!r} has no --{unknown[0]}; leave it out")
    return RECIPES[name](**given)
