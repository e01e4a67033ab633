"""`ebmlib report`: from a tested folder to one page."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.argument("photographs", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The page to write, such as report.html.",
)
@click.option(
    "--good",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Good photographs; trivial baselines learn from them, for comparison.",
)
@click.option("--title", help="Of the page; by default it has the folder's name.")
@click.option(
    "--shown",
    type=int,
    default=8,
    show_default=True,
    metavar="N",
    help="Photographs in each gallery.",
)
@click.option("--skip-errors", is_flag=True, help="Leave out what cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="Say what was found as JSON.")
def command(
    detector: Path,
    photographs: Path,
    output: Path,
    good: Path | None,
    title: str | None,
    shown: int,
    skip_errors: bool,
    as_json: bool,
) -> None:
    """Show on one page that reads offline what DETECTOR finds in PHOTOGRAPHS.

    PHOTOGRAPHS is a folder of images, or a folder with good/ and one folder for each
    kind of defect, as test/ of a data set in MVTec layout; masks in ground_truth/
    beside it are used.

    \b
    ebmlib report part.safetensors photos/new -o report.html
    ebmlib report part.safetensors photos/test -o report.html --good photos/train/good
    """
    from ebmlib.report import write_report

    found = write_report(
        detector,
        photographs,
        output,
        good=good,
        title=title,
        shown=shown,
        on_error="skip" if skip_errors else "raise",
    )
    told: dict[str, object] = {
        "report": str(output),
        "photographs": len(found.scores),
        "flagged": int(found.flagged.sum()),
        "skipped": len(found.skipped),
    }
    for name, share in (
        ("defective", found.found),
        ("good", found.false_alarms),
    ):
        if share is not None:
            told[name], told[f"{name}_flagged"] = share.total, share.count
    if found.rows:
        told |= {k: one.value for k, one in found.rows[0].measures.items()}
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(f"{output}: {told['flagged']} of {told['photographs']} flagged")
    if found.found is not None and found.false_alarms is not None:
        click.echo(
            f"{found.found.count} of {found.found.total} defective ones found, "
            f"{found.false_alarms.count} of {found.false_alarms.total} good ones "
            "falsely flagged"
        )
    for name, problem in found.skipped:
        click.echo(f"skipped {name}: {problem}", err=True)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
