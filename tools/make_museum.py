"""Write the saved runs of chapter 14, the museum of broken runs.

    python tools/make_museum.py            # writes ebmbook/museum.safetensors
    python tools/make_museum.py 2 "ward a" # writes these runs anew, keeps the others
    python tools/make_museum.py --check    # makes all again, compares, writes nothing

Every run is made by the library itself: a healthy one, and others in which as little as
possible is changed. Drawn data only, one thread, seeded: on one machine with the pinned
versions they come out the same. Another processor rounds otherwise, and chains make
much of little: `--check` tells from which update on a run goes its own way. All
together take some four minutes on one core.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

import ebmlib
from ebmbook.museum import FILE, KIND
from ebmlib.checkpoint import read_checkpoint, write_checkpoint
from ebmlib.data import load
from ebmlib.data.corruption import corrupt
from ebmlib.energy import Energy, energies, input_gradient
from ebmlib.guard import Guard
from ebmlib.langevin import langevin
from ebmlib.losses import LossResult, contrastive_divergence
from ebmlib.metrics import image_auroc
from ebmlib.networks import ConvEnergy
from ebmlib.objectives import PersistentContrastiveDivergence
from ebmlib.replay import ReplayBuffer, Start, corrupted_images, uniform_noise
from ebmlib.toy import RingEnergy
from ebmlib.training import train

EVERY = 4  # updates between two points of a curve
HALF = 3.5  # the unit square of the plane is [-HALF, HALF]^2 for its energies
RING = RingEnergy(radius=2 / 7, width=0.3 / 7)
SIDE = 32  # of the images, in px
LATE = Guard(max_energy=math.inf, max_growth=math.inf)  # a broken run may show itself
CURVES = {  # name in the file: name in the log
    "energy_data": "energy_data",
    "energy_chain": "energy_chain",
    "drift_to_noise": "chain_drift_to_noise",
    "saturated": "chain_saturated",
    "spread": "chain_spread",
    "age": "buffer_age",
}
Look = Callable[[nn.Module], dict[str, list[float]]]


# --- What is trained ------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """What all runs of one kind share: data, probes and settings."""

    data: Tensor
    held_out: Tensor
    start: Start
    build: Callable[[], nn.Module]
    settings: dict
    shown: int


class PlaneEnergy(nn.Module):
    """A small network and a shallow bowl on the unit square: (B, 2) -> (B,)."""

    def __init__(self, width: int = 48):
        super().__init__()
        sizes = [nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(*sizes, nn.Linear(width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each point."""
        z = 2 * HALF * (x - 0.5)
        return self.net(z).squeeze(1) + 0.05 * z.square().sum(1)


class SwappedTerms(PersistentContrastiveDivergence):
    """The mistake of room 3: data and chains have changed places in the loss."""

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """Raise the energy of the data, lower that of the chains."""
        x, index = self.buffer.sample(len(batch), generator)
        chain = langevin(
            energy, x, steps=self.steps, step_size=self.step_size, noise=self.noise,
            bounds=self.bounds, generator=generator,
        )  # fmt: skip
        self.buffer.write(index, chain.x)
        wrong = contrastive_divergence(energy, chain.x, batch, penalty=self.penalty)
        health = {f"chain_{name}": float(v) for name, v in vars(chain.health).items()}
        health["energy_data"] = wrong.health["energy_chain"]  # under their true names
        health["energy_chain"] = wrong.health["energy_data"]
        health["buffer_age"] = self.buffer.ages.float().mean().item()
        return LossResult(wrong.loss, health)


class NeverWritten(ReplayBuffer):
    """The mistake of the tenth room: what the chains have reached is thrown away."""

    def write(self, index: Tensor, x: Tensor) -> None:
        """Do nothing."""


def ring(x: Tensor) -> Tensor:
    """The true energy of the plane's points, a ring in the unit square."""
    return RING(x - 0.5)


def plane() -> Subject:
    """Points in the unit square, from a ring; chains with exact noise."""
    points = 0.5 + RING.sample(2512, torch.Generator().manual_seed(0))
    settings = {
        "steps": 250,
        "batch": 128,
        "rate": 1e-2,
        "buffer": 256,
        "fresh": 0.05,
        "chain_steps": 10,
        "step_size": 4e-4,
        "noise": None,
        "penalty": 1e-3,
        "data_noise": 0.0,
    }
    start = uniform_noise((2,))
    return Subject(points[512:], points[:512], start, PlaneEnergy, settings, 256)


