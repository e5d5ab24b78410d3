from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmq_cli.errors import DmqError, MissingWeightsError, ModelError, NumericsError
from dmq_cli.models import CondUNetAdapter, DiTAdapter, UNetAdapter, folder_sha256, load_adapter, load_schedule
from tests import families
from tests.tiny import SCHEDULE, network, one_sentence

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import DDPMScheduler

    path = tmp_path_factory.mktemp("models") / "pipeline"
    network(torch.float32).save_pretrained(path / "unet")  # type: ignore[operator]
    DDPMScheduler(**SCHEDULE).save_pretrained(path / "scheduler")
    return path


@pytest.fixture
def pipeline(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.fixture
def bare(pipeline: Path) -> Path:
    """The network and the scheduler side by side."""
    shutil.copy(pipeline / "scheduler/scheduler_config.json", pipeline / "unet")
    return pipeline / "unet"


@pytest.mark.parametrize("kind", ["pipeline", "bare"])
def test_round_trip(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    loaded, original = load_adapter(path), network(torch.float32)
    tensors = loaded.model.state_dict()
    assert list(tensors) == list(original.state_dict())
    assert all(torch.equal(tensors[k], v) for k, v in original.state_dict().items())
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.sample_shape() == (2, 8, 8)
    assert {k: load_schedule(path)[k] for k in SCHEDULE} == SCHEDULE


def test_half_precision_weights_are_loaded_as_float32(pipeline: Path) -> None:
    rewrite(pipeline, lambda tensors: {k: v.half() for k, v in tensors.items()})
    assert {p.dtype for p in load_adapter(pipeline).model.parameters()} == {torch.float32}


def test_the_hash_is_that_of_the_content(pipeline: Path, bare: Path) -> None:
    before = folder_sha256(pipeline)
    assert folder_sha256(bare) == before
    (pipeline / "README.md").write_text("not part of the model")
    assert folder_sha256(pipeline) == before
    for name in (WEIGHTS, "unet/config.json", "scheduler/scheduler_config.json"):
        file = pipeline / name
        old = file.read_bytes()
        file.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
        assert folder_sha256(pipeline) != before, name
        file.write_bytes(old)
    assert folder_sha256(pipeline) == before


def rewrite(pipeline: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(pipeline / WEIGHTS)), pipeline / WEIGHTS, metadata={"format": "pt"})


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def without_weights(path: Path) -> None:
    (path / WEIGHTS).unlink()


def only_a_pickle(path: Path) -> None:
    (path / WEIGHTS).rename(path / "unet/diffusion_pytorch_model.bin")


def truncated(path: Path) -> None:
    content = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(content[: len(content) // 2])


def wrong_shapes(path: Path) -> None:
    edit(path / "unet/config.json", block_out_channels=[8, 24])


def missing_key(path: Path) -> None:
    rewrite(path, lambda t: {k: v for k, v in t.items() if k != "conv_in.bias"})


def unexpected_key(path: Path) -> None:
    rewrite(path, lambda t: {**t, "conv_between.bias": torch.zeros(3)})


def nan(path: Path) -> None:
    rewrite(path, lambda t: {**t, "conv_in.bias": t["conv_in.bias"].fill_(torch.nan)})


def unknown_class(path: Path) -> None:
    edit(path / "unet/config.json", _class_name="AutoencoderKL")


def class_of_another_kind(path: Path) -> None:
    edit(path / "unet/config.json", _class_name=["UNet2DModel"])


def broken_json(path: Path) -> None:
    (path / "unet/config.json").write_text("{")


def json_list(path: Path) -> None:
    (path / "unet/config.json").write_text("[]")


def without_config(path: Path) -> None:
    (path / "unet/config.json").unlink()


def impossible_config(path: Path) -> None:
    edit(path / "unet/config.json", norm_num_groups=5)


DAMAGES: dict[Callable[[Path], None], tuple[type[DmqError], str]] = {
    without_weights: (MissingWeightsError, r"has no diffusion_pytorch_model\.safetensors; save"),
    only_a_pickle: (
        MissingWeightsError,
        r"\(diffusion_pytorch_model\.bin is a pickle, which dmq does not read\)",
    ),
    truncated: (ModelError, "could not be read"),
    wrong_shapes: (ModelError, "the wrong shape for"),
    missing_key: (ModelError, r"no values for 1 tensors .*\(first: conv_in\.bias\)"),
    unexpected_key: (ModelError, r"do not belong to 1 tensors .*conv_between\.bias"),
    nan: (NumericsError, r"8 of the 8 values of conv_in\.bias are NaN"),
    unknown_class: (
        ModelError,
        "AutoencoderKL, which dmq does not know; .* UNet2DModel, HeadsUNet2DModel, UNet2DConditionModel, DiTTransformer2DModel",
    ),
    class_of_another_kind: (ModelError, "which dmq does not know"),
    broken_json: (ModelError, "could not be read as JSON"),
    json_list: (ModelError, "could not be read as JSON"),
    without_config: (ModelError, r"neither unet/config\.json nor transformer/config\.json nor config\.json"),
    impossible_config: (ModelError, "describes no network"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_folder_gives_one_sentence(damage: Callable[[Path], None], pipeline: Path) -> None:
    kind, message = DAMAGES[damage]
    damage(pipeline)
    with pytest.raises(kind, match=message) as caught:
        load_adapter(pipeline)
    assert type(caught.value) is kind
    assert str(pipeline) in one_sentence(caught.value)


def test_a_missing_folder_exits_with_4(tmp_path: Path) -> None:
    for function in (load_adapter, folder_sha256):
        with pytest.raises(MissingWeightsError, match="does not exist; give the path") as caught:
            function(tmp_path / "nowhere")
        assert caught.value.exit_code == 4
        one_sentence(caught.value)


def test_a_missing_schedule(pipeline: Path) -> None:
    shutil.rmtree(pipeline / "scheduler")
    for function in (load_schedule, folder_sha256):
        with pytest.raises(ModelError, match="noise schedule is unknown") as caught:
            function(pipeline)
        one_sentence(caught.value)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """Saves a tiny network of a family as a pipeline."""
    from diffusers import DDPMScheduler

    def save(family: str) -> Path:
        path = tmp_path / family
        subfolder = "transformer" if family == "dit" else "unet"
        families.network(family, torch.float32).save_pretrained(path / subfolder)  # type: ignore[operator]
        DDPMScheduler(**SCHEDULE).save_pretrained(path / "scheduler")
        return path

    return save


@pytest.mark.parametrize(
    ("family", "kind"), [("latent", UNetAdapter), ("cond_unet", CondUNetAdapter), ("dit", DiTAdapter)]
)
def test_every_family_is_loaded_as_what_it_is(family: str, kind: type[object], saved: Callable[[str], Path]) -> None:
    path = saved(family)
    loaded, original = load_adapter(path), families.network(family, torch.float32)
    assert type(loaded) is kind and loaded.sample_shape() == (2, 8, 8)
    tensors = loaded.model.state_dict()
    assert list(tensors) == list(original.state_dict())
    assert all(torch.equal(tensors[k], v) for k, v in original.state_dict().items())


def test_a_published_dit_calls_itself_something_else(saved: Callable[[str], Path]) -> None:
    path = saved("dit")
    edit(path / "transformer/config.json", _class_name="Transformer2DModel")
    assert type(load_adapter(path)) is DiTAdapter


def test_another_transformer_is_refused(tmp_path: Path) -> None:
    from diffusers import Transformer2DModel

    Transformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=8, num_layers=1, norm_num_groups=4
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a Transformer2DModel, which dmq does not know") as caught:
        load_adapter(tmp_path)
    one_sentence(caught.value)


@pytest.mark.parametrize(("config", "tokens"), [(None, 1), ({"max_position_embeddings": 77}, 77), ({}, 1)])
def test_the_text_encoder_says_how_many_tokens_there_are(
    config: dict[str, int] | None, tokens: int, saved: Callable[[str], Path]
) -> None:
    path = saved("cond_unet")
    if config is not None:
        (path / "text_encoder").mkdir()
        (path / "text_encoder/config.json").write_text(json.dumps(config))
    blank = load_adapter(path).blank_cond(3)
    assert blank is not None and blank["encoder_hidden_states"].shape == (3, tokens, 12)
