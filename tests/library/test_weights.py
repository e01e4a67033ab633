"""Facts about files of weights: tensors alone are read; every file is made here."""

import hashlib
import pickle

import pytest
import torch
from safetensors.torch import save_file

from ebmlib.weights import RANDOM, is_label, read_weights, weights_label

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def written(folder, kind):
    path = folder / f"small.{kind}"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path)
    return path


@pytest.mark.parametrize("kind", ["pth", "pt", "safetensors"])
def test_the_tensors_of_a_file_are_those_that_were_written(kind, tmp_path):
    found = read_weights(str(written(tmp_path, kind)))
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_file_with_another_hash_is_refused(kind, tmp_path):
    path = written(tmp_path, kind)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for given in (digest, digest[:12]):
        assert read_weights(path, given).keys() == STATE.keys()
    other = "f" * 64 if digest[0] != "f" else "0" * 64
    message = f"begins with {digest[:12]}, expected {other[:12]}. Install it again"
    with pytest.raises(ValueError, match=message):
        read_weights(path, other)


class Trap:
    """Unpickling it would call `sprung`."""

    def __reduce__(self):
        return sprung, ()


def sprung():
    raise AssertionError("code of the file ran")


@pytest.mark.parametrize(
    "write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o, protocol=2))]
)
def test_a_pickle_with_code_is_refused_and_does_not_run(write, tmp_path):
    with pytest.raises(AssertionError, match="ran"):
        pickle.loads(pickle.dumps(Trap()))  # the trap works
    path = tmp_path / "small.pth"
    write({**STATE, "a.bias": Trap()}, path)
    with pytest.raises(ValueError, match="tensors alone") as caught:
        read_weights(path)
    assert "code of the file ran" not in str(caught.value.__cause__)


@pytest.mark.parametrize("content", [[1.0], {"state_dict": STATE}, STATE["a.bias"]])
def test_what_is_no_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"no state dict; save it with torch\.save"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("garbage", [b"", b"hello", b"0" * 4000])
@pytest.mark.parametrize(
    ("name", "message"), [("w.pth", "tensors alone"), ("w.safetensors", "not a whole")]
)
def test_a_broken_file_is_refused(name, message, garbage, tmp_path):
    (tmp_path / name).write_bytes(garbage)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    for call in (read_weights, weights_label):
        for path in (tmp_path / "none.pth", tmp_path):  # a folder is no file
            with pytest.raises(FileNotFoundError, match=f"no weights file at {path}"):
                call(path)


def test_a_file_is_recorded_by_its_name_and_its_contents(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    label = weights_label(tmp_path / "a.pth")
    assert label == "a.pth, sha256 e3b0c44298fc"
    assert is_label(label)
    for path in (RANDOM, "a.pth", tmp_path / "a.pth", "b, sha256 e3b0c44298fc.pth"):
        assert not is_label(path)
