"""`dmq import` from end to end: the folder, and that it works as a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dmq_cli.errors import ModelError
from dmq_cli.models import folder_sha256, load_adapter, load_schedule
from dmq_cli.models.heads import HeadsUNet2DModel
from dmq_cli.models.importers import RECIPES, import_checkpoint
from dmq_cli.models.unet import UNetAdapter
from tests.chain import dmq
from tests.models.importers.miniatures import SHAPES, small, state
from tests.models.importers.original_first_stage import FirstStage
from tests.models.importers.original_ldm import UNetModel

Checkpoint = Callable[..., Path]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_command_and_the_folder_as_a_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    file, target = checkpoint("ddim_cifar10"), tmp_path / "models" / "cifar"
    result = dmq("import", str(file), "--as", "ddim_cifar10", "--to", str(target), "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert record["folder"] == str(target) and record["weights"] == "as stored"
    assert record["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["model_sha256"] == folder_sha256(target)
    weights = "unet/diffusion_pytorch_model.safetensors"
    expected = ["imported.json", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", weights]
    assert files(target) == expected and [p.name for p in target.parent.iterdir()] == ["cifar"]
    plan = dmq("plan", "sample", f"model={target}")
    assert plan.code == 0, plan.err
    again = dmq("import", str(file), "--as", "ddim_cifar10", "--to", str(target))
    assert again.code == 2 and "exists already" in again.sentence


def test_quiet_plain_and_the_default_folder(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = checkpoint("ddim_cifar10")
    monkeypatch.chdir(tmp_path)
    result = dmq("import", str(file), "--as", "ddim_cifar10")
    target = tmp_path / "outputs/models/ddim_cifar10"
    assert result.code == 0 and f"folder: {target}\n" in result.out and "model_sha256: " in result.out
    assert dmq("import", str(file), "--as", "ddim_cifar10", "--to", "other", "-q").out == ""
    assert files(tmp_path / "other") == files(target)


def test_wrong_use(checkpoint: Checkpoint, tmp_path: Path) -> None:
    file = checkpoint("ddim_cifar10")
    result = dmq("import", str(file), "--as", "ddim_cifar")
    assert result.code == 2 and "Did you mean ddim_cifar10?" in result.sentence
    assert all(name in result.sentence for name in RECIPES)
    assert dmq("import", str(file)).code == 2
    assert dmq("import", str(tmp_path / "none.ckpt"), "--as", "ddim_cifar10").code == 4


def test_pixel_models_as_diffusers_pipelines(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from diffusers import DDIMPipeline

    done = import_checkpoint(checkpoint("ddim_cifar10"), "ddim_cifar10", tmp_path / "out")
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "out", local_files_only=True, low_cpu_mem_usage=False)
    loaded = load_adapter(done.folder)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 900])
    assert torch.equal(pipeline.unet(x, t).sample, loaded.predict(x, t, None))
    schedule = load_schedule(done.folder)
    assert (schedule["beta_schedule"], schedule["beta_start"], schedule["beta_end"]) == ("linear", 1e-4, 0.02)
    assert pipeline.scheduler.config.clip_sample is False


@pytest.mark.parametrize("name", ["ldm4_bedroom", "ldm8_church"])
def test_averages_are_what_is_imported_and_what_runs(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    done = import_checkpoint(checkpoint(name), name, tmp_path / "out")
    assert done.average
    loaded, original = load_adapter(done.folder), UNetModel(SHAPES[name])
    plain = {k.removeprefix("model.diffusion_model."): v + 1 for k, v in state(name).items() if "diffusion_model." in k}
    original.load_state_dict(plain)
    x, t = torch.randn(2, SHAPES[name].latent, 8, 8), torch.tensor([3, 900])
    expected = original.eval()(x, t)
    assert float((loaded.predict(x, t, None) - expected).detach().abs().max() / expected.detach().abs().max()) < 1e-4
    assert next(layer.role for layer in loaded.layers()) == "edge.in" and loaded.units()[-1] == "conv_out"
    assert set(loaded.temporal(t)) == {n.name for n in loaded.layers() if n.role == "resnet.time_proj"}
    assert (tmp_path / "out/model_index.json").exists() is (name == "ldm4_bedroom")


def test_the_first_stages(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, LDMPipeline

    import_checkpoint(checkpoint("ldm8_church"), "ldm8_church", tmp_path / "church")
    vae = AutoencoderKL.from_pretrained(tmp_path / "church/vae", low_cpu_mem_usage=False)
    assert vae.config.scaling_factor == 0.25 and vae.config.latent_channels == 4
    import_checkpoint(checkpoint("ldm4_bedroom"), "ldm4_bedroom", tmp_path / "bedroom")
    pipeline = LDMPipeline.from_pretrained(tmp_path / "bedroom", local_files_only=True, low_cpu_mem_usage=False)
    assert pipeline.vqvae.config.scaling_factor == 1.0
    torch.manual_seed(0)
    UNetModel(SHAPES["ldm4_bedroom"])
    stage, z = FirstStage(8, (1, 2), 3, 20, groups=4), torch.randn(1, 3, 4, 4)
    assert torch.allclose(pipeline.vqvae.decode(z).sample, stage.decode(z), atol=1e-5)


def test_the_classes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    import_checkpoint(checkpoint("ldm4_imagenet"), "ldm4_imagenet", tmp_path / "out")
    tensors = load_file(tmp_path / "out/class_embedding/diffusion_pytorch_model.safetensors")
    config = json.loads((tmp_path / "out/class_embedding/config.json").read_text())
    assert tensors["embedding.weight"].shape == (11, 6) and config["num_embeddings"] == 11
    assert json.loads((tmp_path / "out/unet/config.json").read_text())["_class_name"] == "UNet2DConditionModel"


def test_heads_survive_saving(tmp_path: Path) -> None:
    config = {**small("ldm8_church").networks[0].config}
    model = HeadsUNet2DModel(**config)
    model.save_pretrained(tmp_path)
    again = HeadsUNet2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert again.config["num_attention_heads"] == 4
    heads = [m for m in again.modules() if hasattr(m, "heads")]
    assert [(m.heads, round(m.scale**-2)) for m in heads] == [(4, m.inner_dim // 4) for m in heads] and len(heads) == 6
    assert len([u for u in UNetAdapter(again).units() if "samplers" in u]) == 2
    with pytest.raises(ModelError, match="cannot have 3 heads"):
        HeadsUNet2DModel(**{**config, "num_attention_heads": 3})
