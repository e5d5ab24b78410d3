"""The words of a command: as Hydra reads them, which of them name unknown keys, and which have an effect.

Imports no torch and no Hydra at the top.
"""

from dmq_cli.overrides.words import as_hydra, own_folder, quoted, split, sweeps

__all__ = ["as_hydra", "own_folder", "quoted", "split", "sweeps"]
