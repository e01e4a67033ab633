"""Put the results on real images into the package: ``python tools/ship_results.py``.

Chapter 12 shows them, also where it runs alone and results/ is out of reach. Run this
after the benchmark, then the chapter; tests/book/test_shipped_results.py compares both.
"""

import json
from pathlib import Path

from ebmbook.results import SHIPPED, read_results

ROOT = Path(__file__).resolve().parents[1]
CATEGORIES = ("mvtec/bottle", "mvtec/screw")  # the two of the chapter
# Energies on pretrained features are no part of its comparison, which is from scratch;
# the page "Which detector?" has them.
ELSEWHERE = ("fields", "learned_features")
DROPPED = (
    "versions",
    "command",
    "date",
    "curve",
    "vitals",
    "events",
)  # shown by no table


def shipped() -> str:
    """The text of the file: a JSON list, one run of the chapter's categories a line."""
    lines = []
    for run in read_results(ROOT / "results"):
        if run["category"] not in CATEGORIES or run["method"] in ELSEWHERE:
            continue
        kept = {name: value for name, value in run.items() if name not in DROPPED}
        if "energy" not in run.get("images", {}).get("scores", {}):
            kept.pop("images", None)  # the scores of images are for comparing with E
        lines.append(json.dumps(kept, separators=(",", ":"), sort_keys=True))
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    SHIPPED.write_text(shipped(), encoding="utf-8")
