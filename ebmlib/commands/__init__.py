"""The command line `ebmlib`: one file for each command (chapter 15).

A file of this package defines a click command named `command` and is imported when it
is called, so `ebmlib --help` is quick. What is wrong is said in one line that names the
file, the problem and a way out.

Exit codes: 0, done; 1, something was anomalous or has drifted, and `--exit-code` asked;
2, bad input; 130, stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

import ebmlib

COMMANDS = {
    "fit": "Learn from a folder of photographs of good parts.",
    "predict": "Judge photographs: a table, heat maps and overlays.",
    "report": "Show a tested detector on one page that reads offline.",
    "monitor": "Say whether the scores of a table have drifted.",
    "export": "Write a graph that runs without Python.",
    "benchmark": "Measure detectors and baselines on labeled images.",
    "data": "Download or check labeled images.",
}
ADVICE = {
    errno.ENOSPC: "free some space and repeat the command",
    errno.EDQUOT: "free some space and repeat the command",
    errno.EACCES: "name a place where you may read and write",
    errno.EPERM: "name a place where you may read and write",
    errno.EROFS: "name a place that is not read-only",
    errno.ENOENT: "check the name",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a folder",
}


class BadInput(click.ClickException):
    """One line about what was wrong, and exit code 2."""

    exit_code = 2


class Stopped(click.ClickException):
    """Ctrl-C; one line about what is left behind, and exit code 130."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        """The line alone, as nothing was wrong."""
        click.echo(self.format_message(), file=file, err=True)


class Commands(click.Group):
    """Imports a command when it is called; says errors and warnings in words."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands whose file is there."""
        here = Path(__file__).parent
        return [name for name in COMMANDS if (here / f"{name}.py").exists()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of the file with this name."""
        if name not in self.list_commands(ctx):
            return None
        found: click.Command = importlib.import_module(f"{__name__}.{name}").command
        return found

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(n, COMMANDS[n]) for n in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run one command."""
        try:
            with spoken_warnings():
                return super().invoke(ctx)
        except BrokenPipeError:  # of a reader such as `head`; click ends quietly
            raise
        except (ValueError, OSError, ImportError) as error:
            raise BadInput(in_words(error)) from error
        except KeyboardInterrupt:
            raise Stopped("stopped") from None


def in_words(error: Exception) -> str:
    """One line about an error: the file, what was wrong, what to do."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        advice = ADVICE.get(error.errno or 0)
        return f"{name}{error.strerror.lower()}" + (f"; {advice}" if advice else "")
    return " ".join(str(error).split())


@contextlib.contextmanager
def spoken_warnings() -> Iterator[None]:
    """Warnings and log records of the library as lines on stderr, each one once."""
    told: set[str] = set()

    def tell(message: object) -> None:
        text = " ".join(str(message).split())
        if text not in told:
            told.add(text)
            click.echo(f"warning: {text}", err=True)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(record.getMessage())

    logger, handler = logging.getLogger("ebmlib"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: tell(message)
            yield
    finally:
        logger.removeHandler(handler)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ebmlib.__version__, prog_name="ebmlib")
def main() -> None:
    """Find defects in photographs, after learning from good parts alone.

    \b
    ebmlib fit photos/good -o part.safetensors
    ebmlib predict part.safetensors photos/new --out results
    ebmlib monitor results/scores.csv
    """
