"""Small training runs of every kind that holds a state: stopped, resumed, compared."""

import json

import torch
from torch import nn

from ebmlib.checkpoint import read_checkpoint
from ebmlib.networks import ConvEnergy, PatchEnergy
from ebmlib.objectives import (
    ContrastAndRestoration,
    DenoisingScoreMatching,
    PersistentContrastiveDivergence,
)
from ebmlib.replay import ReplayBuffer, uniform_noise
from ebmlib.training import train

torch.set_num_threads(1)  # also in the child processes: bits depend on the threads

KINDS = ("contrastive_divergence", "score_matching", "contrast", "dropout")


def box(images, generator):
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, 4:12, 4:12] = True
    noise = torch.rand(images.shape, generator=generator)
    return torch.where(masks[:, None], noise, images), masks


def jitter(images, generator):
    shift = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (images + shift).clamp(0, 1)


class Dropping(nn.Module):
    """An energy that draws from PyTorch's global random state while it is trained."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(768, 8),
            nn.RReLU(),
            nn.Dropout(0.5),
        )

    def forward(self, x):
        hidden = self.inner(x)
        return nn.functional.dropout(hidden, 0.2, self.training).square().sum(1)


def run(kind, path=None, steps=6, stop_at=None, checkpoint_every=3, chance=None):
    """Train a small energy; interrupt it after step `stop_at`."""
    torch.manual_seed(0)  # initial weights only
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    if kind == "contrast":
        energy, objective = (
            PatchEnergy(3, width=4),
            ContrastAndRestoration(box, refine_steps=1, restoration=0.1, warmup=4),
        )
    elif kind == "dropout":
        energy, objective = Dropping(), DenoisingScoreMatching([0.1, 0.3])
    elif kind == "score_matching":
        energy = ConvEnergy(3, width=4, depth=2)
        objective = DenoisingScoreMatching([0.1, 0.3])
    else:
        generator = torch.Generator().manual_seed(2)
        buffer = ReplayBuffer(12, uniform_noise((3, 16, 16)), generator=generator)
        energy = ConvEnergy(3, width=4, depth=2)
        objective = PersistentContrastiveDivergence(
            buffer, steps=2, snr=0.5, noise=0.01, data_noise=0.01
        )

    if chance is not None:
        torch.manual_seed(chance)  # of what is drawn in the rest of the program

    def stop(step, info):
        if step == stop_at:
            raise KeyboardInterrupt

    log = train(
        energy,
        images,
        objective,
        steps=steps,
        batch_size=4,
        ema=0.9,
        augment=jitter,
        checkpoint=path,
        checkpoint_every=checkpoint_every,
        device="cpu",
        callback=stop,
    )
    return energy, log


def contents(path):
    """Everything in a checkpoint, without the list of events."""
    tensors, header = read_checkpoint(path, "ebmlib.training")
    header["state"]["log"].pop("events")
    return tensors, json.dumps(header, sort_keys=True)


def same(one, other):
    return (
        one[1] == other[1]
        and set(one[0]) == set(other[0])
        and all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    )
