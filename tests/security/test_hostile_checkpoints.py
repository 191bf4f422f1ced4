"""Checkpoints from somebody else: no code in any position of any format runs; bounded memory."""

import argparse
import collections
import os
import pathlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import MINE, Write, legacy, load, network_of, pickled, saved
from torch import nn

from layer_atlas.errors import UnusableFile, UserError

pytestmark = pytest.mark.usefixtures("bounded")


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, sign: Path, function: Callable[..., Any] = pathlib.Path.touch) -> None:
        self.sign, self.function = sign, function

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, (self.sign,)


class Hook(dict[str, Any]):
    """A mapping whose items are set by a trap."""

    def __init__(self, trap: Trap) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (), self.trap, iter([self.trap]), iter([(self.trap, self.trap)])


class TrappedTensor:
    """A tensor whose parts are traps."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.args


class TrappedArray:
    def __init__(self, trap: Trap) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        function, args, state = np.ones(3).__reduce__()  # type: ignore[misc]
        return function, args, (state[0], state[1], self.trap, False, self.trap)


POSITIONS: dict[str, Callable[[Trap], Any]] = {
    "alone": lambda trap: trap,
    "as a value": lambda trap: {**MINE, "trap": trap},
    "before the tensors": lambda trap: {"trap": trap, "model": MINE},
    "as a key": lambda trap: {**MINE, trap: 1},
    "as the state dict": lambda trap: {"model": MINE, "state_dict": trap},
    "in a list": lambda trap: {"model": MINE, "x": [1, [trap]]},
    "in a tuple": lambda trap: {"model": MINE, "x": (trap, (trap,))},
    "in a set": lambda trap: {"model": MINE, "x": {trap}},
    "in an object": lambda trap: {"model": MINE, "x": argparse.Namespace(trap=trap)},
    "as the state of an object": lambda trap: {"model": MINE, "x": Hook(trap)},
    "in an ordered dict": lambda trap: collections.OrderedDict(MINE, trap=trap),
    "in a module": lambda trap: trapped_module(trap),
    "as a storage": lambda trap: {**MINE, "t": TrappedTensor(trap, 0, (1,), (1,), False, {})},
    "as an offset": lambda trap: {**MINE, "t": trapped_tensor(trap, 1)},
    "as a size": lambda trap: {**MINE, "t": trapped_tensor(trap, 2)},
    "as strides": lambda trap: {**MINE, "t": trapped_tensor(trap, 3)},
    "as hooks of a tensor": lambda trap: {**MINE, "t": trapped_tensor(trap, 5)},
    "in an array": lambda trap: {**MINE, "t": TrappedArray(trap)},
}


def trapped_tensor(trap: Trap, position: int) -> TrappedTensor:
    args: list[Any] = [torch.ones(3).untyped_storage(), 0, (3,), (1,), False, {}]
    args[position] = trap
    return TrappedTensor(*args)


def trapped_module(trap: Trap) -> nn.Module:
    network = network_of(MINE)
    network.trap = trap
    return network


FORMS: dict[str, Callable[[Any], Write]] = {
    "zip": saved,
    "legacy": legacy,
    "pickle": lambda value: pickled(value, 4, "w.pth"),
}


def touched(path: Path) -> None:
    """A function of a user's own module, which is installed."""
    path.touch()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", [touched, os.mkdir], ids=["a user's function", "os.mkdir"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", POSITIONS)
def test_code_in_any_position_is_never_executed(
    position: str, form: str, function: Callable[..., Any], tmp_path: Path
) -> None:
    sign = tmp_path / "executed"
    value = POSITIONS[position](Trap(sign, function))
    path = FORMS[form](value)(tmp_path)
    refused, network = None, None
    try:
        network = load(path)
    except UserError as error:
        refused = str(error)
    assert not sign.exists()
    if network is not None:
        assert function is touched, "a file that calls the system is refused"
        assert torch.equal(network.module.state_dict()["fc.weight"], MINE["fc.weight"])
    else:
        assert str(path) in str(refused)
        assert "\n" not in str(refused)


@pytest.mark.parametrize("function", [touched, os.mkdir])
def test_the_trap_would_work(function: Callable[..., Any], tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "executed", function)))
    assert (tmp_path / "executed").exists()


def test_nothing_is_imported_to_read_a_file(tmp_path: Path) -> None:
    # An import is code too: of whatever lies in the working folder.
    (tmp_path / "imported_by_a_pickle.py").write_text("raise SystemExit(3)")
    code = b"cimported_by_a_pickle\nVictim\n)R."
    (tmp_path / "w.pkl").write_bytes(code)
    with pytest.raises(UnusableFile, match="holds a Victim, not a state dict"):
        load(tmp_path / "w.pkl")
    assert "imported_by_a_pickle" not in sys.modules


CORRUPT: dict[str, bytes] = {
    "a bytearray of 2**62 bytes": b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".",
    "bytes of 2**62 bytes": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".",
    "a memo of 2**32 entries": b"\x80\x02Nr\xff\xff\xff\xff.",
    "an extension": b"\x80\x02\x82\x01.",
    "a call of no function": b"\x80\x02])R.",
    "a new object of no class": b"\x80\x02])\x81.",
    "attributes of a class": b"\x80\x02cos\nsystem\n}b.",
    "deep nesting": b"(" * 10**6 + b"t" * 10**6 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "no end": b"\x80\x02}",
}


@pytest.mark.parametrize("case", CORRUPT)
def test_pickles_that_are_none_are_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(CORRUPT[case])
    with pytest.raises(UnusableFile, match=r"w\.pkl"):
        load(tmp_path / "w.pkl")


def test_tensors_beyond_their_storage_are_refused(tmp_path: Path) -> None:
    def beyond(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> TrappedTensor:
        storage = torch.ones(20).untyped_storage()
        return TrappedTensor(
            torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
            offset,
            size,
            stride,
            False,
            {},
        )

    for args in ((10**6, (5,), (1,)), (0, (5,), (100,)), (-4, (5,), (1,)), (0, (5,), (-1,))):
        torch.save({**MINE, "fc.bias": beyond(*args)}, tmp_path / "w.pth")
        with pytest.raises(UnusableFile, match="is not a readable file"):
            load(tmp_path / "w.pth")
