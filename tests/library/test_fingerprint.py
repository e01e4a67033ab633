"""Facts about comparing two runs: equal content is equal, other content is named."""

import enum
import functools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebmlib.data.corruption import corrupt, damage
from ebmlib.fingerprint import describe, differences, fingerprint
from ebmlib.networks import ConvEnergy
from ebmlib.objectives import (
    ContrastAndRestoration,
    DenoisingScoreMatching,
    NoiseContrastive,
    PersistentContrastiveDivergence,
)
from ebmlib.replay import (
    ReplayBuffer,
    corrupted_images,
    fitted_gaussian,
    uniform_noise,
)

SHAPE = (3, 16, 16)


def images(seed=0, n=6):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def buffer(start=None, seed=0, **options):
    start = start or uniform_noise(SHAPE)
    generator = torch.Generator().manual_seed(seed)
    return ReplayBuffer(8, start, generator=generator, **options)


def chains(start=None, steps=2, **options):
    return PersistentContrastiveDivergence(
        buffer(start, **options), steps=steps, step_size=0.1
    )


class Augmentation:
    def __init__(self, strength):
        self.strength, self._calls = strength, 0

    def __call__(self, batch, generator):
        self._calls += 1
        return batch * self.strength


class Stateful(Augmentation):
    seen = 0

    def state_dict(self):
        return {"seen": self.seen}


class Slotted:
    __slots__ = ("x",)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Nested:
    sigmas: list
    inner: object = None
    calls: int = field(default=0, init=False)


def scaled(factor, shift=0.0):
    return lambda x: x * factor + shift


def small_net(p=0.1, bias=0.0):
    net = nn.Sequential(nn.Linear(4, 2), nn.Dropout(p))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(bias)
    return net


PAIRS = {
    "a field": (NoiseContrastive(corrupt, min_cover=0.1), NoiseContrastive(corrupt)),
    "a function": (NoiseContrastive(damage), NoiseContrastive(corrupt)),
    "a list": (DenoisingScoreMatching([0.1]), DenoisingScoreMatching([0.1, 0.2])),
    "the buffer's share of new chains": (chains(fresh=0.05), chains(fresh=1.0)),
    "the shape of a start": (
        chains(uniform_noise((3, 16, 16))),
        chains(uniform_noise((3, 8, 8))),
    ),
    "the images of a start": (
        chains(fitted_gaussian(images(0))),
        chains(fitted_gaussian(images(1))),
    ),
    "the corruption of a start": (
        chains(corrupted_images(images(), corrupt)),
        chains(corrupted_images(images(), damage)),
    ),
    "a keyword of a partial": (
        functools.partial(corrupt, second=0),
        functools.partial(corrupt, second=1),
    ),
    "an argument of a partial": (
        functools.partial(corrupt, images(0)),
        functools.partial(corrupt, images(1)),
    ),
    "the function of a partial": (
        functools.partial(corrupt, second=1),
        functools.partial(damage, second=1),
    ),
    "a partial inside an objective": (
        NoiseContrastive(functools.partial(corrupt, second=0)),
        NoiseContrastive(functools.partial(corrupt, second=1)),
    ),
    "a nested dataclass": (
        Nested([1], Nested([0.1])),
        Nested([1], Nested([0.2])),
    ),
    "a constant of a lambda": (lambda x: 2 * x, lambda x: 3 * x),
    "the operation of a lambda": (lambda x: x + 1, lambda x: x * 1),
    "a method that a lambda calls": (lambda x: x.sin(), lambda x: x.cos()),
    "a set in a lambda": (lambda x: x in {1, 2, 3}, lambda x: x in {1, 2, 4}),
    "the variable of a closure": (scaled(2.0), scaled(3.0)),
    "the default of a lambda": (lambda x, k=1: x, lambda x, k=2: x),
    "a keyword-only default": (lambda x, *, k=1: x, lambda x, *, k=2: x),
    "a lambda inside a lambda": (
        lambda x: sorted(x, key=lambda y: y + 1),
        lambda x: sorted(x, key=lambda y: y + 2),
    ),
    "an attribute of a callable object": (Augmentation(1.0), Augmentation(2.0)),
    "the object of a method": (Augmentation(1.0).__call__, Augmentation(2.0).__call__),
    "a tensor": (torch.zeros(20), torch.zeros(20).index_fill(0, torch.tensor(3), 1)),
    "the dtype of a tensor": (torch.zeros(20), torch.zeros(20).double()),
    "the shape of a tensor": (torch.zeros(20), torch.zeros(4, 5)),
    "an array": (np.arange(20), np.arange(20)[::-1]),
    "a long list": ([*range(1000)], [*range(999), 0]),
    "a long text": ("x" * 1000, "x" * 999 + "y"),
    "the seed of a generator": (
        torch.Generator().manual_seed(1),
        torch.Generator().manual_seed(2),
    ),
    "the settings of a module": (small_net(0.1), small_net(0.2)),
    "the weights of a module": (small_net(bias=0.1), small_net(bias=0.2)),
    "a member of an enumeration": (Color.RED, Color.BLUE),
    "a path": (Path("a"), Path("b")),
    "a dtype": (torch.float32, torch.float64),
    "a class": (nn.ReLU, nn.SiLU),
    "none and zero": ({"x": None}, {"x": 0}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_other_content_makes_another_description(name):
    one, other = PAIRS[name]
    mine, theirs = (json.loads(json.dumps(describe(thing))) for thing in (one, other))
    assert differences(mine, theirs)
    assert differences(mine, json.loads(json.dumps(describe(one)))) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: chains(corrupted_images(images(), corrupt)),
        lambda: NoiseContrastive(functools.partial(corrupt, second=1)),
        lambda: scaled(torch.arange(30.0)),
        lambda: Augmentation(0.5),
        lambda: {"b": (1, 2.5), "a": {3, 1, 2}, "c": np.float64(0.5)},
        lambda: small_net(),
        lambda: Slotted(),
        lambda: Color.RED,
    ],
)
def test_equal_content_has_equal_descriptions(make):
    assert describe(make()) == describe(make())
    assert " at 0x" not in json.dumps(describe(make()))


