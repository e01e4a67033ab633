"""`ebmlib predict`: a table, heat maps and overlays of new photographs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmlib.commands import Stopped

if TYPE_CHECKING:
    from ebmlib.judge import Judge

LISTED = 20  # unreadable files that are named at the end
POLL = 0.5  # seconds between two looks at a watched folder


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.argument("photographs", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the results; made if it is missing.",
)
@click.option(
    "--maps",
    type=click.Choice(["all", "anomalous", "none"]),
    default="all",
    show_default=True,
    help="Of which photographs to write heat map and overlay.",
)
@click.option("--skip-errors", is_flag=True, help="List what cannot be read, go on.")
@click.option("--watch", is_flag=True, help="Wait for new photographs until Ctrl-C.")
@click.option(
    "--idle",
    type=float,
    metavar="SECONDS",
    help="With --watch: end after so long without a new photograph.",
)
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if any is anomalous.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(
    detector: Path,
    photographs: Path,
    out: Path,
    maps: str,
    skip_errors: bool,
    watch: bool,
    idle: float | None,
    batch: int,
    device: str,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Judge PHOTOGRAPHS, a folder or one file, by the DETECTOR that fit wrote.

    \b
    OUT/scores.csv            one row a photograph, with the largest flagged region
    OUT/maps/NAME.png         16 bits; 16384 is the pixel threshold
    OUT/overlays/NAME.png     the photograph under its map, flagged pixels outlined

    A run that was stopped goes on by the same command; photographs that have a row are
    not judged again. With --watch, which skips errors, a file is read when it has not
    grown for a while.

    \b
    ebmlib predict part.safetensors photos/new --out results
    ebmlib predict part.safetensors photos/new --out results --skip-errors --json
    ebmlib predict part.safetensors camera --out results --watch --maps anomalous
    """
    import warnings

    from ebmlib.data.images import list_images
    from ebmlib.detector import EnergyDetector
    from ebmlib.judge import Judge
    from ebmlib.prediction_table import ANOMALOUS, PredictionTable, describe
    from ebmlib.survey import in_subfolders

    if idle is not None and not watch:
        raise ValueError("--idle belongs to --watch; leave it out, or add --watch")
    loaded = EnergyDetector.load(detector, device)
    files = [photographs]
    if not photographs.is_file():
        files = [] if watch else list_images(photographs)
        if hidden := in_subfolders(photographs):
            warnings.warn(
                f"{hidden} images in subfolders of {photographs} are not judged; name "
                "a subfolder to judge them",
                stacklevel=2,
            )
    elif watch:
        raise ValueError(f"{photographs}: a file; --watch needs a folder")
    table = PredictionTable(out, describe(loaded, detector, photographs))
    judge = Judge(loaded, table, maps, batch)
    before, began = len(table.done), time.monotonic()
    if before:
        click.echo(f"{before} photographs have a row already", err=True)
    if watch:
        _watch(judge, photographs, idle)
    else:
        _run(judge, [f for f in files if f.name not in table.done], skip_errors)
    _tell(judge, before, time.monotonic() - began, as_json)
    if exit_code and table.counts[ANOMALOUS]:
        click.get_current_context().exit(1)


def _run(judge: Judge, files: list[Path], skip_errors: bool) -> None:
    """Judge some files, with a line that shows how far and how fast."""
    from ebmlib.prediction_table import ANOMALOUS
    from ebmlib.progress import Progress

    before, began = len(judge.table.done), time.monotonic()
    with Progress(before + len(files), "auto", label="judging", start=before) as bar:
        try:
            for _ in judge(files, skip_errors):
                rate = judge.count / (time.monotonic() - began)
                found = judge.table.counts[ANOMALOUS]
                bar.update(before + judge.count, f"{rate:.1f}/s, {found} anomalous")
        except KeyboardInterrupt:
            raise Stopped("stopped; the same command goes on from there") from None


def _watch(judge: Judge, folder: Path, idle: float | None) -> None:
    """Judge what appears, until Ctrl-C or `idle` seconds without a change."""
    from ebmlib.data.watching import FolderWatch

    watch = FolderWatch(folder)
    click.echo(f"watching {folder}; Ctrl-C ends it", err=True)
    try:
        while idle is None or watch.clock() - watch.changed < idle:
            for rows in judge(watch.ready(judge.table.done), True, watch.gives_up):
                for row in rows:
                    said = f"{row.verdict:10}  {row.score:>8}  {row.path}"
                    click.echo(said + (f": {row.problem}" if row.problem else ""))
            time.sleep(POLL)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


def _tell(judge: Judge, before: int, seconds: float, as_json: bool) -> None:
    """What stands in the table now, and what of it is new."""
    from ebmlib.prediction_table import ANOMALOUS, NORMAL, UNREADABLE

    table, rate = judge.table, judge.count / max(seconds, 1e-9)
    counts = {name: table.counts[name] for name in (NORMAL, ANOMALOUS, UNREADABLE)}
    if as_json:
        told: dict[str, Any] = {"scores": str(table.path)}
        told |= {"photographs": sum(counts.values()), **counts, "before": before}
        told |= {"seconds": round(seconds, 2), "rate": round(rate, 2)}
        told |= {"errors": [list(error) for error in judge.errors]}
        click.echo(json.dumps(told, indent=1))
        return
    for name, problem in judge.errors[:LISTED]:
        click.echo(f"unreadable: {name}: {problem}", err=True)
    if len(judge.errors) > LISTED:
        more = len(judge.errors) - LISTED
        click.echo(f"unreadable: {more} more, see the table", err=True)
    words = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    click.echo(
        f"{table.path}: {sum(counts.values())} photographs, {words or 'none'}; "
        f"{judge.count} judged now, {rate:.1f}/s"
    )
