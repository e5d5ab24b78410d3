"""Importers: original checkpoints of DDIM, latent diffusion and Stable Diffusion v1.4 to diffusers folders, without unpickling.

Written from the architectures' definitions, not from anyone's converter. diffusers reads Stable Diffusion's single file, too
(StableDiffusionPipeline.from_single_file), but needs a folder of configurations or the hub, drops names that it does not know
and leaves out averages. The file's networks are latent diffusion's, whose maps are here anyway, and CLIP's, which keep their
names.
"""

from typing import TYPE_CHECKING

from dmq_cli.late import late

if TYPE_CHECKING:
    from dmq_cli.models.importers.convert import Imported as Imported
    from dmq_cli.models.importers.convert import import_checkpoint as import_checkpoint
    from dmq_cli.models.importers.recipes import RECIPES as RECIPES
    from dmq_cli.models.importers.state import read_state as read_state

__getattr__, __all__ = late(
    __name__, {"convert": ("Imported", "import_checkpoint"), "recipes": ("RECIPES",), "state": ("read_state",)}
)
