"""Change one expression of a module at a time, and see whether a test fails.

    pip install mutmut==3.8.1
    python tools/mutants.py metrics                           # by test_metrics.py
    python tools/mutants.py calibration --tests test_detector.py

mutmut makes the changes, in a copy of the tracked files, and runs the tests that reach
each of them. A mutant that no test notices is a line that no test states. The score is
the share that was noticed; survivors are listed, and `--show` prints their changes. It
needs `fork`, so Linux or macOS, and minutes for each module.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = """

[tool.mutmut]
source_paths = ["ebmlib"]
only_mutate = ["ebmlib/{module}.py"]
also_copy = ["tools", "ebmbook"]
pytest_add_cli_args = ["-o", "addopts=", "-q"]
pytest_add_cli_args_test_selection = {tests}
process_isolation = "forkserver"
"""
NOTICED = ("killed", "timeout", "segfault", "suspicious", "caught by type check")


def copy_of_project(folder: Path, module: str, tests: list[str]) -> None:
    """Put the tracked files into a folder, with the settings of this run."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "ebmlib", "ebmbook", "tests", "tools", "*.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    paths = [f"tests/library/{name}" for name in tests]
    with open(folder / "pyproject.toml", "a", encoding="utf-8") as file:
        file.write(SETTINGS.format(module=module, tests=json.dumps(paths)))


def verdicts(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """Name of every mutant -> what became of it."""
    command = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    pairs = [line.strip().rpartition(": ") for line in done.stdout.splitlines()]
    return {name: verdict for name, _, verdict in pairs if name}


def main() -> int:
    """Run mutmut on one module and print the score; 1 if it could not run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", help="such as metrics or data/resizing")
    parser.add_argument("--tests", nargs="+", help="files of tests/library")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--show", action="store_true", help="print each survivor")
    options = parser.parse_args()
    tests = options.tests or [f"test_{Path(options.module).name}.py"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_project(folder, options.module, tests)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)  # the copy is what is tested
        command = [sys.executable, "-m", "mutmut"]
        run = [*command, "run", "--max-children", str(options.jobs)]
        if subprocess.run(run, cwd=folder, env=environment).returncode:
            return 1
        found = verdicts(folder, environment)
        tried = {n: v for n, v in found.items() if v != "no tests"}
        left = [n for n, verdict in tried.items() if verdict not in NOTICED]
        print(f"\n{options.module}: {len(found)} mutants, {len(tried)} reached by")
        print(f"{', '.join(tests)}; noticed {len(tried) - len(left)}")
        for mutant in left:
            print(f"  {tried[mutant]}: {mutant}")
            if options.show:
                show = [*command, "show", mutant]
                subprocess.run(show, cwd=folder, env=environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
