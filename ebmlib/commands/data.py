"""`ebmlib data`: labeled images to learn and to measure with."""

from __future__ import annotations

from pathlib import Path

import click

ROOT = click.option("--root", required=True, help="Folder of the categories.")


@click.group()
def command() -> None:
    """Download, check or lay out labeled images.

    \b
    ebmlib data download bottle --root mvtec_ad
    ebmlib data validate --root mvtec_ad
    ebmlib data elpv solar_cells --kind mono
    """


@command.command()
@click.argument("categories", nargs=-1, required=True)
@ROOT
@click.option("--source", multiple=True, help="Address or archive; repeatable.")
def download(categories: tuple[str, ...], root: str, source: tuple[str, ...]) -> None:
    """Fetch, unpack and validate CATEGORIES of MVTec AD, or "all"."""
    sources = [word for one in source for word in ("--source", one)]
    _mvtec(["download", "--root", root, *sources, "--", *categories])


@command.command()
@click.argument("categories", nargs=-1)
@ROOT
def validate(categories: tuple[str, ...], root: str) -> None:
    """Read every file of CATEGORIES, by default all, and compare the counts."""
    _mvtec(["validate", "--root", root, "--", *categories])


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["mono", "poly"]), default="mono")
@click.option(
    "--split",
    type=click.Choice(["modules", "cells"]),
    default="modules",
    show_default=True,
    help="How normal cells are parted, see ebmlib.data.elpv.",
)
def elpv(folder: Path, kind: str, split: str) -> None:
    """Lay out solar cells as FOLDER/train/good, test/good and test/defective.

    They are those of the package elpv-dataset, CC BY-NC-SA 4.0, which must be
    installed: pip install "ebmlib[photos]".
    """
    from ebmlib.data.elpv import write

    counts = write(folder, kind, split)
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    click.echo(f"{folder}: {words}")


def _mvtec(words: list[str]) -> None:
    """Run the command line of MVTec AD; what is wrong with the files is bad input."""
    from ebmlib.data.mvtec import main

    if main(words):
        click.get_current_context().exit(2)
