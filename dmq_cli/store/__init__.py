"""Artifacts on the disk, without torch. Tensors are in dmq_cli.store.tensors, which is imported by name."""

from dmq_cli.store.cache import ArtifactStore as ArtifactStore
from dmq_cli.store.cache import Claim as Claim
from dmq_cli.store.files import free_bytes as free_bytes
from dmq_cli.store.files import hold_json as hold_json
from dmq_cli.store.files import read_json as read_json
from dmq_cli.store.files import write_json as write_json
from dmq_cli.store.hashing import canonical as canonical
from dmq_cli.store.hashing import digest as digest
from dmq_cli.store.hashing import file_sha256 as file_sha256
from dmq_cli.store.integrity import check_artifact as check_artifact
from dmq_cli.store.integrity import is_manifest_of as is_manifest_of
from dmq_cli.store.manifest import Stopwatch as Stopwatch
from dmq_cli.store.manifest import environment as environment
from dmq_cli.store.rundir import Run as Run
from dmq_cli.store.rundir import create_run as create_run
from dmq_cli.store.rundir import is_alive as is_alive
from dmq_cli.store.rundir import now as now
