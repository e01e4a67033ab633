"""The saved runs of chapter 14 are whole, small and what the chapter says they are."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from ebmbook.museum import FILE, load_museum


def test_every_room_has_a_remedy_that_is_healthy():
    museum = load_museum()
    assert museum["0"].diagnosis == "healthy"
    rooms = [str(k) for k in range(1, 10)]
    assert len({museum[room].diagnosis for room in rooms}) == len(rooms)
    for room in rooms:
        assert museum[room].diagnosis != "healthy"
        assert museum[f"{room} remedied"].diagnosis == "healthy"


def test_curves_and_pictures_have_the_stated_shapes():
    for name, run in load_museum().items():
        updates = len(run.curves["step"])
        assert updates > 20, name
        for curve in run.curves.values():
            assert len(curve) == updates and torch.isfinite(curve).all(), name
        for kind, picture in run.pictures.items():
            assert picture.min() >= 0 and picture.max() <= 1, name
            shapes = {(2,), (3, 32, 32)} if kind != "density" else {(32,)}
            assert tuple(picture.shape[1:]) in shapes, name


def test_the_file_is_small_enough_for_the_wheel():
    assert FILE.stat().st_size < 300_000


@pytest.fixture(scope="module")
def rooms():
    path = Path(__file__).parents[2] / "tools" / "make_museum.py"
    spec = importlib.util.spec_from_file_location("make_museum", path)
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool  # its dataclass looks itself up there
    spec.loader.exec_module(tool)
    return tool.rooms()


def test_the_file_holds_the_runs_that_the_tool_makes(rooms):
    stored = {k: (v.diagnosis, v.settings) for k, v in load_museum().items()}
    assert stored == {room: (sick, said) for room, (sick, said, _) in rooms.items()}


def test_a_run_made_again_is_the_stored_one(rooms):
    stored, again = load_museum()["0"], rooms["0"][2]()
    for name, curve in again["curves"].items():  # later, rounding errors have grown
        assert torch.allclose(
            curve[:5].float(), stored.curves[name][:5], rtol=0.02, atol=0.02
        ), name
    assert abs(again["facts"]["distance"] - stored.facts["distance"]) < 0.05
