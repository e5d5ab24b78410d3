"""Reads a pickle without unpickling it: a small machine that has no instruction for calling, importing or assigning attributes.

`pickletools` of the standard library splits the bytes into opcodes and decodes their arguments; it executes nothing. What a
real unpickler would import becomes a Global (a name), what it would call becomes a Call (a note of function and arguments).
Nothing that is built here is ever called, so a hostile file can at most be refused. Opcodes from the reference in
Lib/pickletools.py (Python Software Foundation); those that PyTorch does not write (extensions, buffers) are refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dmq_cli.errors import ModelError

_SCALARS = (str, int, float, bool, bytes, type(None))
_FAULTS = (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError, RecursionError, MemoryError)


@dataclass(frozen=True, eq=False)
class Global:
    """A name that an unpickler would import, e.g. "torch.FloatStorage"."""

    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """A call that an unpickler would make. items: key and value pairs, states: states that are set on the result."""

    function: object
    args: object
    items: list[tuple[object, object]] = field(default_factory=list)
    states: list[object] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: in PyTorch's files a tuple that describes a storage."""

    args: object


@dataclass(frozen=True)
class Pickle:
    """tree: plain containers and scalars, Global, Call and Persistent; persistent: every Persistent in it."""

    tree: object
    persistent: list[Persistent]


def read_pickle(stream: BinaryIO, path: Path) -> Pickle:
    """Read one pickle from the stream, which is left behind its end. path: the file's name, for errors.

    Raises ModelError where the bytes are not a pickle, end too early or need what this machine does not have.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return Pickle(machine.stack.pop(), machine.persistent)
    except _FAULTS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"The file {path} is not a whole pickle of tensors as PyTorch writes them ({reason}); download it again."
        ) from error


class _Machine:
    """The stack, the marks (lengths of the stack) and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.persistent: list[Persistent] = []

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif name in _PUSH:
            self.stack.append(_PUSH[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _NOTHING:
            raise ValueError(f"it has the opcode {name}, which PyTorch does not write")

    def marked(self) -> list[Any]:
        """Everything above the last mark, taken from the stack."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def take(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError("it takes more from the stack than there is")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def call(self, function: object, args: object) -> None:
        self.stack.append(Call(function, args))

    def extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Call):
            raise TypeError("it appends to what is no list")

    def update(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        pairs = [(k, v) for k, v in zip(flat[::2], flat[1::2], strict=True) if isinstance(k, _SCALARS)]
        if isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, Call):
            target.items.extend(pairs)
        else:
            raise TypeError("it sets items of what is no dictionary")

    def build(self, state: object) -> None:
        """Note the state of an object that is never made."""
        if isinstance(self.stack[-1], Call):
            self.stack[-1].states.append(state)

    def refer(self, args: object) -> None:
        self.persistent.append(Persistent(args))
        self.stack.append(self.persistent[-1])

    def dictionary(self) -> None:
        flat = self.marked()
        self.stack.append({})
        self.update(flat)

    def make(self) -> None:
        function, *args = self.marked()
        self.call(function, tuple(args))


_NOTHING = ("PROTO", "FRAME", "STOP")
_PUSH_ARGUMENT = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_PUSH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,  # a set would hash what a file holds
    "EMPTY_TUPLE": tuple,
}
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.marked(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.take(3))),
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "FROZENSET": lambda m, _: m.stack.append(m.marked()),
    "DICT": lambda m, _: m.dictionary(),
    "APPEND": lambda m, _: m.extend(m.take(1)),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "ADDITEMS": lambda m, _: m.extend(m.marked()),
    "SETITEM": lambda m, _: m.update(m.take(2)),
    "SETITEMS": lambda m, _: m.update(m.marked()),
    "GLOBAL": lambda m, name: m.stack.append(Global(name.replace(" ", "."))),
    "STACK_GLOBAL": lambda m, _: m.stack.append(Global(".".join(m.take(2)))),
    "REDUCE": lambda m, _: m.call(*m.take(2)),
    "NEWOBJ": lambda m, _: m.call(*m.take(2)),
    "NEWOBJ_EX": lambda m, _: m.call(*m.take(3)[:2]),
    "INST": lambda m, name: m.call(Global(name.replace(" ", ".")), tuple(m.marked())),
    "OBJ": lambda m, _: m.make(),
    "BUILD": lambda m, _: m.build(m.stack.pop()),
    "PERSID": lambda m, args: m.refer(args),
    "BINPERSID": lambda m, _: m.refer(m.stack.pop()),
    "PUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "LONG_BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "GET": lambda m, index: m.stack.append(m.memo[index]),
    "BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.stack.append(m.memo[index]),
}
