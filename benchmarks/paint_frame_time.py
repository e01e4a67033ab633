"""Time from a brush movement to the drawn map in headless Chromium (chapter 15).

    make book OPEN=0
    python benchmarks/paint_frame_time.py      # writes a record in results/

Opens the front page of the built book from the disk, moves a real mouse over the part,
and reads the milliseconds from each change of the picture to its drawn map: message to
the worker, energy, gradient, message back, smoothing, drawing on the canvas. (The
screen shows a canvas at its next refresh.)
"""

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("book", "browser")]
from reader import HTML, PAGES, Reader, launch  # noqa: E402

from ebmlib.benchmark import today  # noqa: E402
from ebmlib.results_files import DRILLS, record_path, write_result  # noqa: E402


def measure(reader: Reader, moves: int) -> list[float]:
    """Milliseconds of `moves` single movements of the pressed brush."""
    mouse, times = reader.page.mouse, []
    for i in range(moves):
        if i % 20 == 0:  # a new stroke on a fresh part
            mouse.up()
            reader.press("Undo all")
            reader.canvas.scroll_into_view_if_needed()
            box = reader.canvas.bounding_box()
            x, y = box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3
            mouse.move(x, y)
            mouse.down()
            reader.settle()
        mouse.move(x + 8 * (i % 20) + 4, y + 3 * (i % 7))
        reader.settle()
        times.append(reader.get("ebm.times.at(-1)"))
    mouse.up()
    return times


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch(playwright)
        reader = Reader(browser, (HTML / PAGES["paint"]).as_uri())
        measure(reader, 40)  # until the just-in-time compiler has settled
        load = os.getloadavg()[0]
        times = sorted(measure(reader, options.moves))
        network = reader.page.evaluate(
            "({ config: EBM_NUT_MODEL.config, size: EBM_NUT_MODEL.size })"
        )
        worker, version = reader.get("ebm.network.worker"), browser.version
        reader.leave()
        browser.close()
    result = {
        "what": "ms from a brush movement to the drawn map, 64 x 64 px",
        "moves": len(times),
        "median_ms": round(statistics.median(times), 1),
        "p10_ms": round(times[len(times) // 10], 1),
        "p90_ms": round(times[9 * len(times) // 10], 1),
        "max_ms": round(times[-1], 1),
        "worker": worker,
        "network": network,
        "load_average_before": round(load, 1),
        "versions": {"chromium": version, "python": platform.python_version()},
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "command": " ".join(["python benchmarks/paint_frame_time.py", *sys.argv[1:]]),
        "date": today(),
    }
    write_result(record_path(options.out, DRILLS, "paint_frame_time"), result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
