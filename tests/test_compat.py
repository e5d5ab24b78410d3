"""`import dmq_cli` lets diffusers and torchvision be imported beside a CPU-only torch, and imports nothing itself."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_after_importing_dmq_diffusers_pipelines_import() -> None:
    code = (
        "import sys, dmq_cli; assert 'torch' not in sys.modules\n"
        "from diffusers import DDPMPipeline, UNet2DModel\nimport torchvision, torch_fidelity\n"
        "import torch; print(torch.ops.torchvision.nms is not None)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and done.stdout.strip() == "True", done.stderr
