"""The settings of a training run as plain text and numbers, to compare two runs.

A resumed run must have the settings of the first one. Settings are not only numbers:
an objective holds buffers, functions and images. `describe` turns any of them into
values that JSON can hold, by their content; `differences` names what is not the same.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import zlib
from collections.abc import Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LONG = 100  # a longer sequence or text is described by its length and checksum
FEW = 8  # a tensor of at most that many numbers is described by them

PLAIN = (bool, int, float, str, type(None))


def fingerprint(
    energy: nn.Module, images: Tensor, objective: Any, **settings: Any
) -> dict[str, Any]:
    """What two runs must share so that one can go on with the other's checkpoint.

    The weights of the energy are not part of it, as they come from the checkpoint:
    only its settings, and the names, shapes and kinds of its parameters.

    Args:
        energy: What is trained. One with `config()` is described by that.
        images: The training data; all of it is read.
        objective: See `describe`.
        settings: Anything else, by name; see `describe`.
    """
    parts = {id(part): "part of the energy" for part in energy.modules()}
    parts |= {id(p): "part of the energy" for p in energy.parameters()}
    parts |= {id(energy): "the energy"}
    parameters = {
        name: f"{_kind(p)}{'' if p.requires_grad else ', not trained'}"
        for name, p in energy.named_parameters()
    }
    described = {name: describe(value, parts) for name, value in settings.items()}
    return {
        "energy": {**_module(energy, parts), "parameters": parameters},
        "images": f"{_kind(images)} with checksum {_checksum(images)}",
        "objective": (
            _module(objective, parts)  # its state comes from the checkpoint
            if isinstance(objective, nn.Module)
            else describe(objective, parts)
        ),
        **described,
    }


def describe(thing: Any, known: Mapping[int, str] | None = None) -> Any:
    """A setting as values that JSON can hold; equal for settings of equal content.

    - Numbers and text as they are, lists and dicts item by item.
    - Tensors and arrays by shape, dtype and checksum; a generator by its seed.
    - An object with a method `describe()` by what that returns.
    - A dataclass by the fields that its constructor takes; another object by its public
      attributes, without those that its `state_dict` names: they change in a run.
    - A module by `config()`, or the public plain attributes of its parts, and by its
      parameters and buffers.
    - `functools.partial` by function and arguments.
    - A function by module and name. One that has no name to import it by (a lambda, a
      function inside a function, one of a notebook) also by its compiled code, its
      defaults, the variables it encloses, and the global numbers, text, tensors,
      functions and dataclasses it refers to. Python's versions compile differently.

    Args:
        thing: Any object.
        known: Descriptions of objects that are not looked into, by their `id`.
    """
    known = {} if known is None else known
    if isinstance(thing, PLAIN):
        return _short(thing, thing) if isinstance(thing, str) else thing
    if id(thing) in known:
        return known[id(thing)]
    # An object that holds itself is not looked into a second time.
    known = {**known, id(thing): f"the {type(thing).__qualname__} around it"}
    inside = functools.partial(describe, known=known)
    if isinstance(thing, np.generic):
        return inside(thing.item())
    if isinstance(thing, np.ndarray):
        numeric = thing.dtype.kind in "biuf"
        return inside(torch.from_numpy(thing.copy()) if numeric else thing.tolist())
    if isinstance(thing, Tensor):
        return _tensor(thing)
    if isinstance(thing, torch.Generator):
        return f"generator with seed {thing.initial_seed()}"
    if isinstance(thing, Mapping):
        found = {str(key): inside(value) for key, value in thing.items()}
        return _short(found, thing)
    if isinstance(thing, list | tuple):
        return _short([inside(value) for value in thing], thing)
    if isinstance(thing, set | frozenset):
        return _short(sorted(map(inside, thing), key=json.dumps), thing)
    if isinstance(thing, functools.partial):
        given = {"arguments": inside(thing.args), "keywords": inside(thing.keywords)}
        return {"partial": inside(thing.func), **given}
    if isinstance(thing, MethodType):
        return {"method": thing.__func__.__qualname__, "of": inside(thing.__self__)}
    if isinstance(thing, FunctionType):
        return _function(thing, known)
    if isinstance(thing, type):
        return _class(thing)
    if isinstance(thing, ModuleType | BuiltinFunctionType):
        return _name(thing)
    if isinstance(thing, enum.Enum):
        return str(thing)
    return _object(thing, known)


def differences(saved: Any, now: Any, name: str = "") -> list[str]:
    """One text such as "seed was 0, is 1" for each place where two settings differ."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        return [
            text
            for key in dict.fromkeys([*saved, *now])
            for text in differences(
                saved.get(key, ABSENT), now.get(key, ABSENT), f"{name}.{key}".strip(".")
            )
        ]
    if saved == now or (saved != saved and now != now):  # the latter: both are NaN
        return []
    return [f"{name} was {saved!r}, is {now!r}"]


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def _object(thing: Any, known: Mapping[int, str]) -> Any:
    """An object of any class, by the first way that it offers."""
    inside = functools.partial(describe, known=known)
    kind = {"kind": _class(type(thing))}
    if callable(getattr(thing, "describe", None)):
        found = inside(thing.describe())
        return kind | (found if isinstance(found, dict) else {"describe": found})
    if isinstance(thing, nn.Module):
        state = thing.state_dict()
        return {**_module(thing, known), "state": inside(state)}
    if dataclasses.is_dataclass(thing):
        names = [field.name for field in dataclasses.fields(thing) if field.init]
        return kind | {name: inside(getattr(thing, name)) for name in names}
    try:
        attributes = vars(thing)
    except TypeError:  # written in C, or with __slots__
        text = repr(thing)
        return _name(type(thing)) if " at 0x" in text else text
    state = thing.state_dict() if hasattr(thing, "state_dict") else {}
    public = {
        name: inside(value)
        for name, value in attributes.items()
        if not name.startswith("_") and name not in state
    }
    return kind | public


