"""Find the files that a component's weights are read from, and read their tensors. Hashing and loading both start here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dmq_cli.errors import MissingWeightsError, ModelError
from dmq_cli.models.files import read_json, schedule_file, sha256_of
from dmq_cli.models.parts import network_folder
from dmq_cli.obtain import WEIGHTS
from dmq_cli.store.hashing import digest
from dmq_cli.store.tensors import WEIGHT_DTYPES

TEXT_WEIGHTS = "model.safetensors"  # what transformers calls the file of a text encoder
_INDEX = ".index.json"
_KINDS = ("F64", "F32", "F16", "BF16")  # of WEIGHT_DTYPES, in the words of safetensors
_UNREAD = "embeddings.position_ids"  # 0, 1, 2, ... beside the weights of older text encoders; no network reads it


def weight_files(folder: Path, name: str = WEIGHTS) -> list[Path]:
    """The files that hold the weights in this folder: one, or an index and every shard that it names, in a fixed order.

    name: of the single file. Raises MissingWeightsError where there is nothing that dmq reads (a pickle and a variant in half
    precision do not count), ModelError for two sets of weights and for an index that names files outside of the folder.
    """
    single, index = folder / name, folder / f"{name}{_INDEX}"
    if single.is_file() and index.is_file():
        raise ModelError(
            f"The folder {folder} has two sets of weights, {name} and the shards of {index.name}, and they need not be the same;"
            " remove the one that is not meant."
        )
    if single.is_file():
        return [single]
    if index.is_file():
        return [index, *(folder / shard for shard in sorted(set(_weight_map(index).values())))]
    raise MissingWeightsError(_explain_missing(folder, name))


def folder_sha256(path: Path) -> str:
    """Hash of the network's configuration, weights and noise schedule: the identity of a model, wherever it lies.

    The weights are the files that folder.load_adapter reads: one, or an index and all its shards.
    """
    folder = network_folder(path)
    files = [folder / "config.json", *weight_files(folder), schedule_file(path)]
    return digest([sha256_of(file) for file in files])


def weight_shapes(folder: Path, name: str = WEIGHTS) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, from the heads of the files. Raises ModelError also for tensors that are no weights."""
    files = weight_files(folder, name)
    shapes: dict[str, tuple[int, ...]] = {}
    for head in (_head(file) for file in files if file.suffix == ".safetensors"):
        if twice := sorted(shapes.keys() & head.shapes.keys()):
            raise ModelError(f"The tensor {twice[0]} is in two shards of {folder}; save the model again.")
        _check_kinds(head)
        shapes |= head.shapes
    if files[0].suffix == ".json" and (odd := sorted(shapes.keys() ^ _weight_map(files[0]).keys())):
        raise ModelError(
            f"The index {files[0]} does not list the tensors of its shards (first: {odd[0]}); save it again."
        )
    return {key: shape for key, shape in shapes.items() if not key.endswith(_UNREAD)}


def read_weights(folder: Path, name: str = WEIGHTS) -> Iterator[dict[str, Tensor]]:
    """The tensors of one file after the other, as they are stored. Raises as weight_shapes."""
    weight_shapes(folder, name)
    for file in weight_files(folder, name):
        if file.suffix == ".safetensors":
            yield {key: tensor for key, tensor in _loaded(file).items() if not key.endswith(_UNREAD)}


def check_weights(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise ModelError for tensors that are no weights, such as integer codes. what: the sentence's start."""
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHT_DTYPES:
            _refuse_kind(what, name, str(tensor.dtype).removeprefix("torch."))


@dataclass(frozen=True)
class _Head:
    file: Path
    shapes: dict[str, tuple[int, ...]]
    kinds: dict[str, str]


def _head(file: Path) -> _Head:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
            return _Head(file, shapes, {name: str(tensor.get_dtype()) for name, tensor in slices.items()})
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from error


def _loaded(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ModelError:
    return ModelError(f"The weights in {file.parent} could not be read ({file.name}: {error}); copy the folder again.")


def _check_kinds(head: _Head) -> None:
    for name, kind in head.kinds.items():
        if kind not in _KINDS and not name.endswith(_UNREAD):
            _refuse_kind(f"The file {head.file}", name, kind)


def _refuse_kind(what: str, name: str, kind: str) -> None:
    raise ModelError(
        f"{what} has {name} as {kind}, and only floating-point numbers of 16 bits or more are weights; give the model as it was"
        " before it was quantized."
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Names of tensors to names of files beside the index."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"The index {index} has no weight_map, which says what is where; save the model again.")
    for shard in shards.values():
        plain = isinstance(shard, str) and Path(shard).name == shard and "\\" not in shard
        if not plain or not shard.endswith(".safetensors"):
            raise ModelError(
                f"The index {index} names {shard!r}, which is no safetensors file beside it; save the model again."
            )
        if not (index.parent / shard).is_file():
            raise MissingWeightsError(f"The index {index} names {shard}, which is not there; copy the whole folder.")
    return shards


def _explain_missing(folder: Path, name: str) -> str:
    """Write the sentence of an error: which files the folder has instead of weights, and what to do."""
    start, stem = f"The model folder {folder} has no {name}", name.removesuffix(".safetensors")
    variants = sorted(file.name for file in folder.glob(f"{stem}[.-]*safetensors*"))
    if shard := next((file for file in variants if file.startswith(f"{stem}-")), None):
        return f"{start}, and shards ({shard}) without {name}{_INDEX}, which says what is where; copy that file, too."
    if variant := next((file for file in variants if file.startswith(f"{stem}.")), None):
        return (
            f"{start}, only the variant {variant}, which dmq does not take for it; save the model in full precision, or give that file"
            " the plain name if its values are what you mean."
        )
    pickles = (file.name for pattern in ("*.bin", "*.ckpt", "*.pt") for file in sorted(folder.glob(pattern)))
    unreadable = next(pickles, None)
    hint = f" ({unreadable} is a pickle, which dmq does not read)" if unreadable else ""
    return f"{start}{hint}; save the model with safetensors and put that file there."
