import dmq_cli.compat  # noqa: F401  (the tests import torch_fidelity, too)
