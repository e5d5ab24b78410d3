"""Makes `import torchvision` work next to a CPU-only torch, and with it diffusers, transformers and torch-fidelity.

PyPI's torchvision is built for CUDA. Beside a CPU build of torch its compiled operators do not load, and the Python side
then registers fake kernels for operators nobody declared: "operator torchvision::nms does not exist". Declaring the two
schemas first is enough, because nothing here calls the operators. `import dmq_cli` installs a finder that does so when
torchvision is first imported by anybody, and imports nothing itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_NAME = "torchvision"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # a torch.library.Library withdraws its declarations when it is collected


class _Finder(MetaPathFinder):
    """Finds nothing; sees the first import of torchvision and prepares it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name == _NAME:
            sys.meta_path.remove(self)
            _prepare()


def install() -> None:
    """Prepare torchvision when it is imported; once, and not where it is imported already."""
    if _NAME not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _prepare() -> None:
    """Declare torchvision's operators where its compiled ones do not load."""
    spec = PathFinder.find_spec(_NAME)
    files = sorted(Path(spec.origin).parent.glob("_C*.so")) if spec is not None and spec.origin else []
    if not files or _declared:
        return
    import torch

    try:
        torch.ops.load_library(files[0])  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError):
        library = torch.library.Library(_NAME, "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
