import dmq_cli  # noqa: F401  (the tests import torch_fidelity, too)
