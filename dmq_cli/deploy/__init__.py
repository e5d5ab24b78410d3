"""Quantized networks as files: packed integers, and what reads them again. The names here are imported when they are used."""

from typing import TYPE_CHECKING

from dmq_cli.late import late

if TYPE_CHECKING:
    from dmq_cli.deploy.folder import read_network as read_network
    from dmq_cli.deploy.folder import write_network as write_network
    from dmq_cli.deploy.index import is_exported as is_exported
    from dmq_cli.deploy.index import read_index as read_index
    from dmq_cli.deploy.index import write_index as write_index

__getattr__, __all__ = late(
    __name__,
    {"folder": ("read_network", "write_network"), "index": ("is_exported", "read_index", "write_index")},
)
