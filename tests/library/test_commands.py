"""The command line as a whole: help, exit codes, and one line about what is wrong."""

import errno
import logging
import subprocess
import sys
import warnings

import click
import pytest
from click.testing import CliRunner
from drawn_parts import ebmlib

from ebmlib import commands


def test_help_lists_what_is_there_without_loading_it():
    code = "import sys\nfrom ebmlib.commands import main\n"
    code += "main(['--help'], standalone_mode=False)\nprint('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
    for name in ("fit", "predict", "monitor", "benchmark", "data"):
        assert f"\n  {name} " in done.stdout


def test_every_command_that_is_there_has_help_with_an_example():
    names = commands.main.list_commands(None)
    assert set(names) <= set(commands.COMMANDS)
    for name in names:
        if name != "benchmark":  # that of ebmlib.benchmark, tested there
            assert f"ebmlib {name} " in ebmlib(name, "--help").output


def test_an_unknown_command_or_option_ends_with_2():
    assert "No such command 'fitt'" in ebmlib("fitt", code=2).output
    assert "No such option" in ebmlib("monitor", "--loud", code=2).output


def test_the_version_is_that_of_the_library():
    assert "ebmlib, version" in ebmlib("--version").output


def run(function):
    """A command of this one function, under the group's care."""
    group = commands.Commands("test")
    group.get_command = lambda ctx, name: click.Command(name, callback=function)
    return CliRunner().invoke(group, ["x"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a.png: cut\n  off"), "a.png: cut off"),
        (ImportError("no weights"), "no weights"),
        (
            OSError(errno.ENOSPC, "No space left on device", "part.csv"),
            "part.csv: no space left on device; free some space and repeat the command",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            "x: permission denied; name a place where you may read and write",
        ),
        (OSError("odd"), "odd"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(error, said):
    def fail():
        raise error

    done = run(fail)
    assert (done.exit_code, done.output) == (2, f"Error: {said}\n")


def test_a_stop_is_exit_code_130():
    def stop():
        raise KeyboardInterrupt

    done = run(stop)
    assert done.exit_code == 130 and "stopped" in done.output


def test_a_mistake_of_the_program_keeps_its_traceback():
    def fail():
        raise ZeroDivisionError

    assert isinstance(run(fail).exception, ZeroDivisionError)


def test_warnings_and_records_are_lines_and_each_is_said_once():
    def warn():
        for _ in range(2):
            warnings.warn("few\nimages", stacklevel=2)
            logging.getLogger("ebmlib.guard").warning("few images")
        logging.getLogger("ebmlib.view").info("not this")

    assert run(warn).output == "warning: few images\n"


def test_data_validate_and_download_are_those_of_the_library(tmp_path):
    assert "no " in ebmlib("data", "validate", "--root", tmp_path, code=2).output
    words = ["data", "download", "felt", "--root", tmp_path]
    assert "official" in ebmlib(*words, code=2).output


def test_data_elpv_lays_out_the_cells(tmp_path, monkeypatch):
    from ebmlib.data import elpv

    (tmp_path / "1.png").write_bytes(b"1")
    cell = elpv.Cell(tmp_path / "1.png", 1, 0.0)
    split = elpv.Split([cell], [], [cell], ())
    monkeypatch.setattr(elpv, "split_of", lambda *_: split)
    said = ebmlib("data", "elpv", tmp_path / "cells").output
    assert "1 train/good, 0 test/good, 1 test/defective" in said
    assert (tmp_path / "cells" / "test" / "defective" / "1.png").exists()
    assert "exists already" in ebmlib("data", "elpv", tmp_path / "cells", code=2).output


def test_benchmark_gets_every_word(monkeypatch):
    import ebmlib.benchmark

    got = []
    monkeypatch.setattr(ebmlib.benchmark, "main", lambda words: got.append(words) or 1)
    run_here("benchmark", "--size", "32", "--methods", "pca", "experts", "--help")
    assert got == [["--size", "32", "--methods", "pca", "experts", "--help"]]


def run_here(*words):
    assert CliRunner().invoke(commands.main, words).exit_code == 1
