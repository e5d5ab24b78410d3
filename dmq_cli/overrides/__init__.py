"""What a command was asked: its words as Hydra reads them, which of them nobody reads, and which act.

Imports no torch and no Hydra at the top.
"""

from dmq_cli.overrides.words import as_hydra, own_folder, quoted, split, sweeps

__all__ = ["as_hydra", "own_folder", "quoted", "split", "sweeps"]
