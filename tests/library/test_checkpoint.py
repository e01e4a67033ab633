"""Facts about checkpoint files: whole at every moment, exact, and nothing but data."""

import json
import os

import pytest
import torch
from safetensors.torch import save, save_file
from tiny_training import fit

import ebmlib.checkpoint
from ebmlib.checkpoint import (
    CheckpointError,
    check_folder,
    copy_tree,
    pack,
    read_checkpoint,
    unpack,
    write_checkpoint,
)


def test_tensors_and_numbers_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "x.safetensors"
    base = torch.randn(4, 6)
    tensors = {
        "transposed": base.T,
        "shared": base,
        "empty": torch.empty(0, dtype=torch.long),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "half": base.bfloat16(),
        "flags": base > 0,
    }
    header = {"x": [0.1, 1e-300, -0.0, None, True], "text": "ß"}
    write_checkpoint(path, tensors, header, "test")
    back, again = read_checkpoint(path, "test")
    assert again == header and set(back) == set(tensors)
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value)


@pytest.mark.parametrize("stage", ["save", "os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_previous_file_whole(
    tmp_path, monkeypatch, stage
):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"a": torch.zeros(3)}, {"step": 1}, "test")

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(f"{ebmlib.checkpoint.__name__}.{stage}", full)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(path, {"a": torch.ones(3)}, {"step": 2}, "test")
    monkeypatch.undo()
    tensors, header = read_checkpoint(path, "test")
    assert header == {"step": 1} and torch.equal(tensors["a"], torch.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"a": torch.zeros(300)}, {"step": 1}, "test")
    content = path.read_bytes()
    bad = {}
    for length in (0, 7, 8, 100, len(content) - 1):
        bad[f"cut at {length}"] = content[:length]
    for place in (len(content) - 5, content.index(b"step")):
        flipped = bytearray(content)
        flipped[place] ^= 1
        bad[f"bit flipped at {place}"] = bytes(flipped)
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.pt")
    bad["pickle"] = (tmp_path / "pickle.pt").read_bytes()
    bad["text"] = b"hello"
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    bad["foreign"] = (tmp_path / "foreign.safetensors").read_bytes()
    for what, data in bad.items():
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            read_checkpoint(path, "test")
            pytest.fail(what)
        with pytest.raises(CheckpointError):
            fit(checkpoint=path)
        assert path.read_bytes() == data  # a run does not overwrite it either
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="other"):
        read_checkpoint(path, "other")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "missing", "test")


def test_what_a_killed_writer_leaves_does_no_harm(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"a": torch.zeros(3)}, 1, "test")
    monkeypatch.setattr("ebmlib.checkpoint.os.replace", lambda *names: None)
    write_checkpoint(path, {"a": torch.ones(3)}, 2, "test")  # dies before the rename
    monkeypatch.undo()
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.name.startswith("x.safetensors.") and left.name.endswith(".tmp")
    assert read_checkpoint(path, "test")[1] == 1
    write_checkpoint(path, {"a": torch.ones(3)}, 3, "test")
    assert read_checkpoint(path, "test")[1] == 3


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_checkpoint_has_the_permissions_of_any_other_file(tmp_path):
    write_checkpoint(tmp_path / "x.safetensors", {}, None, "test")
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_file_that_is_in_use_on_windows_is_waited_for(tmp_path, monkeypatch):
    path, waited = tmp_path / "x.safetensors", []
    write_checkpoint(path, {}, 1, "test")
    replace, refusals = os.replace, [PermissionError("in use")] * 2

    def busy(*names):
        if refusals:
            raise refusals.pop()
        replace(*names)

    monkeypatch.setattr("ebmlib.checkpoint.os.replace", busy)
    monkeypatch.setattr("ebmlib.checkpoint.time.sleep", waited.append)
    monkeypatch.setattr("ebmlib.checkpoint.WAITS", (0.5, 1.0, 2.0))
    write_checkpoint(path, {}, 2, "test")
    assert waited == [0.5, 1.0] and read_checkpoint(path, "test")[1] == 2
    refusals += [PermissionError("in use for good")] * 4
    with pytest.raises(PermissionError, match="for good"):
        write_checkpoint(path, {}, 3, "test")
    assert read_checkpoint(path, "test")[1] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_forged_file_is_refused_as_a_checkpoint(tmp_path):
    """The checksum is no signature: what follows it must hold by itself."""
    path = tmp_path / "x.safetensors"
    for text in ("{", "[" * 100_000, ""):
        checksum = ebmlib.checkpoint._checksum({}, text)
        metadata = {"kind": "test", "header": text, "checksum": checksum}
        path.write_bytes(save({}, metadata))
        with pytest.raises(CheckpointError, match="not JSON"):
            read_checkpoint(path, "test")
    kinds = {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}
    text = json.dumps(kinds).encode()  # a dtype that this version does not know
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"x")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_checkpoint(path, "test")


