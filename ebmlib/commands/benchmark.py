"""`ebmlib benchmark`: everything is passed on to `ebmlib.benchmark`."""

from __future__ import annotations

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Measure detectors and baselines on labeled images; --help lists the options."""
    from ebmlib.benchmark import main

    click.get_current_context().exit(main(list(arguments)))
