"""Move the sliders in JupyterLab: ``python tools/try_in_lab.py``.

Starts JupyterLab (``pip install jupyterlab``, which the book does not need) on a copy
of the chapters that have a slider, runs each in headless Chromium, moves the slider by
keyboard, and asks whether the picture under it changed and fits beside it. Prints one
line a chapter and ends with 1 if one failed. ``--pictures`` keeps screenshots.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ("03_", "08_", "09_")  # those with a slider
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HANDLE = ".jupyter-widgets .noUi-handle"
PICTURE = ".jupyter-widgets.widget-image"
RUN = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"
SOURCE = f"() => document.querySelector('{PICTURE}').src"
PATIENCE = 240  # seconds for a chapter to run


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(address: str, seconds: int = 60) -> None:
    """Until a server answers."""
    for _ in range(2 * seconds):
        try:
            urlopen(address)
            return
        except URLError:
            time.sleep(0.5)
    raise SystemExit(f"JupyterLab did not answer within {seconds} s")


def slider_of(page: Page) -> bool:
    """Scroll until the slider is there: JupyterLab draws only cells in sight."""
    for _ in range(PATIENCE):
        if page.query_selector(HANDLE):
            return True
        page.mouse.move(700, 500)
        page.mouse.wheel(0, 700)
        page.wait_for_timeout(250)
    return False


def try_chapter(page: Page, address: str, pictures: Path | None) -> str:
    """What is wrong with the slider of one chapter; nothing if it is well."""
    page.goto(f"{address}?reset")  # no tabs of the chapter before
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", state="attached")
    page.wait_for_timeout(4000)
    page.evaluate(RUN)  # comes back when all cells have run
    if not slider_of(page):
        return "no slider"
    handle = page.locator(HANDLE).first
    handle.scroll_into_view_if_needed()
    page.wait_for_selector(PICTURE)
    before = page.evaluate(SOURCE)
    handle.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
    page.wait_for_timeout(2000)
    if pictures:
        page.screenshot(path=pictures / f"{Path(address).stem}.png")
    if page.evaluate(SOURCE) == before:
        return "the picture did not follow the slider"
    picture, top = page.locator(PICTURE).bounding_box(), handle.bounding_box()["y"]
    if picture["y"] + picture["height"] - top > page.viewport_size["height"]:
        return "slider and picture do not fit on one screen"
    return ""


def main() -> int:
    """Start JupyterLab, try every chapter, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    options = parser.parse_args()
    if find_spec("jupyterlab") is None:
        raise SystemExit("this needs JupyterLab: pip install jupyterlab")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("this needs Chromium or Chrome")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    failed, port = 0, free_port()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
        tried = [n for n in notebooks if n.name.startswith(CHAPTERS)]
        for notebook in tried:
            shutil.copy(notebook, folder)
        words = ["--no-browser", "--allow-root", "--port", str(port)]
        words += ["--IdentityProvider.token=", "--expose-app-in-browser"]
        words += ["--ServerApp.root_dir", folder]
        lab = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            base = f"http://127.0.0.1:{port}/lab/tree/"
            wait_for(base)
            chromium = playwright.chromium.launch(
                executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
            )
            for notebook in tried:
                page = chromium.new_page(viewport={"width": 1400, "height": 1000})
                page.set_default_timeout(1000 * PATIENCE)
                wrong = try_chapter(page, base + notebook.name, options.pictures)
                print(f"{notebook.stem}: {wrong or 'the picture follows the slider'}")
                failed += bool(wrong)
                page.close()
        finally:
            lab.terminate()
            lab.wait()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