def _module(module: nn.Module, known: Mapping[int, str]) -> dict[str, Any]:
    """Class and settings of a module, without its weights."""
    kind = {"kind": _class(type(module))}
    config = getattr(module, "config", None)
    if callable(config):
        return kind | {"config": describe(config(), known)}
    parts = {
        name or "itself": {"kind": _class(type(part))}
        | {
            key: describe(value, known)
            for key, value in vars(part).items()
            if _is_setting(value, list | tuple)
            and not key.startswith("_")
            and key != "training"
        }
        for name, part in module.named_modules()
    }
    return kind | {"parts": parts}


def _function(function: FunctionType, known: Mapping[int, str]) -> Any:
    name = _name(function)
    if not _is_local(function):
        return name
    code, inside = function.__code__, functools.partial(describe, known=known)
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    enclosed = {}
    for variable, cell in cells:
        try:
            enclosed[variable] = inside(cell.cell_contents)
        except ValueError:  # not set yet
            enclosed[variable] = "not set"
    used = {
        variable: inside(function.__globals__[variable])
        for variable in sorted(_names(code))
        if _is_setting(function.__globals__.get(variable, ABSENT), tuple)
    }
    return {
        "function": name,
        "code": f"{_code(code):08x}",
        "defaults": inside([function.__defaults__, function.__kwdefaults__]),
        "variables": enclosed | used,
    }


def _class(kind: type) -> Any:
    """The name of a class; with the code of its methods if it cannot be imported."""
    if not _is_local(kind):
        return _name(kind)
    methods = [
        value.__code__
        for base in kind.__mro__
        if _is_local(base)
        for _, value in sorted(vars(base).items())
        if isinstance(value, FunctionType)
    ]
    code = functools.reduce(lambda crc, c: _code(c, crc), methods, 0)
    return f"{_name(kind)} with code {code:08x}"


def _code(code: CodeType, crc: int = 0) -> int:
    """CRC-32 of what compiled code does: its instructions, names and constants."""
    crc = zlib.crc32(code.co_code, crc)
    crc = zlib.crc32(repr((code.co_names, code.co_freevars)).encode(), crc)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            crc = _code(constant, crc)
        else:  # a set has no order of its own
            sort = isinstance(constant, frozenset)
            value = sorted(map(repr, constant)) if sort else constant
            crc = zlib.crc32(repr(value).encode(), crc)
    return crc


def _names(code: CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_local(thing: Any) -> bool:
    """Whether it has no name to import it by, so that the name says nothing."""
    return thing.__module__ == "__main__" or "<" in thing.__qualname__


def _is_setting(value: Any, holders: Any) -> bool:
    """Whether an attribute or a global is described with the object that uses it.

    `holders` are the kinds of containers that count: a global list may be a record.
    """
    if isinstance(value, holders):
        return all(_is_setting(item, holders) for item in value)
    kinds = (Tensor, np.ndarray, np.generic, FunctionType, functools.partial)
    record = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return record or isinstance(value, PLAIN + kinds)


def _name(thing: Any) -> str:
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or thing.__name__
    return f"{module}.{name}" if module else name


def _short(described: Any, thing: Any) -> Any:
    """The description itself, or its length and checksum if it is long."""
    if len(thing) <= LONG:
        return described
    crc = zlib.crc32(json.dumps(described).encode())
    return f"{type(thing).__name__} of {len(thing)} with checksum {crc:08x}"


def _tensor(tensor: Tensor) -> str:
    if tensor.numel() <= FEW:
        return f"{_kind(tensor)} {tensor.tolist()}"
    return f"{_kind(tensor)} with checksum {_checksum(tensor)}"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _checksum(tensor: Tensor, rows: int = 64) -> str:
    """CRC-32 of the bytes of a tensor, some rows at a time (they may lie on a GPU)."""
    crc = 0
    for part in torch.atleast_1d(tensor.detach()).split(rows):
        flat = part.cpu().contiguous().reshape(-1).view(torch.uint8)
        crc = zlib.crc32(flat.numpy(), crc)
    return f"{crc:08x}"
