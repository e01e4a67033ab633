"""Categories that a script makes, measured as `python -m ebmlib.benchmark` would.

`textures.py` and `castings.py` make them. Settings are those of every category.
"""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

import torch

from ebmlib import benchmark
from ebmlib.baselines import BASELINES
from ebmlib.data import Category
from ebmlib.recipes import RECIPES
from ebmlib.results_files import result_path, write_result

ROOT = Path(__file__).resolve().parents[1]


def main(doc: str, script: str, names: tuple, make: Callable[[str], Category]) -> None:
    """Ask the command line what to measure, measure what is missing, and write it.

    Args:
        doc: of the script; its first line is told by `--help`.
        script: such as "textures", which names the file and the option.
        names: of the categories.
        make: name to category.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument(f"--{script}", nargs="+", default=names, choices=names)
    methods = [*BASELINES, *RECIPES]
    parser.add_argument("--methods", nargs="+", default=["experts"], choices=methods)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in getattr(options, script):
        data = make(name)
        for method in options.methods:
            seeds = options.seeds if benchmark.is_random(method) else options.seeds[:1]
            for seed in seeds:
                place = (data.name, method, seed, data.train.shape[-1])
                path = result_path(options.out, *place)
                if path.exists():
                    continue
                result = benchmark.run(data, method, seed)
                words = [f"--{script}", name, "--methods", method, "--seeds", str(seed)]
                command = f"python benchmarks/{script}.py {shlex.join(words)}"
                write_result(path, {**result, "command": command})
                figures = ("image_auroc", "pixel_auroc", "au_pro")
                print(path.stem, *(result["metrics"][k] for k in figures), flush=True)
