"""What is hashed is what is loaded: single files, shards, both, neither, and tensors that are no weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmq_cli.errors import MissingWeightsError, ModelError
from dmq_cli.models import check_expected, folder_sha256, identified, load_adapter, model_adapter, model_conditions
from dmq_cli.models.conditions import conditions_sha256
from dmq_cli.models.files import sha256_of
from dmq_cli.models.first_stage import first_stage_sha256, load_decoder
from dmq_cli.obtain import WEIGHTS
from dmq_cli.paths import PACKAGE
from tests import pipelines
from tests.chain import tiny_folder
from tests.tiny import one_sentence

INDEX = f"{WEIGHTS}.index.json"
EMBEDDED = {  # of the network, the first stage and what turns conditions into tensors, as committed tables have them
    "ddim_digits": ("86ec47b466ab2db3205e192c9c71bb26", None, None),
    "ldm_digits": ("a78b291f484233e44204ecf3a398c8c3", "ef6715c2d047a04d09460893f80cc4d8", None),
    "ldm_digits_class": (
        "a9190521ca71c89add1d416970de6e5c", "ef6715c2d047a04d09460893f80cc4d8", "d2340dd8840fddbf47070d05b3a1fa60",
    ),
    "sd_digits": (
        "b8b1d16f589f9c38c48db704860b8f80", "51eef2a456b0e0e2da04ddbad49f3801", "3ee12bd21d8c96fe125e6691ec0128f1",
    ),
    "dit_digits": ("60cee93f3b8b4b8f282f051a5a9404e2", "51eef2a456b0e0e2da04ddbad49f3801", None),
}  # fmt: skip


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_identity_of_what_is_shipped_stays(name: str) -> None:
    path = PACKAGE / "zoo" / "weights" / name
    assert (folder_sha256(path), first_stage_sha256(path), conditions_sha256(path)) == EMBEDDED[name]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tiny"))


def other_shards(folder: Path, scale: float = 2.0) -> None:
    """What diffusers writes into the network's folder with max_shard_size: shards of other weights, and their index."""
    from diffusers import UNet2DModel

    model = UNet2DModel.from_pretrained(folder / "unet")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    model.save_pretrained(folder / "unet", max_shard_size="20KB")


def sharded(folder: Path, scale: float = 1.0) -> Path:
    other_shards(folder, scale)
    (folder / "unet" / WEIGHTS).unlink(missing_ok=True)
    return folder


def model(folder: Path) -> dict[str, Any]:
    return {"name": folder.name, "path": str(folder), "sampling": {}}


def canonical_sha256(files: list[Path]) -> str:
    """The documented identity: sha256 of the JSON list of the files' sha256, 32 digits."""
    listed = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()[:32]


def test_two_sets_of_weights_are_refused_and_neither_is_hashed(folder: Path) -> None:
    single = (folder / "unet" / WEIGHTS).read_bytes()
    other_shards(folder)
    (folder / "unet" / WEIGHTS).write_bytes(single)  # save_pretrained of today removes it, copying does not
    for function in (load_adapter, folder_sha256, lambda path: check_expected(model(path))):
        with pytest.raises(ModelError, match="has two sets of weights") as caught:
            function(folder)
        one_sentence(caught.value)


def test_shards_are_read_and_hashed(folder: Path) -> None:
    from diffusers import UNet2DModel

    whole = folder_sha256(folder)
    sharded(folder, 2.0)
    shards = sorted((folder / "unet").glob("*.safetensors"))
    assert len(shards) > 2
    files = [folder / "unet/config.json", folder / "unet" / INDEX, *shards, folder / "scheduler/scheduler_config.json"]
    digest = folder_sha256(folder)
    assert digest == canonical_sha256(files) != whole
    theirs, ours = UNet2DModel.from_pretrained(folder / "unet"), load_adapter(folder).model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.state_dict().items())
    for file in files:
        old = file.read_bytes()
        file.write_bytes(old + b" " if file.suffix == ".json" else old[:-1] + bytes([old[-1] ^ 1]))
        assert folder_sha256(folder) != digest, file
        file.write_bytes(old)
    assert identified(model(folder))["sha256"] == digest


