"""Fetch the browser libraries of the built book, so that it reads with no network.

Run by ``make book``. Each library is one published npm archive, fetched with
``npm pack``: no install scripts run and no dependencies follow. The files go to
book/_static/vendor, and the checker of accessibility that the browser tests use goes to
tests/vendor; git ignores both. Where npm is missing, or an archive cannot be fetched,
the build goes on and the pages load the same libraries from a public CDN.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENDOR = ROOT / "book" / "_static" / "vendor"
FOR_TESTS = ROOT / "tests" / "vendor"

# archive -> (folder, prefix to drop, [files, or folders ending in "/"])
LIBRARIES = {
    "mathjax@3.2.2": (
        VENDOR / "mathjax",
        "es5/",
        [
            "es5/tex-mml-chtml.js",
            "es5/output/chtml/fonts/woff-v2/",
            "es5/input/tex/extensions/",
            "es5/a11y/",
            "es5/sre/mathmaps/base.json",
            "es5/sre/mathmaps/en.json",
            "LICENSE",
        ],
    ),
    "requirejs@2.3.8": (VENDOR / "requirejs", "", ["require.js", "README.md"]),
    "@jupyter-widgets/html-manager@1.0.15": (
        VENDOR / "html-manager",
        "dist/",
        ["dist/embed-amd.js", "dist/*.woff2", "LICENSE"],
    ),
    "axe-core@4.14.1": (FOR_TESTS / "axe-core", "", ["axe.min.js", "LICENSE"]),
}


def wanted(name: str, patterns: list[str]) -> bool:
    """Whether an archive's file is one of the patterns (``dir/`` means all below)."""
    return any(
        name.startswith(p) if p.endswith("/") else Path(name).match(p) for p in patterns
    )


def unpack(archive: Path, target: Path, strip: str, patterns: list[str]) -> None:
    """Write the wanted files of ``archive`` below ``target``, nothing else."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            name = member.name.removeprefix("package/")
            if not member.isfile() or ".." in name or not wanted(name, patterns):
                continue
            path = target / name.removeprefix(strip)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())


def fetch(library: str, folder: Path) -> Path:
    """Download one archive with npm and return its path."""
    command = ["npm", "pack", "--silent", library, "--pack-destination", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return next(folder.glob("*.tgz"))


def remove() -> None:
    """Start from nothing: no file of another version stays behind."""
    for folder in (VENDOR, FOR_TESTS):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Bring both folders up to date; do nothing when they already are."""
    stamp = VENDOR / "versions.txt"
    versions = "\n".join(LIBRARIES) + "\n"
    there = all(folder.exists() for folder, _, _ in LIBRARIES.values())
    if there and stamp.exists() and stamp.read_text() == versions:
        return
    remove()
    if shutil.which("npm") is None:
        print(
            "npm was not found: the book is built, but its pages will load MathJax\n"
            "and the widget manager from a CDN. Install Node.js and build again for\n"
            "a book that reads with no network."
        )
        return
    try:
        with tempfile.TemporaryDirectory() as temporary:
            for number, (library, what) in enumerate(LIBRARIES.items()):
                folder = Path(temporary) / str(number)
                folder.mkdir()
                unpack(fetch(library, folder), *what)
    except (subprocess.SubprocessError, OSError, tarfile.TarError) as error:
        remove()
        print(f"{error}\nThe pages will load these libraries from a CDN.")
        return
    stamp.write_text(versions)
    size = sum(f.stat().st_size for f in VENDOR.rglob("*") if f.is_file())
    print(f"Browser libraries: {size / 1e6:.1f} MB in {VENDOR.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
