"""The files of results: where they lie, what they are called, how they are written.

No other file of the project knows a folder or a name below `results/`:

    results/mvtec_128px/mvtec-bottle_experts_128px_seed0.json    a run of the benchmark
    results/mvtec_640x256px/mvtec-strip_pca_640x256px_seed0.json     height x width
    results/peers_256px/mvtec-bottle_PEER_256px_seed0.json       of another package
    results/experiments/map_ablation_mvtec-bottle_256px.json     a record of a script
    results/README.md, results/summary.csv                       the index

A *sweep* is the folder of all runs on one source of images at one size. A *peer* is a
method of another package, see `benchmarks/peers/`; its runs are kept apart from those
of the library. A *record* is
what a script of `benchmarks/` or `tools/` wrote, under the name of the script.
`tools/index_results.py` writes the index.
"""

import json
import os
import uuid
from pathlib import Path
from typing import Any

Run = dict[str, Any]
Side = int | str | tuple[int, int]  # 128, or (256, 640), or "256x640"

EXPERIMENTS = "experiments"  # records of measures that are not one run each
DRILLS = "drills"  # records of endurance and of speed
HISTORY = "history"  # records of the finished experiments in benchmarks/history/
GROUPS = (EXPERIMENTS, DRILLS, HISTORY)
INDEX, SUMMARY = "README.md", "summary.csv"

# ------------------------------------------------------------------------ names


def slug(category: str) -> str:
    """The name of a category in file names: "mvtec/bottle" is "mvtec-bottle"."""
    return category.replace("/", "-")


def size_label(size: Side) -> int | str:
    """The size of images as results hold it: 128 of a square, else "256x640".

    Args:
        size: the side of a square or (height, width), in px; or what a result holds.
    """
    if isinstance(size, (int, str)):
        return size
    height, width = size
    return height if height == width else f"{height}x{width}"


def sweep_name(category: str, size: Side) -> str:
    """The folder of a run: "mvtec_128px" for "mvtec/bottle" at 128 px."""
    return f"{category.split('/')[0]}_{size_label(size)}px"


def result_path(
    folder: str | Path,
    category: str,
    method: str,
    seed: int,
    size: Side,
    steps: int | None = None,
) -> Path:
    """File of one run below the folder of all results.

    Args:
        folder: of all results.
        category: such as "mvtec/bottle".
        method: a recipe's or a baseline's name.
        seed: of the fit.
        size: side of the images in px, or (height, width).
        steps: of the training, if they were asked for; two lengths of one method are
            two files.
    """
    name = method if steps is None else f"{method}_{steps}steps"
    file = f"{slug(category)}_{name}_{size_label(size)}px_seed{seed}.json"
    return Path(folder) / sweep_name(category, size) / file


def peers_name(size: int) -> str:
    """The folder of all runs of other packages at one size: "peers_256px"."""
    return f"peers_{size}px"


def peer_path(
    folder: str | Path,
    category: str,
    method: str,
    seed: int,
    size: int,
    change: str | None = None,
) -> Path:
    """File of one run of another package.

    Args:
        folder: of these runs, such as results/peers_256px.
        category: such as "mvtec/bottle".
        method: the name of the peer.
        seed: of the fit.
        size: side of the images in px.
        change: of the images, such as "shift4"; None leaves them as they are.
    """
    name = method if change is None else f"{method}_{change}"
    return Path(folder) / f"{slug(category)}_{name}_{size}px_seed{seed}.json"


def record_path(folder: str | Path, group: str, script: str, of: str = "") -> Path:
    """File of a record below the folder of all results.

    Args:
        folder: of all results.
        group: one of `GROUPS`.
        script: the name of the script that writes it, without folder and ending.
        of: what the record is of, where a script writes several, such as
            "mvtec/bottle_256px".

    Raises:
        ValueError: another group.
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {GROUPS}, got {group!r}")
    name = f"{script}_{slug(of)}" if of else script
    return Path(folder) / group / f"{name}.json"


# ------------------------------------------------------------------------ reading


def read_json(path: str | Path) -> Any:
    """What a result file holds.

    Raises:
        ValueError: the file is not whole JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or bytes that are no UTF-8
        raise ValueError(
            f"{path} is not a whole JSON file ({error}); delete it, or restore it, "
            "and repeat the command"
        ) from None


def read_runs(folder: str | Path) -> dict[Path, Run]:
    """All runs below `folder` by file: JSON with a category, a method and metrics.

    They are sorted by category, size, method, steps and seed. Runs of other packages
    are left out, see `read_peers`.
    """
    return {
        path: run for path, run in _all_runs(folder).items() if not run.get("package")
    }


def read_peers(folder: str | Path) -> dict[Path, Run]:
    """The runs of other packages below `folder`, sorted as in `read_runs`."""
    return {path: run for path, run in _all_runs(folder).items() if run.get("package")}


def _all_runs(folder: str | Path) -> dict[Path, Run]:
    found = {path: read_json(path) for path in sorted(Path(folder).rglob("*.json"))}
    runs = {path: made for path, made in found.items() if is_run(made)}
    return dict(sorted(runs.items(), key=lambda item: _order(item[1])))


def is_run(made: Any) -> bool:
    """Whether the contents of a file are those of a run, ours or of another package."""
    return isinstance(made, dict) and {"category", "method", "metrics"} <= made.keys()


def _order(run: Run) -> tuple[str, list[int], str, int, int]:
    steps, seed = (run.get(name) or 0 for name in ("asked_steps", "seed"))
    sides = str(run.get("image_size") or 0).split("x")  # 64, or "256x640"
    return run["category"], [int(side) for side in sides], run["method"], steps, seed


def records(folder: str | Path, script: str) -> dict[Path, dict[str, Any]]:
    """What a script wrote, by file; `{}` where there is nothing yet."""
    paths = [
        path
        for group in GROUPS
        for path in sorted((Path(folder) / group).glob("*.json"))
        if path.stem == script or path.stem.startswith(f"{script}_")
    ]
    return {path: read_json(path) for path in paths}


def record(folder: str | Path, script: str) -> dict[str, Any] | None:
    """The one record of a script, None where there is none.

    Raises:
        ValueError: the script wrote several.
    """
    found = list(records(folder, script).values())
    if len(found) > 1:
        raise ValueError(f"{script} wrote {len(found)} records; use `records`")
    return found[0] if found else None


# ------------------------------------------------------------------------ writing


def write_result(path: str | Path, result: dict[str, Any]) -> None:
    """Write JSON so that `path` holds either what it held before or all of it."""
    text, path = to_text(result), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex[:12]}.part")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_text(value: Any, indent: int = 0) -> str:
    """JSON with one line per entry of a dictionary; lists stay on one line."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value)
    space = " " * (indent + 1)
    entries = [
        f"{space}{json.dumps(k)}: {to_text(v, indent + 1)}" for k, v in value.items()
    ]
    return "{\n" + ",\n".join(entries) + "\n" + " " * indent + "}"


def check_writable(folder: str | Path, option: str) -> None:
    """Try to write in `folder`, which is made if it is missing.

    Args:
        folder: where files are to be written.
        option: what the message calls it, such as "--out".

    Raises:
        ValueError: it cannot be made, or nothing can be written there.
    """
    folder = Path(folder)
    trial = folder / f".{uuid.uuid4().hex[:12]}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"{option} {folder} cannot be written ({reason}); name a folder that can"
        ) from None
