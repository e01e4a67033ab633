"""Ten thousand photographs through `ebmlib predict`, killed once and resumed.

    python benchmarks/many_photographs.py            # writes a record in results/
    python benchmarks/many_photographs.py --count 500 --out elsewhere

Drawn nuts with noise of their own are written to a temporary folder; one file in a
hundred is cut short. The program judges them with `--skip-errors` and is killed by
SIGKILL when about half of the rows are there. The same command then goes on. In the
end every photograph must have one row, the broken ones must be those that say so, and
the rows must equal those of the library. The memory of the process is read twice a
second: it must not grow with the number of photographs.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from ebmlib.benchmark import hardware, today, versions
from ebmlib.data import synthetic
from ebmlib.detector import EnergyDetector
from ebmlib.prediction_table import UNREADABLE, read_rows
from ebmlib.results_files import EXPERIMENTS, record_path, write_result

ROOT = Path(__file__).resolve().parents[1]
DRAWN = 100  # different nuts
BROKEN = 100  # one file in so many


def write_photographs(folder: Path, count: int, side: int, seed: int) -> list[str]:
    """Write the photographs; the names of the broken ones."""
    drawn = synthetic.make("nut", size=side, n_train=DRAWN, n_test=0, n_defective=0)
    pictures = (255 * drawn.train.permute(0, 2, 3, 1).numpy()).astype(np.float32)
    rng, broken = np.random.default_rng(seed), []
    folder.mkdir()
    for index in range(count):
        path = folder / f"{index:06}.png"
        noise = rng.standard_normal(pictures.shape[1:], dtype=np.float32)
        values = np.clip(pictures[index % DRAWN] + 2 * noise, 0, 255)
        Image.fromarray(values.astype(np.uint8).squeeze()).save(path, compress_level=1)
        if index % BROKEN == BROKEN // 2:
            content = path.read_bytes()
            path.write_bytes(content[: rng.integers(len(content))])
            broken.append(path.name)
    return broken


def run(words: list[str], table: Path, kill_at: int | None) -> dict:
    """Run the program, killed when the table has so many rows; time and memory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ebmlib", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before, samples = rows_of(table), []
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            rows, used = rows_of(table) - before, watched.cpu_times()
            memory = watched.memory_info().rss / 2**20
        except psutil.Error:  # it has just ended
            break
        if rows > 0:
            seconds = time.monotonic(), used.user + used.system
            samples.append((rows, memory, *seconds))
        if kill_at is not None and rows >= kill_at:
            process.kill()
        time.sleep(0.5)
    process.wait()
    rows, memory, wall, cpu = (
        np.array(column) for column in zip(*samples, strict=True)
    )
    quarter = max(1, len(rows) // 4)
    judged = int(rows[-1] - rows[0])
    return {
        "exit_code": process.returncode,
        "rows": rows_of(table) - before,
        "photographs_per_second": round(judged / (wall[-1] - wall[0]), 2),
        "photographs_per_processor_second": round(judged / (cpu[-1] - cpu[0]), 2),
        "memory_mb_first_quarter": round(float(np.median(memory[:quarter])), 1),
        "memory_mb_last_quarter": round(float(np.median(memory[-quarter:])), 1),
        "memory_mb_peak": round(float(memory.max()), 1),
    }


def rows_of(table: Path) -> int:
    """Lines after the first one."""
    return table.read_bytes().count(b"\n") - 1 if table.exists() else 0


def main() -> int:
    """Judge, kill, go on, compare; 1 if a row is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=32, help="px of a photograph")
    parser.add_argument("--features", default="cosine", help="of the recipe fields")
    parser.add_argument("--maps", default="anomalous")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthetic.write(folder, "nut", size=options.side, n_train=60, n_test=0)
        good, new = folder / "nut" / "train" / "good", folder / "new"
        broken = write_photographs(new, options.count, options.side, options.seed)
        detector = folder / "part.safetensors"
        size = str(min(64, options.side))
        words = ["fit", str(good), "-o", str(detector), "--recipe", "fields"]
        words += ["--features", options.features, "--size", size]
        subprocess.run([sys.executable, "-m", "ebmlib", *words], check=True)
        words = ["predict", str(detector), str(new), "--out", str(folder / "out")]
        words += ["--skip-errors", "--maps", options.maps]
        table = folder / "out" / "scores.csv"
        killed = run(words, table, options.count // 2)
        whole_at_kill = len(read_rows(table))
        resumed = run(words, table, None)
        rows = {Path(row.path).name: row for row in read_rows(table)}
        said = sorted(n for n, row in rows.items() if row.verdict == UNREADABLE)
        drawn = [*(folder / "out" / "maps").glob("*.png")]
        sample = sorted(rows.keys() - set(broken))[:: max(1, options.count // 200)]
        scores = EnergyDetector.load(detector).anomaly_score([new / n for n in sample])
        written = np.array([float(rows[n].score) for n in sample])
        off = float(np.abs(written / scores.numpy() - 1).max())
        exact = {
            "rows": rows_of(table),
            "photographs_with_a_row": len(rows),
            "broken": len(broken),
            "broken_that_say_so": len(set(said) & set(broken)),
            "others_that_say_so": len(set(said) - set(broken)),
            "maps": len(drawn),
            "largest_relative_difference_from_the_library": off,
            "compared_with_the_library": len(sample),
        }
    well = (
        exact["rows"] == exact["photographs_with_a_row"] == options.count
        and said == broken
        and resumed["exit_code"] == 0
        and off < 1e-4
        and (options.maps != "all" or len(drawn) == options.count - len(broken))
    )
    result = {
        "what": "Ten thousand photographs through `ebmlib predict`, killed once.",
        "command": shlex.join(
            [
                *("python", "benchmarks/many_photographs.py"),
                *("--count", str(options.count), "--side", str(options.side)),
                *("--features", options.features, "--maps", options.maps),
                *("--seed", str(options.seed)),
            ]
        ),
        "seed": options.seed,
        "well": well,
        **exact,
        "whole_rows_when_it_was_killed": whole_at_kill,
        "killed": killed,
        "resumed": resumed,
        "load_of_the_machine": round(os.getloadavg()[2], 1),
        "versions": versions(),
        "hardware": hardware(),
        "date": today(),
    }
    path = record_path(options.out, EXPERIMENTS, "many_photographs")
    write_result(path, result)
    print(path.read_text())
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
