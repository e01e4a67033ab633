"""Take the pictures that stand for the demos where no script runs.

    make book OPEN=0
    python tools/demo_pictures.py            # book/_static/demos/<name>.png, all demos
    python tools/demo_pictures.py sculpt     # one of them

Needs Chromium. The pictures are taken from the built book.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("book", "browser")]
from reader import HTML, PAGES, Reader, launch  # noqa: E402

LARGEST = 60_000  # bytes
PREPARE = {  # what the reader would have done before the picture was taken
    "sculpt": "ebm.advance(400)",
    "threshold": "ebm.setThreshold(10)",
    "watch": "ebm.show(20)",
    "paint": "[...document.querySelectorAll('.ebm-demo button')]"
    ".find((button) => button.textContent === 'Scratch').click()",
}


def take(browser, name: str) -> bytes:
    """Header and panels of the demo as a PNG."""
    size = {"width": 1000, "height": 1600}  # the panels fit in, below the page's header
    address = (HTML / PAGES[name]).as_uri()
    reader = Reader(browser, address, viewport=size, color_scheme="light")
    reader.get(PREPARE[name])
    reader.demo.evaluate("(demo) => window.scrollTo(0, demo.offsetTop - 120)")
    reader.page.mouse.move(0, 0)
    reader.settle()
    reader.page.wait_for_timeout(500)  # fonts and small pictures
    box = reader.demo.bounding_box()
    panels = reader.demo.locator(".ebm-panels").bounding_box()
    box["height"] = panels["y"] + panels["height"] + 6 - box["y"]
    shot = reader.page.screenshot(clip=box)
    reader.leave()
    return shot


def smaller(shot: bytes) -> bytes:
    """The same picture with as many colors as fit into `LARGEST` bytes."""
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    for colors in (256, 192, 128, 96, 64, 48):
        buffer = io.BytesIO()
        few = image.quantize(colors, dither=Image.Dither.NONE)
        few.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            return buffer.getvalue()
    raise SystemExit(f"a picture is larger than {LARGEST} bytes in any colors")


def main() -> None:
    """Take them all, or those named."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="demos; all by default")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for name in parser.parse_args().names or PREPARE:
            picture = smaller(take(browser, name))
            path = ROOT / "book" / "_static" / "demos" / f"{name}.png"
            path.write_bytes(picture)
            print(f"{path.name}: {len(picture) / 1e3:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
