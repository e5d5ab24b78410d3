"""Makes `import torchvision` work next to a CPU-only torch.

PyPI's torchvision is built for CUDA. Beside a CPU build of torch its compiled operators do not load, and the Python side
then registers fake kernels for operators nobody declared: "operator torchvision::nms does not exist". torch-fidelity,
transformers and diffusers import torchvision and fail with it. Declaring the two schemas first is enough, because
nothing here calls the operators. Import this module before any of those libraries.
"""

from __future__ import annotations

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a Library withdraws its declarations when it is collected


def ensure_torchvision() -> bool:
    """Import torchvision, declaring its operators only where the plain import fails. True if they were declared."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
        import torchvision  # noqa: F401
    return bool(_declared)


ensure_torchvision()
