"""A device that computes on the CPU and refuses what a GPU refuses, so that its code runs where there is no GPU.

Its tensors say that they are on `dmqsecond:0`; what they hold lies beside. Operators whose arguments lie on two devices are refused
as on CUDA, where only numbers (0-dim tensors of the CPU) may come from elsewhere. Whatever makes the host wait for the device,
a number that is read or a tensor that is copied back, is written down with the line of dmq that did it.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "dmqsecond"  # torch gives every module and tensor a method of this name
_ATEN = torch.ops.aten
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_COUNTING = ("aten::nonzero", "aten::_unique2", "aten::unique_dim", "aten::bincount", "aten::masked_select")
_READING = ("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", *_COUNTING)


class MixedDevices(RuntimeError):
    """An operator was given tensors of two devices."""


class SecondTensor(Tensor):
    """A tensor of the second device. held: its numbers, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> SecondTensor:
        wrapper: SecondTensor = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=torch.device(NAME, 0)
        )  # fmt: skip
        wrapper.held = held
        return wrapper

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SecondTensor({self.held})"

    def _set_data(self, value: Tensor) -> None:
        # torch exchanges what the tensor is, and knows nothing of what is held beside.
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held  # type: ignore[attr-defined]

    data = property(lambda self: Tensor.data.__get__(self), _set_data)  # type: ignore[attr-defined]

    def tolist(self) -> Any:
        _device().waits[f"{_line()} tolist"] += 1
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"a tensor of the device cannot become an array, at {_line()}")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _call(func, args, kwargs or {})


class Device(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, tensors can be made on the second device. waits: how often each line of dmq made the host wait; copies: how often
    each moved a tensor to the device. narrow: float64 is refused there, as on MPS."""

    current: Device | None = None

    def __init__(self, narrow: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.narrow, self.waits, self.copies = narrow, Counter[str](), Counter[str]()
        self.computed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _device() -> Device:
    return Device.current or Device()  # a network that is remembered may be moved back afterwards


def _register() -> None:
    from torch.utils import backend_registration as backends

    class Module(backends._DummyBackendModule):
        """Counts no devices, so that what asks torch for all there are goes on as without it."""

        def device_count(self) -> int:
            return 0

    if not hasattr(torch, NAME):
        backends._setup_privateuseone_for_python_backend(NAME, Module())


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operator on what its arguments hold."""
    name, tensors = func._schema.name, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    theirs, target = [x for x in tensors if isinstance(x, SecondTensor)], kwargs.get("device")
    moves = target is not None and torch.device(target).type == NAME
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with _device():  # of others' operators made, which inference mode leaves whole
            return func.decompose(*args, **kwargs)
    leaves = target is not None and not moves
    _watch(name, tensors, theirs, moves, leaves)
    with no_dispatch():
        inner = {**kwargs, "device": torch.device("cpu")} if moves else kwargs
        result = func(*tree_map(_held, args), **tree_map(_held, inner))
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    here = moves or (bool(theirs) and not leaves)
    return tree_map(_placed, result) if here else result


def _watch(name: str, tensors: list[Tensor], theirs: list[SecondTensor], moves: bool, leaves: bool) -> None:
    """Refuse a mixture of devices; write down what waits and what copies."""
    device, both = _device(), bool(theirs) and len(theirs) < len(tensors)
    if theirs:
        device.computed += 1
    copies = name in ("aten::_to_copy", "aten::copy_")
    if (
        both
        and not copies
        and name not in _INDEXING
        and any(x.ndim for x in tensors if not isinstance(x, SecondTensor))
    ):
        shapes = [(tuple(x.shape), str(x.device)) for x in tensors]
        raise MixedDevices(f"{name} was given tensors of two devices, {shapes}, at {_line()}")
    indices = [x for x in tensors[1:] if x.dtype == torch.bool] if name in _INDEXING and theirs else []
    if theirs and (name in _READING or indices or (copies and leaves)):
        device.waits[f"{_line()} {name}"] += 1
    elif name == "aten::copy_" and both:
        back = isinstance(tensors[1], SecondTensor)
        (device.waits if back else device.copies)[f"{_line()} {name}"] += 1
    elif (name == "aten::_to_copy" and moves and not theirs) or (both and name in _INDEXING):
        device.copies[f"{_line()} {name}"] += 1


def _line() -> str:
    """The innermost line of dmq that runs now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and "/dmq_cli/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "outside of dmq"
    return f"{frame.f_code.co_filename.rpartition('/dmq_cli/')[2]}:{frame.f_lineno}"


def _held(x: Any) -> Any:
    return x.held if isinstance(x, SecondTensor) else x


def _placed(x: Any) -> Any:
    if not isinstance(x, Tensor) or isinstance(x, SecondTensor):
        return x
    if _device().narrow and x.dtype == torch.float64:
        raise TypeError(f"float64 is not known to this device, at {_line()}")
    return SecondTensor(x)


@contextlib.contextmanager
def second_device(narrow: bool = False) -> Iterator[Device]:
    """Inside, runtime.device=dmqsecond runs."""
    Device.current = Device(narrow)
    try:
        with Device.current:
            yield Device.current
    finally:
        Device.current = None


_register()  # when tests are collected: the first backward pass of a process makes room for the devices that there are