def listed(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    index = json.loads((folder / "unet" / INDEX).read_text())
    index["weight_map"] = change(index["weight_map"])
    (folder / "unet" / INDEX).write_text(json.dumps(index))


def outside(folder: Path) -> None:
    listed(folder, lambda names: {name: f"../unet/{shard}" for name, shard in names.items()})


def absolute(folder: Path) -> None:
    listed(folder, lambda names: {name: str(folder / "unet" / shard) for name, shard in names.items()})


def no_map(folder: Path) -> None:
    listed(folder, list)


def lost_shard(folder: Path) -> None:
    next((folder / "unet").glob("*-00002-*")).unlink()


def unlisted(folder: Path) -> None:
    listed(folder, lambda names: {name: shard for name, shard in names.items() if name != "conv_in.bias"})


def twice(folder: Path) -> None:
    first, second = sorted((folder / "unet").glob("*.safetensors"))[:2]
    save_file({**load_file(second), "conv_in.bias": torch.ones(8)}, second)
    if "conv_in.bias" not in load_file(first):
        save_file({**load_file(first), "conv_in.bias": torch.ones(8)}, first)


def no_index(folder: Path) -> None:
    (folder / "unet" / INDEX).unlink()


def only_half(folder: Path) -> None:
    no_index(folder)
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").touch()


@pytest.mark.parametrize(
    ("damage", "kind", "part"),
    [
        (outside, ModelError, "is no safetensors file beside it"),
        (absolute, ModelError, "is no safetensors file beside it"),
        (no_map, ModelError, "has no weight_map"),
        (lost_shard, MissingWeightsError, "is not there"),
        (unlisted, ModelError, "does not list the tensors of its shards"),
        (twice, ModelError, "conv_in.bias is in two shards"),
        (no_index, MissingWeightsError, "without diffusion_pytorch_model.safetensors.index.json"),
        (only_half, MissingWeightsError, "only the variant diffusion_pytorch_model.fp16.safetensors"),
    ],
)
def test_shards_that_cannot_be(damage: Any, kind: type[ModelError], part: str, folder: Path) -> None:
    damage(sharded(folder))
    with pytest.raises(ModelError) as caught:
        load_adapter(folder)
    assert type(caught.value) is kind and part in one_sentence(caught.value)


def test_links_count_by_what_they_show(folder: Path, tmp_path: Path) -> None:
    before, file = folder_sha256(folder), folder / "unet" / WEIGHTS
    elsewhere = file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(elsewhere)
    assert folder_sha256(folder) == before
    elsewhere.write_bytes(elsewhere.read_bytes()[:-1] + b"\x01")
    assert folder_sha256(folder) != before


def test_a_file_that_was_changed_and_dated_back_is_hashed_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    stat, before = file.stat(), sha256_of(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert sha256_of(file) == hashlib.sha256(b"two").hexdigest() != before


def test_a_model_that_changed_since_it_was_identified_is_not_used(folder: Path) -> None:
    known = identified(model(folder))
    model_adapter(known)
    tensors = load_file(folder / "unet" / WEIGHTS)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, folder / "unet" / WEIGHTS)
    with pytest.raises(ModelError, match="its files were changed") as caught:
        model_adapter(known)
    one_sentence(caught.value)


def test_conditions_that_changed_since_they_were_identified_are_not_used(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(folders["prompts"], tmp_path / "model"))
    prompts = path / "prompts.txt"
    cond = {"encoder": conditions_sha256(path), "prompts": hashlib.sha256(prompts.read_bytes()).hexdigest()}
    known = {**model(path), "cond": cond}
    assert model_conditions(known, None, str(prompts)) is not None
    config = path / "tokenizer/tokenizer_config.json"
    before = config.read_text()
    config.write_text(before + " ")
    with pytest.raises(ModelError, match=r"text encoder or class embedding .* its files were changed") as caught:
        model_conditions(known, None, str(prompts))
    one_sentence(caught.value)
    config.write_text(before)
    prompts.write_text("another text")
    with pytest.raises(ModelError, match="the file was changed") as caught:
        model_conditions(known, None, str(prompts))
    one_sentence(caught.value)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "I8": lambda x: x.to(torch.int8),
    "I64": lambda x: x.to(torch.int64),
    "BOOL": lambda x: x > 0,
    "F8_E4M3": lambda x: x.to(torch.float8_e4m3fn),
    "C64": lambda x: x.to(torch.complex64),
}


def altered(file: Path, change: Callable[[Tensor], Tensor]) -> None:
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
    save_file({**tensors, name: change(tensors[name])}, file, metadata={"format": "pt"})


def told(path: Path) -> Any:
    prompts = str(path / "prompts.txt") if (path / "prompts.txt").is_file() else None
    conditions = model_conditions(model(path), None, prompts)
    return conditions and conditions.of(range(1))


PARTS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "network": ("tokens", f"unet/{WEIGHTS}", load_adapter),
    "first stage": ("tokens", f"vqvae/{WEIGHTS}", load_decoder),
    "class embedding": ("tokens", f"class_embedding/{WEIGHTS}", told),
    "text encoder": ("prompts", "text_encoder/model.safetensors", told),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("pipelines")
    return {kind: pipelines.FOLDERS[kind](base / kind) for kind in ("tokens", "prompts")}


@pytest.mark.parametrize("part", PARTS)
def test_only_floating_point_numbers_are_weights(part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    kind, file, load = PARTS[part]
    whole = load(folders[kind])
    for number, (word, change) in enumerate(KINDS.items()):
        path = Path(shutil.copytree(folders[kind], tmp_path / str(number)))
        altered(path / file, change)
        with pytest.raises(ModelError, match=f"as {word}, and only floating-point numbers") as caught:
            load(path)
        one_sentence(caught.value)
    half = Path(shutil.copytree(folders[kind], tmp_path / "half"))
    altered(half / file, lambda x: x.bfloat16())
    assert whole is not None and load(half) is not None


def test_a_text_encoder_of_shards_is_the_same_and_two_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(folders["prompts"], tmp_path / "model"))
    single = path / "text_encoder" / "model.safetensors"
    tensors = load_file(single)
    names = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for shard in set(names.values()):
        part = {name: tensor for name, tensor in tensors.items() if names[name] == shard}
        save_file(part, path / "text_encoder" / shard, metadata={"format": "pt"})
    (path / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelError, match="has two sets of weights"):
        told(path)
    single.unlink()
    assert torch.equal(told(path)["encoder_hidden_states"], told(folders["prompts"])["encoder_hidden_states"])


def test_position_ids_beside_older_text_encoders_are_no_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(folders["prompts"], tmp_path / "model"))
    file = path / "text_encoder" / "model.safetensors"
    ids = torch.arange(16)[None]
    save_file({**load_file(file), "text_model.embeddings.position_ids": ids}, file, metadata={"format": "pt"})
    assert torch.equal(told(path)["encoder_hidden_states"], told(folders["prompts"])["encoder_hidden_states"])


def test_older_names_of_attention_layers_are_understood(folder: Path) -> None:
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    file, whole = folder / "unet" / WEIGHTS, load_adapter(folder).model.state_dict()
    tensors = load_file(file)
    for new, old in former.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    state = load_adapter(folder).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.items())
