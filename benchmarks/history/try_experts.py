r"""Other experts beside, or in place of, the two of `thorough_experts` (chapter 12).

    python benchmarks/try_experts.py NETWORKS --categories mvtec/bottle mvtec/screw
    python benchmarks/try_experts.py NETWORKS --size 128 --steps 3000 \
        --categories synthetic/nut synthetic/bolt synthetic/weave

The mock exams are training images, held out and partly damaged, see `mock_exam.py`.
The folder NETWORKS keeps the fitted detectors, so that the command can be repeated.
Every variant is one product of experts, whose map is read as `thorough_experts` reads
it. `--refined` adds one whose network saw negatives that had walked down the energy
first, which takes three times as long to train. Writes results/tried_experts.json;
categories that it holds already stay.
"""

from functools import partial

import torch
from mock_exam import (
    METRICS,
    ExamView,
    Record,
    detector_of,
    exam_of,
    options_of,
)
from torch import Tensor, nn

from ebmlib.energy import energy_maps
from ebmlib.fields import GaussianPatches
from ebmlib.networks import PatchEnergy
from ebmlib.products import LOUD, QUIET
from ebmlib.recipes import RECIPES, Recipe, thorough_experts

MEMBERS = 3  # networks of the ensemble, each with a third of the steps
WALK = 5  # Langevin steps of a refined negative
REFINED = f"network taught with negatives refined by {WALK} Langevin steps"


class Product(nn.Module):
    """E(x) = sum_k w_k E_k(x), for any number of experts on one grid.

    The networks together have the spread of one, the Gaussians together `share` times
    that, and a usual patch has the energy 1.
    """

    def __init__(
        self, networks: list, gaussians: list, normal: Tensor, share: float = LOUD
    ):
        super().__init__()
        self.experts = nn.ModuleList([*networks, *gaussians])
        maps = [energy_maps(expert, normal) for expert in self.experts]
        loud = share if networks else 1.0
        parts = [1 / len(networks) for _ in networks]
        parts += [loud / len(gaussians) for _ in gaussians]
        weights = [p / m.std().item() for p, m in zip(parts, maps, strict=True)]
        usual = sum(w * m for w, m in zip(weights, maps, strict=True)).median().item()
        self.weights = [weight / usual for weight in weights]
        self.channels = self.experts[0].channels

    def energy_map(self, x: Tensor) -> Tensor:
        """The weighted sum of all experts: (B, C, H, W) -> (B, h, w)."""
        pairs = zip(self.weights, self.experts, strict=True)
        return sum(weight * expert.energy_map(x) for weight, expert in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the map: (B, C, H, W) -> (B,)."""
        return self.energy_map(x).sum((1, 2))


class LearnedGaussians(GaussianPatches):
    """A Gaussian for every position, on features that a contrast network learned.

    The network learned them by telling damage from normal, without any label: this is
    self-supervision, as in CutPaste (Li et al., CVPR 2021).
    """

    def __init__(self, network: PatchEnergy, block: int, everywhere: bool, x: Tensor):
        nn.Module.__init__(self)
        self.network, self.block, self.everywhere = network, block, everywhere
        self.channels = network.channels
        with torch.no_grad():
            phi = torch.cat([self.features(part) for part in x.split(32)])
        self.noise = 0.3 * phi.std((0, 2, 3)).mean().item()
        count, *grid = phi.shape[1:]
        grid = (1, 1) if everywhere else grid
        self.register_buffer("mean", torch.zeros(count, *grid))
        self.register_buffer("whitener", torch.zeros(*grid, count, count))
        self.fit(x)

    def features(self, x: Tensor) -> Tensor:
        """What enters residual block number `block`, or after the last, the head."""
        inner, kept = self.network, []
        reader = [*inner.mixers, inner.head][self.block]
        hook = reader.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        try:
            inner.logits(x)
        finally:
            hook.remove()
        return kept[0]


def refined(*arguments, **options) -> Recipe:
    """`thorough_experts` with negatives that walk down the energy first."""
    recipe = thorough_experts(*arguments, **options)
    recipe.objective.refine_steps = WALK
    return recipe


def variants(view: ExamView, networks: list[PatchEnergy]) -> dict[str, Product]:
    """Name and energy of all that is compared; the first is `thorough_experts`."""
    network, *members = networks
    everywhere, normal = not view.detector.aligned, view.normal
    size, stride = tuple(normal.shape[-2:]), network.stride
    patches = partial(GaussianPatches, size, network.channels, stride, everywhere)
    fine, coarse = patches().fit(normal), patches(side=5 * stride).fit(normal)
    learned = [LearnedGaussians(network, b, everywhere, normal) for b in (0, 1, 3)]
    made = {
        "network and Gaussians (standing)": ([network], [fine]),
        "network alone": ([network], []),
        "Gaussians alone": ([], [fine]),
        "Gaussians of two patch sizes": ([network], [fine, coarse]),
        f"{len(members)} networks, a third of the steps each": (members, [fine]),
    }
    for one in learned:
        name = f"Gaussians of learned features too, block {one.block}"
        made[name] = ([network], [fine, one])
    share = QUIET if everywhere else LOUD
    return {name: Product(*experts, normal, share) for name, experts in made.items()}


def main() -> None:
    """Fit where it is missing, mark, write."""
    options = options_of(__doc__, refined="see above")
    record = Record(options.out / "tried_experts.json", __doc__)
    for name in options.categories:
        rows = record.rows(name, options)
        known = {row["experts"] for row in rows}
        if known and not (options.refined and REFINED not in known):
            continue
        exam = exam_of(name, options)
        fit = partial(detector_of, options.networks, exam, options.size)
        standing = fit(options.steps)
        view, products = ExamView(standing, exam), {}
        if not known:
            thirds = [fit(options.steps // MEMBERS, seed) for seed in range(MEMBERS)]
            networks = [one.energy.network for one in (standing, *thirds)]
            products |= variants(view, networks)
        if options.refined:
            RECIPES["refined"] = refined
            other = fit(options.steps, method="refined", register=True).energy
            share = LOUD if standing.aligned else QUIET
            products[REFINED] = Product(
                [other.network], [other.gaussians], view.normal, share
            )
        for variant, energy in products.items():
            figures = view.marks(energy)
            rows.append({"experts": variant, **figures})
            print(name, variant, *(figures[key] for key in METRICS), flush=True)
        record.keep(name, options, rows, *["--refined"] * options.refined)
        record.write()


if __name__ == "__main__":
    main()
