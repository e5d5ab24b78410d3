"""Check an exported folder: its files, and that the network in it is what its integers say."""

from __future__ import annotations

from pathlib import Path

import torch

from dmq_cli.deploy.backends import graph_backend
from dmq_cli.deploy.folder import read_network
from dmq_cli.deploy.index import read_index
from dmq_cli.deploy.packed import packed
from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.models.folder import tokens_of
from dmq_cli.models.parts import network_folder
from dmq_cli.obtain import WEIGHTS
from dmq_cli.store.tensors import check_finite, load_tensors


def check(folder: Path) -> int:
    """Check every file of the folder, load its network, and pack that again: every tensor has to be the same, codes included.

    The graph of a backend is compiled. Returns the number of tensors that were compared, or of products that it makes. Raises ArtifactCorruptError, ModelError and NumericsError.
    """
    if (backend := graph_backend(read_index(folder)["config"]["format"])) is not None:
        return backend.ran(folder, 1, None).every
    network = network_folder(folder)
    stored = load_tensors(network / WEIGHTS)
    check_finite(stored, f"The exported weights in {network}")
    again, _ = packed(read_network(network, tokens_of(folder)))
    differing = sorted(
        name
        for name in {*stored, *again}
        if name not in stored or name not in again or not torch.equal(stored[name], again[name])
    )
    if differing:
        raise ArtifactCorruptError(
            f"The network in {folder} does not pack to the integers that its file holds ({len(differing)} tensors differ, first:"
            f" {differing[0]}); export it again with this version of dmq."
        )
    return len(stored)
