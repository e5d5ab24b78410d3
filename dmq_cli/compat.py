"""What `import dmq_cli` prepares in other packages, each when somebody imports it; it imports nothing itself.

torchvision next to a CPU-only torch, and with it diffusers, transformers and torch-fidelity: PyPI's torchvision is built for CUDA. Beside
a CPU build of torch its compiled operators do not load, and the Python side then registers fake kernels for operators nobody declared:
"operator torchvision::nms does not exist". Declaring the two schemas first is enough, because nothing here calls the operators.

diffusers: it learns to load what `dmq export` wrote, by quant_method dmq and as DiffusionPipeline.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
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
    """Sees the first import of torchvision and prepares it; calls what is to follow the import of some modules of diffusers."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of _AFTER, whose loader then calls what follows; None for all others."""
        if name == _NAME:
            _prepare()
        if name not in _AFTER or (spec := PathFinder.find_spec(name, path, target)) is None or spec.loader is None:
            return None
        execute, follow = spec.loader.exec_module, _AFTER[name]

        def execute_and_follow(module: ModuleType) -> None:
            execute(module)
            follow()

        spec.loader.exec_module = execute_and_follow  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Prepare modules when they are imported; once. Those of diffusers that are there already are prepared now."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name, follow in _AFTER.items():
        if name in sys.modules:
            follow()


def _register_quantizer() -> None:
    """Let networks be loaded by quant_method dmq; the names are those of classes that are imported when they are used."""
    auto = sys.modules["diffusers.quantizers.auto"]
    for mapping, name in (
        ("AUTO_QUANTIZER_MAPPING", "DmqQuantizer"),
        ("AUTO_QUANTIZATION_CONFIG_MAPPING", "DmqConfig"),
    ):
        getattr(auto, mapping)["dmq"] = _Late(name)


class _Late:
    """A class of dmq_cli.deploy.quantizer, imported when it is called or asked for a method."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._found()(*arguments, **named)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._found(), attribute)

    def _found(self) -> Any:
        from dmq_cli.deploy import quantizer

        return getattr(quantizer, self.name)


def _register_pipeline() -> None:
    """Let DiffusionPipeline.from_pretrained find the class that an exported folder names."""
    from dmq_cli.deploy.pipeline import DmqPipeline

    sys.modules["diffusers"].DmqPipeline = DmqPipeline  # type: ignore[attr-defined]


_AFTER: Mapping[str, Callable[[], None]] = {
    "diffusers.quantizers.auto": _register_quantizer,
    "diffusers.pipelines.pipeline_utils": _register_pipeline,
}


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
