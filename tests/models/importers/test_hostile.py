"""Nothing in a checkpoint is run, whatever it asks for, and a pickle that PyTorch would not write is one sentence."""

from __future__ import annotations

import functools
import importlib
import io
import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dmq_cli.models.importers import read_state
from dmq_cli.models.importers.restricted import Call, Global, read_pickle
from tests.models.importers.checkpoints import assert_same, refused, save, zipped_pickle


class Reduced:
    """Unpickles to a call."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts


def inner(command: str) -> bytes:
    return pickle.dumps(Reduced(os.system, command))


ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda c: Reduced(os.system, c),
    "eval": lambda c: Reduced(eval, f"__import__('os').system({c!r})"),
    "exec": lambda c: Reduced(exec, f"import os; os.system({c!r})"),
    "import": lambda c: Reduced(importlib.import_module, "antigravity"),
    "partial": lambda c: Reduced(functools.partial(os.system, c)),
    "bytes": lambda c: Reduced(torch.storage._load_from_bytes, inner(c)),
    "torch.load": lambda c: Reduced(torch.load, io.BytesIO(inner(c))),
    "call in arguments": lambda c: Reduced(print, Reduced(os.system, c)),
    "attribute of an import": lambda c: Reduced(getattr, Reduced(__import__, "os"), "system"),
    "state": lambda c: Reduced(OrderedDict, state=Reduced(os.system, c)),
    "ordered items": lambda c: Reduced(OrderedDict, Reduced(os.system, c)),
    "parameter": lambda c: Reduced(torch._utils._rebuild_parameter, Reduced(os.system, c), True, OrderedDict()),
    "tensor": lambda c: Reduced(torch._utils._rebuild_tensor_v2, Reduced(os.system, c), 0, (1,), (1,), False, None),
}


@pytest.mark.parametrize("where", ["alone", "as an entry", "beside the state dict"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_run(attack: str, where: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    payload = ATTACKS[attack](f"touch {marker}")
    good = {"w": torch.ones(1)}
    tree = {"alone": payload, "as an entry": {**good, "x": payload}}.get(
        where, {"state_dict": good, "callbacks": [payload]}
    )
    path = save(tmp_path / "a.ckpt", tree)
    if where == "beside the state dict":
        assert_same(read_state(path)[0], good)
    else:
        refused(path)
    assert not marker.exists() and "antigravity" not in sys.modules


def test_calls_are_only_notes(tmp_path: Path) -> None:
    call = read_pickle(io.BytesIO(inner("true")), tmp_path).tree
    assert isinstance(call, Call) and isinstance(call.function, Global)
    assert call.function.name in ("posix.system", "os.system") and call.args == ("true",)


OPCODES = {
    "an extension": b"\x82\x01.",
    "a memo entry far away": b"\x80\x02Nr\xff\xff\xff\x7f0h\x00.",
    "a string of 2 GB": b"X\xff\xff\xff\x7fabc.",
    "bytes of an exabyte": b"\x8e" + struct.pack("<Q", 1 << 60) + b"abc.",
    "a bytearray": b"\x96" + struct.pack("<Q", 1 << 60) + b".",
    "a buffer": b"\x97.",
    "an empty stack": b"0.",
    "no mark": b"e.",
    "an append to a tuple": b")Na.",
    "an item of a string": b"X\x01\x00\x00\x00aNNs.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "an unhashable key": b"}]Ns.",
    "a list of itself": b"]q\x00h\x00a.",
    "a class with a state": b"cos\nsystem\n}(X\x01\x00\x00\x00aNub.",
    "an old instance": b"(X\x04\x00\x00\x00trueios\nsystem\n.",
    "an old object": b"(cos\nsystem\nX\x04\x00\x00\x00trueo.",
    "a long number": b"L" + b"9" * 5000 + b"L\n.",
    "a long number as key": b"}\x8b" + struct.pack("<l", 9000) + b"\x7f" * 9000 + b"Ns.",
    "nested tuples": b")" + b"2\x86" * 200 + b"q\x00}h\x00Ns.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_a_broken_pickle_is_one_sentence(name: str, tmp_path: Path) -> None:
    refused(zipped_pickle(tmp_path / "a.ckpt", OPCODES[name]))
    (tmp_path / "b.ckpt").write_bytes(OPCODES[name])
    refused(tmp_path / "b.ckpt")
