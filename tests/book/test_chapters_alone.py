"""A chapter alone, as in Colab: one notebook in an empty folder, no ebmlib.

The set-up cell installs the library from a local git copy of this one, and then the
whole chapter runs. Every chapter takes some minutes in all, so the library's tests try
one. EBMLIB_ALONE=1, which continuous integration sets, tries each, on the category that
EBMLIB_CATEGORY names; EBMLIB_ALONE=0 tries none.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from test_book import NOTEBOOKS, ROOT, project_files

SHORT = "02_"  # the chapter that runs for a few seconds only
ALONE = os.environ.get("EBMLIB_ALONE")
EACH, NONE = ALONE == "1", ALONE == "0"
TRIED = [p for p in NOTEBOOKS if EACH or (p.name.startswith(SHORT) and not NONE)]
NEEDED = {
    "ebmlib",
    "ebmbook",
    "pyproject.toml",
    "README.md",
    "LICENSE",
}  # to install it
RUN = """
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read("chapter.ipynb", as_version=4)
where = nbformat.v4.new_code_cell("print('from', ebmlib.__file__)")
notebook.cells.append(where)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
print(where.outputs[-1].text)
"""


def run(*command, **options) -> str:
    """What a command prints; its complaint, if it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def git_copy(tmp_path_factory) -> str:
    """The library as committed to a repository of its own; its address for pip."""
    folder = tmp_path_factory.mktemp("source")
    for file in project_files():
        name = file.relative_to(ROOT)
        if name.parts[0] in NEEDED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(file.read_bytes())
    who = ("-c", "user.name=reader", "-c", "user.email=reader@example.org")
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", *who, "commit", "--quiet", "--message", "A copy", cwd=folder)
    return f"git+{folder.as_uri()}"


def make_bare_python(folder: Path) -> Path:
    """An environment with the packages of this one, except ebmlib."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = next(p for p in scripts.iterdir() if p.stem == "python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    # A folder named in a .pth file is searched, but .pth files in it are not read, so
    # the editable ebmlib of this environment stays out of reach.
    here = sysconfig.get_path("purelib")
    Path(run(python, "-c", ask).strip(), "packages.pth").write_text(here + "\n")
    return python


def packages(python: Path) -> list[str]:
    return run(python, "-m", "pip", "freeze").splitlines()


@pytest.fixture(scope="session")
def packages_before(tmp_path_factory) -> set[str]:
    """What any bare environment has, ebmlib apart: asking takes seconds."""
    lines = packages(make_bare_python(tmp_path_factory.mktemp("bare") / "env"))
    return {line for line in lines if not line.startswith(("-e ", "#"))}


@pytest.mark.parametrize("path", TRIED, ids=lambda path: path.stem)
def test_a_chapter_alone_installs_the_library_and_runs(
    path, git_copy, packages_before, tmp_path
):
    python = make_bare_python(tmp_path / "env")
    (alone := tmp_path / "alone").mkdir()
    shutil.copy(path, alone / "chapter.ipynb")
    environment = os.environ | {
        "EBMLIB_SOURCE": git_copy,
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as "no isolation": no download
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),  # no other kernel than this one
        "JUPYTER_PATH": "",
    }
    settings = () if EACH else ("EBMLIB_CATEGORY", "MVTEC_ROOT")
    for name in ("PYTHONPATH", *settings):
        environment.pop(name, None)
    printed = run(python, "-c", RUN, cwd=alone, env=environment)
    assert f"from {tmp_path / 'env'}" in printed, printed
    after = set(packages(python))
    assert packages_before <= after, "a package was replaced"
    book, library = sorted(after - packages_before)
    assert library.startswith("ebmlib @ git+file:")
    assert book.startswith("ebmbook @ git+file:")
    assert [p.name for p in alone.iterdir()] == ["chapter.ipynb"]  # nothing left behind
