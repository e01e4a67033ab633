r"""How long a view takes and how much memory its fit needs, now and at a commit before.

    python benchmarks/speed_view.py
    python benchmarks/speed_view.py --before 44972fa --runs 5

Drawn nuts of 256 px are registered, averaged to 128 px and brought to one exposure, 32
images at a time, on one thread. Times are CPU seconds of that thread, the medians over
the runs, each in a process of its own; the two versions take turns. "share" is the
view's part of view, energy and gradient together, for the network of `Experts`; "fit"
sees 64 images. Memory is the peak of `View.fit` on 300 images, the images included,
over their size (Linux only).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZE, BATCH, TRAIN, MANY = 256, 32, 64, 300
NAMES = ("pose", "exposure", "view", "network", "share", "fit", "memory")


def main() -> None:
    """Run both versions in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="COMMIT", help="a version to compare with")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured()))
        return
    with tempfile.TemporaryDirectory() as folder:
        versions = {"now": ROOT}
        if options.before:
            archive = ["git", "-C", str(ROOT), "archive", options.before, "ebmlib"]
            packed = subprocess.run(archive, check=True, stdout=subprocess.PIPE).stdout
            subprocess.run(["tar", "x", "-C", folder], input=packed, check=True)
            versions = {"before": Path(folder), "now": ROOT}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
        for _ in range(options.runs):
            for name, root in versions.items():
                runs[name].append(in_process(root))
    medians = {
        version: {key: statistics.median(run[key] for run in found) for key in NAMES}
        for version, found in runs.items()
    }
    for key in NAMES:
        values = {version: medians[version][key] for version in versions}
        text = "  ".join(f"{version} {value:.3f}" for version, value in values.items())
        if "before" in values:
            text += f"  before/now {values['before'] / values['now']:.1f}"
        print(f"{key:9} {text}")


def in_process(root: Path) -> dict[str, float]:
    """What `measured` finds in a new process that imports ebmlib from `root`."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--worker"]
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def measured() -> dict[str, float]:
    """Times in s and memory of the ebmlib that is imported."""
    import torch

    from ebmlib.data import synthetic
    from ebmlib.networks import PatchEnergy
    from ebmlib.view.registration import Registration

    torch.set_num_threads(1)
    train = synthetic.make("nut", size=SIZE, n_train=TRAIN, n_test=0, n_defective=0)
    fit = fit_pieces if hasattr(Registration, "straighten") else fit_view
    view, frame, exposure = fit(train.train)
    batch = train.train[:BATCH]
    seen = view(batch)
    network = PatchEnergy(3, width=32, stride=8, coordinates=True)

    def energy_and_gradient():
        x = seen.clone().requires_grad_()
        torch.autograd.grad(network(x).sum(), x)

    found = {
        "pose": seconds(lambda: frame.pose(batch)),
        "exposure": seconds(lambda: exposure(seen)),
        "view": seconds(lambda: view(batch)),
        "network": seconds(energy_and_gradient),
        "fit": seconds(lambda: fit(train.train), repeats=1),
    }
    found["share"] = found["view"] / (found["view"] + found["network"])
    before = memory("VmRSS")
    many = torch.rand(MANY, 3, SIZE, SIZE)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    fit(many)
    found["memory"] = (memory("VmHWM") - before) / (4 * many.numel())
    return found


def fit_view(images) -> tuple:
    """What makes views, and its frame and exposure."""
    from ebmlib.view.view import View

    view = View(aligned=True).fit(images)
    return lambda x: view(x).images, view.frame_, view.exposure_


def fit_pieces(images) -> tuple:
    """The same where there is no `View` yet."""
    import torch
    from torch.nn.functional import interpolate

    from ebmlib.view.exposure import MatchedExposure
    from ebmlib.view.registration import Registration

    frame = Registration.fit(images)

    def shrunk(x):
        still = frame.straighten(x, frame.pose(x))
        return interpolate(still, (SIZE // 2, SIZE // 2), mode="area")

    seen = torch.cat([shrunk(x) for x in images.split(BATCH)])
    exposure = MatchedExposure.of(seen)
    return lambda x: exposure(shrunk(x)), frame, exposure


def seconds(function, repeats: int = 5) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def memory(field: str) -> int:
    """Bytes of this process, a field of Linux' /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    (line,) = (row for row in text.splitlines() if row.startswith(field))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
