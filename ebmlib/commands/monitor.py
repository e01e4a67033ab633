"""`ebmlib monitor`: have the scores of a table drifted?"""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("scores", type=click.Path(path_type=Path))
@click.option(
    "--window",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Photographs that are compared with the calibration together.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="File of the picture. [default: drift.png beside SCORES]",
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 if they have drifted.")
@click.option("--json", "as_json", is_flag=True, help="Say all numbers as JSON.")
def command(
    scores: Path, window: int, picture: Path | None, exit_code: bool, as_json: bool
) -> None:
    """Say whether SCORES, a table that predict wrote, have drifted.

    Two tests of chapter 15 look at the photographs in the order of the table, which
    must be that of time. A bucket notices more flags than promised, a rank test notices
    scores that rise or fall. Both know how often they call without a cause.

    \b
    ebmlib monitor results/scores.csv
    ebmlib monitor results/scores.csv --window 50 --exit-code --json
    """
    from ebmlib.checkpoint import check_folder
    from ebmlib.monitoring import Watch, draw, watch_table

    picture = scores.with_name("drift.png") if picture is None else picture
    if picture.suffix != ".png":
        raise ValueError(f"{picture}: the name of the picture must end in .png")
    found: Watch = watch_table(scores, window)
    draw(found, check_folder(picture))
    if as_json:
        click.echo(json.dumps({**found.as_dict(), "picture": str(picture)}, indent=1))
    else:
        click.echo(f"{found}\n{picture}: the picture")
    if exit_code and found.drifted:
        click.get_current_context().exit(1)
