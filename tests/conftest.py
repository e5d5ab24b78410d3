from __future__ import annotations

import torch

import dmq_cli.compat  # noqa: F401 (before anything imports diffusers)

torch.set_num_threads(1)