def nuts() -> Subject:
    """Images of the drawn nut; cold chains, as in chapter 7."""
    images = load("synthetic/nut", size=SIDE, n_test=0, n_defective=0).train
    split = len(images) * 4 // 5
    settings = {
        "steps": 120,
        "batch": 8,
        "rate": 1e-3,
        "buffer": 48,
        "fresh": 0.1,
        "chain_steps": 15,
        "snr": 0.1,
        "noise": 0.01,
        "penalty": 1e-2,
        "data_noise": 0.01,
    }
    start = corrupted_images(images[:split], corrupt)
    build = partial(ConvEnergy, 3, width=8, depth=3)
    return Subject(images[:split], images[split:], start, build, settings, 6)


# --- One run --------------------------------------------------------------------------


def run(
    subject: Subject,
    *,
    seed: int = 0,
    objective: type = PersistentContrastiveDivergence,
    buffer_type: type = ReplayBuffer,
    clones: bool = False,
    scale: float = 1.0,
    look: Look | None = None,
    **changes,
) -> dict:
    """Train once with some settings changed: curves, pictures and facts.

    `objective` and `buffer_type` take the place of the right ones; `clones` makes new
    chains from old ones; `scale` multiplies the step; `look` adds curves.
    """
    s = subject.settings | {"clip_norm": 1.0, "schedule": "cosine"} | changes
    torch.manual_seed(seed)
    energy, generator = subject.build(), torch.Generator().manual_seed(seed)
    buffer = buffer_type(
        s["buffer"], subject.start, fresh=s["fresh"], generator=generator
    )
    if clones:
        buffer.start = partial(noisy_copies, buffer)
    if "snr" in s:  # sets the step once, as in chapter 7
        begin = subject.start(8, generator)
        probe = langevin(
            energy, begin, steps=1, snr=s["snr"], noise=s["noise"], generator=generator
        )
        s["step_size"] = probe.health.step_size
    options = {"step_size": scale * s["step_size"], "noise": s["noise"]}
    loss = objective(
        buffer,
        steps=s["chain_steps"],
        penalty=s["penalty"],
        data_noise=s["data_noise"],
        **options,
    )
    far = uniform_noise(subject.data.shape[1:])(64, torch.Generator().manual_seed(1))
    curves: dict[str, list] = {"step": [], "probe": []}

    def callback(step: int, info: dict) -> None:
        if step % EVERY == 0:
            pair = [energies(info["energy"], x) for x in (far, subject.held_out[:64])]
            curves["step"].append(float(step))
            curves["probe"].append(float(pair[0].mean() - pair[1].mean()))
            for name, values in (look(info["energy"]) if look else {}).items():
                curves.setdefault(name, []).append(values)

    log = train(
        energy, subject.data, loss, steps=s["steps"], batch_size=s["batch"],
        learning_rate=s["rate"], betas=(0.0, 0.999), schedule=s["schedule"],
        clip_norm=s["clip_norm"], seed=seed, guard=LATE, device="cpu",
        callback=callback,
    )  # fmt: skip
    curves |= {
        name: log.health[key][EVERY - 1 :: EVERY] for name, key in CURVES.items()
    }
    g = torch.Generator().manual_seed(2)
    long = langevin(
        energy, subject.start(subject.shown, g), steps=max(40 * s["chain_steps"], 400),
        bounds=(0.0, 1.0), generator=g, **options,
    )  # fmt: skip
    pictures = {"late": buffer.pixels[: subject.shown], "long": quantized(long.x)}
    e = energies(energy, subject.held_out)
    facts = {
        "data_spread": math.sqrt(2 * float(subject.data.var(0).mean())),
        "long_spread": long.health.spread,
        "long_neighbors": nearest(long.x) / nearest(subject.data[: subject.shown]),
        "long_energy": long.health.energy_end,
        "held_out_energy": float(e.mean()),
        "held_out_std": float(e.std()),
    }
    if subject.data.ndim == 2:
        pictures["density"], facts["distance"] = density(energy)
    return {
        "facts": {name: short(value) for name, value in facts.items()},
        "curves": {name: rounded(values) for name, values in curves.items()},
        "pictures": pictures,
    }