def test_what_a_run_changes_is_no_setting():
    objective = ContrastAndRestoration(corrupt, restoration=0.1, warmup=1)
    stateful, chained = Stateful(1.0), chains()
    before = [describe(x) for x in (objective, stateful, chained)]
    energy, generator = ConvEnergy(3, width=4, depth=2), torch.Generator()
    objective(energy, images(), generator)
    chained(energy, images(), generator)
    stateful(images(), generator)
    stateful.seen = 5
    assert objective.calls == 1
    assert [describe(x) for x in (objective, stateful, chained)] == before
    assert differences(describe(buffer(seed=0)), describe(buffer(seed=1))) == []


def test_differences_say_where_and_give_both_values():
    one, other = (
        describe(NoiseContrastive(functools.partial(corrupt, second=k))) for k in (0, 1)
    )
    assert differences(one, other) == ["corrupt.keywords.second was 0, is 1"]
    assert differences({"a": 1}, {"b": 1}, "x") == [
        "x.a was 1, is absent",
        "x.b was absent, is 1",
    ]
    assert differences(math.nan, math.nan) == []
    assert differences([1, 2], [1, 3], "x") == ["x was [1, 2], is [1, 3]"]


def test_an_object_with_describe_says_itself_what_it_is():
    class Start:
        def describe(self):
            return {"images": torch.zeros(3), "noise": 0.1}

    found = describe(Start())
    assert found["noise"] == 0.1 and found["images"] == "float32 (3,) [0.0, 0.0, 0.0]"
    assert "Start" in found["kind"]


def test_an_object_that_holds_itself_has_an_end():
    loop = Augmentation(1.0)
    loop.other = {"back": [loop]}
    assert json.dumps(describe(loop))

    def recursive(n):
        return recursive(n - 1) if n else 0

    assert json.dumps(describe(recursive))


def test_weights_of_the_energy_are_no_setting_but_its_shape_is():
    def mine(energy, objective=corrupt):
        return fingerprint(energy, images(), objective, seed=0)

    class Net(nn.Module):
        def __init__(self, width=4, temperature=1.0, p=0.0):
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(768, width))
            self.drop, self.temperature = nn.Dropout(p), temperature

        def forward(self, x):
            return self.drop(self.inner(x)).sum(1) / self.temperature

    first = mine(Net())
    assert mine(Net()) == first == json.loads(json.dumps(first))
    frozen = Net()
    frozen.inner[1].bias.requires_grad_(False)
    for other, words in {
        Net(width=5): "inner.1.out_features was 4, is 5",
        Net(temperature=2.0): "temperature was 1.0, is 2.0",
        Net(p=0.5): "drop.p was 0.0, is 0.5",
        frozen: "not trained",
    }.items():
        assert words in "; ".join(differences(first, mine(other)))
    # An objective that refers to the energy does not make its weights a setting.
    settings = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        energy = Net()
        settings.append(mine(energy, lambda e, x, g, net=energy: net(x)))
    assert settings[0] == settings[1]


SCRIPT = """
SCALE = 2.0

def scale(x):
    return SCALE * x

def augment(x, generator):
    return scale(x) + 1

class Net:
    def forward(self, x):
        return x + 1
"""


def test_functions_and_classes_of_a_script_are_compared_by_what_they_do():
    """In a notebook every version of a function has the same module and name."""
    found = []
    for text in (
        SCRIPT,
        "# a comment\n\n" + SCRIPT,
        SCRIPT.replace("SCALE = 2.0", "SCALE = 3.0"),
        SCRIPT.replace("SCALE * x", "SCALE - x"),
        SCRIPT.replace("return x + 1", "return x + 2"),
    ):
        notebook = {"__name__": "__main__"}
        exec(text, notebook)
        found.append(json.dumps(describe([notebook["augment"], notebook["Net"]])))
    assert found[0] == found[1] and len({*found}) == 4
