"""Put the results on real images into the package: ``python tools/ship_results.py``.

Chapters 12 and 13 show them, also where they run alone and results/ is out of reach.
Run this after the benchmark, then the chapters; tests/book/test_shipped_results.py
compares both.
"""

import json
from pathlib import Path

from ebmbook.results import SHIPPED, SHIPPED_FEATURES, read_results
from ebmlib.baselines import TRIVIAL
from ebmlib.results_files import peers_name, read_peers

ROOT = Path(__file__).resolve().parents[1]
CATEGORIES = ("mvtec/bottle", "mvtec/screw")  # the two of chapter 12
# Energies on pretrained features are no part of its comparison, which is from scratch;
# chapter 13 and the page "Which detector?" have them.
ELSEWHERE = ("fields", "learned_features")
# What chapter 13 shows: the categories with a run of `fields` at this size.
FEATURES_SIZE = 256
PEERS = ("anomalib_padim", "anomalib_patchcore_1percent")
MEASURES = ("image_auroc", "pixel_auroc", "au_pro", "maps")
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


def shipped_features() -> str:
    """The text of the file of chapter 13: the measures, and the scores of two maps."""
    of_ours = {"fields", "learned_features", *TRIVIAL}
    size = FEATURES_SIZE
    runs = [r for r in read_results(ROOT / "results") if r["image_size"] == size]
    masked = [r for r in runs if "au_pro" in r["metrics"]]
    kinds = {r["category"] for r in masked if r["method"] == "fields"}
    peers = read_peers(ROOT / "results" / peers_name(size)).values()
    lines = []
    for run in [*runs, *(peer for peer in peers if "change" not in peer)]:
        known = run["method"] in of_ours or run["method"] in PEERS
        if run["category"] not in kinds or not known:
            continue
        kept = {k: run[k] for k in ("category", "method", "seed", "image_size")}
        kept["metrics"] = {k: v for k, v in run["metrics"].items() if k in MEASURES}
        scores = run.get("images", {}).get("scores", {})
        if "gradient_max" in scores and "patches_max" in scores:
            both = {k: scores[k] for k in ("gradient_max", "patches_max")}
            kept["images"] = {"labels": run["images"]["labels"], "scores": both}
        lines.append(json.dumps(kept, separators=(",", ":"), sort_keys=True))
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    SHIPPED.write_text(shipped(), encoding="utf-8")
    SHIPPED_FEATURES.write_text(shipped_features(), encoding="utf-8")