def noisy_copies(buffer: ReplayBuffer, n: int, generator: torch.Generator) -> Tensor:
    """The mistake of room 4: "new" chains are old ones with a little noise."""
    chosen = torch.randint(len(buffer), (n,), generator=generator)
    x = (buffer.pixels[chosen].float() + 0.5) / 256
    return (x + 0.01 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def nearest(x: Tensor) -> float:
    """The median distance to the nearest other item."""
    distance = torch.cdist(x.flatten(1), x.flatten(1))
    return float(distance.fill_diagonal_(math.inf).amin(1).median())


def density(energy: Energy, cells: int = 32) -> tuple[Tensor, float]:
    """The model's density on a grid, and its total variation distance to the truth."""
    centers = (torch.arange(cells) + 0.5) / cells
    grid = torch.cartesian_prod(centers.flip(0), centers).flip(1)  # top row first
    p = (-energies(energy, grid, batch_size=len(grid)).double()).softmax(0)
    truth = (-ring(grid).double()).softmax(0)
    shade = (p / truth.max()).clamp(max=1).view(cells, cells)  # one scale for all runs
    return quantized(shade.float()), float((p - truth).abs().sum() / 2)


# --- The rooms ------------------------------------------------------------------------


def rooms() -> dict[str, tuple[str, str, Callable[[], dict]]]:
    """Name: (diagnosis, what was changed, the run)."""
    p, n = partial(run, plane()), partial(run, nuts())
    free = {"clip_norm": math.inf, "schedule": "constant", "penalty": 0.0}
    free |= {"rate": 3e-2}
    copies = {"fresh": 0.2, "buffer": 12, "noise": 0.002}
    slow = {"chain_steps": 1, "step_size": 4e-5}
    watched = cache(partial(run, nuts(), look=areas()))
    return {
        "0": ("healthy", "10 steps of 0.0004, exact noise, 5 % fresh", p),
        "1": (
            "diverged",
            "1 step of 0.00004 from fresh noise; no penalty, no clipping, rate 0.03",
            partial(p, fresh=1.0, **slow | free),
        ),
        "1 remedied": (
            "healthy",
            "chains that live on, 10 steps of 0.0004; still no penalty, no clipping",
            partial(p, **free),
        ),
        "2": ("saturated", "a step 1000 times too large", partial(n, scale=1000.0)),
        "2 remedied": ("healthy", "the step set by its drift-to-noise ratio", n),
        "3": (
            "sign flipped",
            "the two terms of the loss changed places; penalty 0.05",
            partial(p, objective=SwappedTerms, penalty=0.05),
        ),
        "3 remedied": ("healthy", "the terms put back", partial(p, penalty=0.05)),
        "4": (
            "collapsed",
            "a new chain is an old one with a little noise",
            partial(n, clones=True, **copies),
        ),
        "4 remedied": ("healthy", "a new chain is a new start", partial(n, **copies)),
        "5": (
            "random walk",
            "a step of 0.00000004; penalty 0.1",
            partial(p, step_size=4e-8, penalty=0.1),
        ),
        "5 remedied": ("healthy", "a step of 0.0004", partial(p, penalty=0.1)),
        "6": ("pure descent", "noise of 0.00001", partial(p, noise=1e-5)),
        "6 remedied": ("healthy", "exact noise", p),
        "7": ("sampler lags", "1 step of 0.00004", partial(p, **slow)),
        "7 remedied": (
            "healthy",
            "40 steps of 0.00004",
            partial(p, **slow | {"chain_steps": 40}),
        ),
        "8": (
            "short-run only",
            "every chain is new: 20 steps, noise 0.006",
            partial(p, chain_steps=20, fresh=1.0, noise=0.006),
        ),
        "8 remedied": (
            "healthy",
            "chains that live on, exact noise",
            partial(p, chain_steps=20),
        ),
        "9": (
            "chosen on the test set",
            "the best of 3 scores at 30 updates, on 27 test images",
            partial(reported, watched, honest=False),
        ),
        "9 remedied": (
            "healthy",
            "the energy after the last update, on 240 new test images",
            partial(reported, watched, honest=True),
        ),
        "tenth": (
            "never written",
            "chains are read from the buffer and never written back",
            partial(p, buffer_type=NeverWritten),
        ),
        # Runs that the rules of chapter 14 were not written on.
        "ward a": ("healthy", "another seed", partial(p, seed=1)),
        "ward b": (
            "diverged",
            "2 steps",
            partial(p, seed=1, fresh=1.0, **slow | free | {"chain_steps": 2}),
        ),
        "ward c": (
            "saturated",
            "a step 500 times too large",
            partial(n, seed=1, scale=500.0),
        ),
        "ward d": (
            "sign flipped",
            "penalty 0.02",
            partial(p, seed=1, objective=SwappedTerms, penalty=0.02),
        ),
        "ward e": (
            "collapsed",
            "a buffer of 10, 30 % fresh",
            partial(n, seed=1, clones=True, **copies | {"fresh": 0.3, "buffer": 10}),
        ),
        "ward f": (
            "random walk",
            "a step of 0.0000004",
            partial(p, seed=1, step_size=4e-7, penalty=0.1),
        ),
        "ward g": ("pure descent", "noise of 0.0001", partial(p, seed=1, noise=1e-4)),
        "ward h": (
            "sampler lags",
            "2 steps of 0.00004",
            partial(p, seed=1, **slow | {"chain_steps": 2}),
        ),
        "ward i": (
            "short-run only",
            "15 steps, noise 0.008",
            partial(p, seed=1, chain_steps=15, fresh=1.0, noise=0.008),
        ),
        "ward j": ("healthy", "images, another seed", partial(n, seed=1)),
    }


def reported(watched: Callable[[], dict], honest: bool) -> dict:
    """The run of room 9 with the AUROC that somebody reports, and the plain one."""
    made = watched()
    small, large = made["curves"]["small"], made["curves"]["large"]  # (K, S)
    best = int(small.argmax())
    facts = {
        "reported": float(large[-1, 0] if honest else small.max()),
        "last": float(large[-1, 0] if honest else small[-1, 0]),
        "again": float(large[-1, 0] if honest else large.flatten()[best]),
    }
    return made | {"facts": made["facts"] | facts}


def areas() -> Look:
    """AUROC of three scores on a small test set, and on a large one of another seed."""
    sizes = {"small": (12, 3, 0), "large": (120, 24, 1)}
    sets = {
        name: load(
            "synthetic/nut", size=SIDE, n_train=1, n_test=good, n_defective=bad, seed=s
        )
        for name, (good, bad, s) in sizes.items()
    }

    def look(energy: nn.Module) -> dict[str, list[float]]:
        found = {}
        for name, category in sets.items():
            slope = input_gradient(energy, category.test).abs().mean(1).flatten(1)
            scores = energies(energy, category.test), slope.mean(1), slope.amax(1)
            found[name] = [image_auroc(s, category.labels) for s in scores]
        return found

    return look


# --- The file -------------------------------------------------------------------------


def quantized(x: Tensor) -> Tensor:
    """[0, 1] to bytes, as the replay buffer stores them."""
    return (x * 256).floor().clamp(0, 255).byte()


def short(value: float, digits: int = 4) -> float:
    """Few significant digits: the same on nearly every machine."""
    return float(f"{value:.{digits}g}")


def rounded(values: list) -> Tensor:
    """A curve (K,), or some curves (K, S), with few significant digits."""
    rows = torch.tensor(values, dtype=torch.float64)
    return torch.tensor([short(v) for v in rows.flatten().tolist()]).view(rows.shape)


def kept(name: str, picture: str) -> bool:
    """Which pictures the chapter shows."""
    if name.startswith("ward") or name in ("6 remedied", "9", "9 remedied"):
        return False
    return "remedied" not in name or picture != "long"


def make(names: list[str]) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of these runs."""
    tensors, exhibits = {}, {}
    for name, (diagnosis, settings, compute) in rooms().items():
        if name not in names:
            continue
        made = compute()
        exhibits[name] = {"diagnosis": diagnosis, "settings": settings}
        exhibits[name]["facts"] = made["facts"]
        tensors |= {f"{name}/curve/{k}": v for k, v in made["curves"].items()}
        for k, v in made["pictures"].items():
            if kept(name, k):
                tensors[f"{name}/picture/{k}"] = v
        print(f"{name}: {diagnosis}", flush=True)
    tensors["0/picture/data"] = quantized(plane().data[:256])
    tensors["2/picture/data"] = quantized(nuts().data[:6])
    return tensors, {"exhibits": exhibits}


def parting(name: str, old: dict[str, Tensor], new: dict[str, Tensor]) -> str:
    """From which update on the curves of a run are not the stored ones, within 2 %."""
    first = math.inf
    for key in (k for k in new if k.startswith(f"{name}/curve/")):
        if key not in old or old[key].shape != new[key].shape:
            return f"{key} has another length, or is new"
        close = torch.isclose(
            new[key].float(), old[key].float(), rtol=0.02, atol=0.02, equal_nan=True
        )
        apart = (~close).nonzero()
        first = min(first, int(apart[0, 0]) if len(apart) else math.inf)
    return "as stored" if first == math.inf else f"apart from update {first * EVERY} on"


def main() -> None:
    """Compute, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="rooms; all by default")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    names = args.names or list(rooms())
    tensors, header = make(names)
    if args.names and FILE.exists():
        old, before = read_checkpoint(FILE, KIND)
        mine = tuple(f"{name}/" for name in names)
        old = {k: v for k, v in old.items() if not k.startswith(mine)}
        tensors, found = old | tensors, before["exhibits"] | header["exhibits"]
        header = {"exhibits": {name: found[name] for name in rooms() if name in found}}
    if args.check:
        old, before = read_checkpoint(FILE, KIND)
        same = before["exhibits"] == header["exhibits"] and old.keys() == tensors.keys()
        same = same and all(torch.equal(old[k], v) for k, v in tensors.items())
        for name in names:
            print(f"{name}: {parting(name, old, tensors)}")
        print("the same" if same else "DIFFERENT")
        raise SystemExit(not same)
    header["made by"] = (
        f"python tools/make_museum.py; ebmlib {ebmlib.__version__}, "
        f"torch {torch.__version__.split('+')[0]}, one thread"
    )
    write_checkpoint(FILE, tensors, header, KIND)
    print(f"{FILE.name}: {FILE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
