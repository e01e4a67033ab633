"""Write the index of results/: README.md and summary.csv.

    python tools/index_results.py            # writes both
    python tools/index_results.py --check    # says whether they are up to date

Run it after every sweep; tests/book/test_results_index.py compares.
"""

import argparse
import csv
import io
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from ebmbook.results import METRICS, recipe_of, row_name
from ebmlib.results_files import (
    GROUPS,
    INDEX,
    SUMMARY,
    Run,
    read_json,
    read_peers,
    read_runs,
)

RESULTS = Path(__file__).resolve().parents[1] / "results"
ABOUT_GROUPS = {
    "experiments": "Measures that are not one run each",
    "drills": "Endurance, speed and times",
    "history": "Finished experiments, see `benchmarks/history/README.md`",
}
HEAD = """# Results

Written by `python tools/index_results.py`; do not edit. A folder `SOURCE_SIZEpx` holds
all runs on the categories of one source at one size, one file for each category,
method and seed: `CATEGORY_METHOD_SIZEpx_seedN.json`, with `METHOD_Nsteps` where the
steps were asked for. The other folders hold one record for each script.
`ebmlib/results_files.py` is the one module that knows these names, and `summary.csv`
has a row for every category, method and size. Runs of other packages are in folders
`peers_SIZEpx` and not in `summary.csv`; `benchmarks/peers/README.md` explains them.

A file holds settings, seed, versions, hardware and the command that repeats it. Dates
are those of the runs; for files older than 2026-11-30, those of the commits.
"""

COLUMNS = ["category", "method", "recipe", "steps", "image_size", "seeds"]
COLUMNS += [f"{metric}_{part}" for metric in METRICS for part in ("mean", "min", "max")]
COLUMNS += ["files"]

# ------------------------------------------------------------------------ summary


def summary(folder: Path) -> str:
    """The text of summary.csv: one row for every category, method and size."""
    groups: dict[tuple[str, int | str, str], dict[Path, Run]] = defaultdict(dict)
    for path, run in read_runs(folder).items():
        groups[run["category"], run["image_size"], row_name(run)][path] = run
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for (category, size, name), runs in groups.items():
        recipe, steps = recipe_of(next(iter(runs.values())))
        row: dict[str, Any] = {"category": category, "method": name, "recipe": recipe}
        row |= {"steps": steps, "image_size": size}
        row["seeds"] = " ".join(str(run["seed"]) for run in runs.values())
        for metric in METRICS:
            found = [run["metrics"].get(metric) for run in runs.values()]
            row |= spread(metric, [value for value in found if value is not None])
        row["files"] = " ".join(path.relative_to(folder).as_posix() for path in runs)
        table.writerow(row)
    return text.getvalue()


def spread(metric: str, values: list[float]) -> dict[str, str]:
    """Mean, smallest and largest over seeds; empty where nothing was measured."""
    figures = (mean(values), min(values), max(values)) if values else ()
    names = (f"{metric}_{part}" for part in ("mean", "min", "max"))
    return dict(zip(names, (f"{figure:.4f}" for figure in figures), strict=False))


# ------------------------------------------------------------------------ README.md


def index(folder: Path) -> str:
    """The text of README.md: what every folder is, by which command, of which day."""
    runs: dict[str, list[Run]] = defaultdict(list)
    found_runs = {**read_runs(folder), **read_peers(folder)}
    for path, run in found_runs.items():
        if path.parent.name not in GROUPS:
            runs[path.parent.relative_to(folder).as_posix()].append(run)
    lines = [
        HEAD,
        "## Sweeps",
        "",
        "| folder | what | runs | dates |",
        "|---|---|--:|---|",
    ]
    for name, found in sorted(runs.items()):
        what = f"{listed(found, 'category')} with {listed(found, 'method')}"
        lines.append(f"| `{name}/` | {what} | {len(found)} | {days(found)} |")
    lines += ["", "Commands, one line for all seeds:", ""]
    for name, found in sorted(runs.items()):
        lines += [f"`{name}/`", "", "```text", *commands(found), "```", ""]
    lines += ["## Records", "", "| file | what | date |", "|---|---|---|"]
    for group in GROUPS:
        lines.append(f"| **`{group}/`** | **{ABOUT_GROUPS[group]}** | |")
        for path in sorted((folder / group).glob("*.json")):
            made = read_json(path)
            lines.append(f"| `{path.name}` | {about(made)} | {made.get('date', '')} |")
    return "\n".join(lines) + "\n"


def listed(runs: list[Run], key: str) -> str:
    """The different values of one entry, in order."""
    return ", ".join(sorted({str(run[key]) for run in runs}))


def days(runs: list[Run]) -> str:
    """The first and the last day."""
    found = sorted({run["date"] for run in runs if "date" in run})
    return " to ".join(dict.fromkeys((found[0], found[-1]))) if found else ""


def commands(runs: list[Run]) -> Iterable[str]:
    """The different commands, without their seeds and threads."""
    return sorted({without(run.get("command", "")) for run in runs} - {""})


def without(command: str) -> str:
    """A command without --seeds and --threads and their values."""
    kept, skip = [], False
    for word in command.split():
        skip = word in ("--seeds", "--threads") or (skip and word.isdigit())
        kept += [] if skip else [word]
    return " ".join(kept)


def about(made: dict[str, Any]) -> str:
    """What a record says of itself, or the command that wrote it."""
    command = f"`{made['command']}`" if "command" in made else ""
    return ": ".join(
        part for part in (made.get("what", "").rstrip("."), command) if part
    )


def main() -> int:
    """Write both files, or compare them; 1 if --check finds one out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    stale = 0
    for name, text in ((INDEX, index(RESULTS)), (SUMMARY, summary(RESULTS))):
        path = RESULTS / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if options.check:
            print(f"{path} is out of date: run python tools/index_results.py")
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
    return int(options.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