@pytest.mark.parametrize(
    "change",
    [
        {"state": {}},
        {"state": None},
        {"state": {"model": {"tensor": "nowhere"}}},
        {"format": 1},
        {"settings": None},
        {"step": "six"},
        {"step": 7},
        {"step": -1},
        {"position": 99},
        {"optimizer": {"a": 1}},
        {"generator": [1, 2]},
        {"model": {"weight": {"tensor": "/order"}}},
        {"log": {"steps": {"tensor": "/order"}, "health": {}, "events": []}},
    ],
)
def test_a_run_does_not_start_from_a_state_that_was_tampered_with(tmp_path, change):
    path = tmp_path / "run.safetensors"
    fit(checkpoint=path)
    tensors, header = read_checkpoint(path, "ebmlib.training")
    target = header if {*change} & {*header} else header["state"]
    target.update(change)
    write_checkpoint(path, tensors, header, "ebmlib.training")
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"run\.safetensors"):
        fit(checkpoint=path)
    assert path.read_bytes() == content


def test_what_no_safetensors_file_can_hold_is_a_checkpoint_error(tmp_path):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {}, 1, "test")
    with pytest.raises(CheckpointError, match="header too large"):
        write_checkpoint(path, {}, "x" * 100_000_001, "test")
    for odd in (torch.zeros(2, dtype=torch.complex128), torch.zeros(2).to_sparse()):
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            write_checkpoint(path, {"a": odd}, 2, "test")
    assert read_checkpoint(path, "test")[1] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_folder_is_not_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="folder"):
        read_checkpoint(tmp_path, "test")
    for write in (check_folder, lambda path: write_checkpoint(path, {}, 1, "test")):
        with pytest.raises(ValueError, match="file name in a folder"):
            write(tmp_path)
        with pytest.raises(ValueError, match="file name in a folder"):
            write(tmp_path / "missing" / "x.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_checkpoint(tmp_path / "missing" / "x.safetensors", "test")


def test_a_folder_that_cannot_be_written_is_refused_early(tmp_path, monkeypatch):
    assert check_folder(tmp_path / "x.safetensors") == tmp_path / "x.safetensors"
    assert [*tmp_path.iterdir()] == []

    def read_only(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("builtins.open", read_only)
    with pytest.raises(ValueError, match="Read-only"):
        check_folder(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="Read-only"):
        fit(checkpoint=tmp_path / "x.safetensors")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_proc_is_no_place_for_a_checkpoint():
    with pytest.raises(ValueError, match="/proc/x"):
        check_folder("/proc/x")


def test_a_packed_tree_comes_back_or_is_refused():
    tree = {"a": torch.arange(3), "b": [1, None, {"c": torch.ones(1)}], "t": "text"}
    tensors = {}
    rest = json.loads(json.dumps(pack(tree, tensors)))
    again = unpack(rest, tensors)
    assert torch.equal(again["a"], tree["a"]) and again["b"][:2] == [1, None]
    assert torch.equal(again["b"][2]["c"], torch.ones(1)) and again["t"] == "text"
    twice = {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}}
    for odd in (twice, {1: 2}, {"tensor": "text"}, {"a": {1, 2}}):
        with pytest.raises(TypeError):
            pack(odd, {})
    with pytest.raises(CheckpointError, match="missing"):
        unpack({"tensor": "gone"}, {})


def test_a_copied_tree_shares_nothing_and_reuses_what_is_spare():
    tree = {"a": torch.arange(3.0), "b": [torch.ones(2), 5], "c": {"d": torch.zeros(1)}}
    copy = copy_tree(tree)
    places = [t.data_ptr() for t in (copy["a"], copy["c"]["d"])]
    tree["a"] += 1
    tree["b"][0] += 1
    assert copy["a"].tolist() == [0, 1, 2] and copy["b"][0].tolist() == [1, 1]
    again = copy_tree(tree, spare=copy)
    assert [t.data_ptr() for t in (again["a"], again["c"]["d"])] == places
    assert again["a"].tolist() == [1, 2, 3] and again["b"][0].tolist() == [2, 2]
    tree["a"] = torch.arange(4)  # other shapes and kinds get memory of their own
    assert copy_tree(tree, spare=again)["a"].tolist() == [0, 1, 2, 3]
    assert again["a"].tolist() == [1, 2, 3]
