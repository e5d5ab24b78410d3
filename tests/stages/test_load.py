"""Ways out of a loaded run: each keeps all of it, or says what it would lose."""

from __future__ import annotations

import copy
import io
import json
import logging
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

import dmq_cli
from dmq_cli.errors import ConfigError, ModelError
from dmq_cli.models import Numerics
from dmq_cli.models.conditions import Classes, Prompts
from dmq_cli.sampling import Guide
from dmq_cli.sampling.pipeline import guide_for
from dmq_cli.stages.load import Loaded
from dmq_cli.wrap import attach
from tests import families, pipelines
from tests.chain import artifact, dmq, words
from tests.tiny import TIMESTEPS, one_sentence, wrapped

FEW = ("seeds=0-3", "sampler.num_inference_steps=3")


def sampled(model: Path, outputs: Path, *more: str) -> tuple[Loaded, Any]:
    """A run of `dmq sample`, and the pixels that it left."""
    result = dmq(*words("sample", model, outputs, "method=minmax", *FEW, *more, "--json"))
    assert result.code == 0, result.err
    pixels = np.load(artifact(outputs, "sample") / "images.npz")["arr_0"]
    return dmq_cli.load(json.loads(result.out)["run"]), pixels


@pytest.fixture(scope="module")
def corrected(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Any]:
    more = ("correct=tac", "correct.seeds=2000000-2000003", "bits=w3a8", "protocol.to_uint8=round")
    return sampled(small, tmp_path_factory.mktemp("outputs"), *more)


def test_a_pipeline_draws_what_the_run_drew(corrected: tuple[Loaded, Any]) -> None:
    loaded, pixels = corrected
    pipeline, images = loaded.as_pipeline(), loaded.sample("0-3")
    assert isinstance(pipeline, diffusers.DiffusionPipeline) and pipeline.unet is loaded.network
    assert np.array_equal(np.stack([np.asarray(image)[..., None] for image in pipeline(seeds="0-3").images]), pixels)
    torch.testing.assert_close(
        pipeline(seeds=[2, 0], output_type="pt").images * 2 - 1, images[[2, 0]], rtol=0, atol=1e-5
    )
    each = [torch.Generator().manual_seed(seed) for seed in range(4)]
    (batch,) = pipeline(batch_size=4, generator=each, output_type="np", return_dict=False)
    np.testing.assert_allclose(batch * 2 - 1, images.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-5)
    assert len(pipeline(batch_size=2, num_inference_steps=3).images) == 2
    assert set(pipeline.components) == {"unet"} and pipeline.to("cpu") is pipeline


def test_it_is_the_correction_that_a_bare_network_would_lose(corrected: tuple[Loaded, Any]) -> None:
    loaded, _ = corrected
    other = copy.deepcopy(loaded)
    assert torch.equal(other.sample("0-3"), loaded.sample("0-3")), "a copy keeps quantizers and correction"
    full = (loaded.as_pipeline()(seeds="0-3", output_type="pt").images * 2 - 1 - loaded.sample("0-3")).abs().mean()
    other.correction = None
    assert full < 1e-6 < 1e-3 < (other.sample("0-3") - loaded.sample("0-3")).abs().mean()


def test_a_corrected_network_is_not_called_by_others(corrected: tuple[Loaded, Any]) -> None:
    loaded = copy.deepcopy(corrected[0])
    scheduler = diffusers.DDIMScheduler()
    theirs: Any = diffusers.DDIMPipeline(unet=loaded.network, scheduler=scheduler)
    theirs.set_progress_bar_config(disable=True)
    copied: Any = copy.deepcopy(loaded.network)
    calls: list[Any] = [lambda: theirs(num_inference_steps=2), lambda: copied(torch.zeros(1, 1, 8, 8), 9)]
    for call in calls:
        with pytest.raises(ConfigError, match=r"leave its correction out; .*as_pipeline\(\)") as error:
            call()
        one_sentence(error.value)
    sample, timestep = torch.zeros(2, 1, 8, 8), loaded.scheduler.timesteps[:1]
    with torch.no_grad():
        bare = loaded.uncorrected_network(sample, timestep, return_dict=False)[0]
        assert torch.equal(bare, loaded.estimator(sample, timestep)) and not torch.equal(bare, loaded(sample, timestep))


def test_an_uncorrected_network_works_in_their_pipeline(corrected: tuple[Loaded, Any]) -> None:
    loaded = copy.deepcopy(corrected[0])
    loaded.correction = None
    scheduler = diffusers.DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False)
    theirs: Any = diffusers.DDIMPipeline(unet=loaded.uncorrected_network, scheduler=scheduler)
    theirs.set_progress_bar_config(disable=True)
    each = [torch.Generator().manual_seed(seed) for seed in range(2)]
    images = theirs(batch_size=2, generator=each, num_inference_steps=3, output_type="np").images
    assert loaded.scheduler.timesteps.tolist() == theirs.scheduler.timesteps.tolist()
    np.testing.assert_allclose(images * 2 - 1, loaded.sample("0-1").permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-5)


def test_nothing_is_saved_without_its_quantizers(corrected: tuple[Loaded, Any], tmp_path: Path) -> None:
    loaded, _ = corrected
    theirs, pipeline = diffusers.DDIMPipeline(loaded.network, diffusers.DDIMScheduler()), loaded.as_pipeline()
    network: Any = loaded.network
    for save in (
        network.save_pretrained,
        network.push_to_hub,
        theirs.save_pretrained,
        pipeline.save_pretrained,
        pipeline.push_to_hub,
    ):
        with pytest.raises(ModelError, match=r"lose its quantizers; .* dmq export") as error:
            save(str(tmp_path / "saved"))
        one_sentence(error.value)
    assert not list(tmp_path.rglob("*.safetensors"))
    memory = io.BytesIO()
    torch.save(loaded.network, memory)  # a pickle of modules keeps everything
    memory.seek(0)
    back = torch.load(memory, weights_only=False)
    assert {name: b.shape for name, b in back.named_buffers()} == {
        n: b.shape for n, b in loaded.network.named_buffers()
    }
    with pytest.raises(ModelError):
        back.save_pretrained(tmp_path)


def test_attention_processors_stay() -> None:
    attached = attach(families.adapter("cond_unet"), families.plain(), TIMESTEPS)
    model: Any = attached.model
    changes = [
        lambda: model.set_attn_processor(AttnProcessor()),
        model.fuse_qkv_projections,
    ]
    changes += [
        lambda: model.set_attention_slice("max"),
        lambda: model.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(None),
    ]
    for change in changes:
        with pytest.raises(ModelError, match="attention processor of the quantized network"):
            change()
    kinds = [
        type(model.get_submodule(attention.name).processor).__name__ for attention in attached.adapter.attentions()
    ]
    assert len(kinds) > 4 and set(kinds) == {"QuantAttention"}


def test_half_a_network_keeps_its_scales(corrected: tuple[Loaded, Any]) -> None:
    moved, applied = copy.deepcopy(corrected[0]), copy.deepcopy(corrected[0])
    moved.as_pipeline().to(torch.float16)
    Numerics("float16").apply(applied.network, list)
    after = dict(moved.network.named_parameters())
    assert after["conv_in.weight"].dtype == torch.float16 and "conv_in.input_quantizer.scale.scale" in after
    for name, value in corrected[0].network.named_parameters():
        assert "_quantizer." not in name or (after[name].dtype == torch.float32 and torch.equal(after[name], value))
    assert torch.equal(moved.sample("0-3"), applied.sample("0-3")), "what numerics=fp16 samples"
    assert wrapped(dtype=torch.float32).model.double().conv_in.input_quantizer.scale.scale.dtype == torch.float64  # type: ignore[union-attr]


def test_a_loop_of_ones_own_is_told_once_what_it_leaves_out(
    corrected: tuple[Loaded, Any], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = copy.deepcopy(corrected[0])
    loaded._warned = False
    with caplog.at_level(logging.WARNING, logger="dmq"):
        for _ in range(2):
            loaded(torch.zeros(1, 1, 8, 8), loaded.scheduler.timesteps[:1])
    assert sum("as_pipeline() apply the whole correction" in text for text in caplog.messages) <= 1


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"num_inference_steps": 7}, "num_inference_steps=7, but its correction was estimated with 3"),
        ({"guidance_scale": 7.5}, "guidance_scale=7.5"),
        ({"output_type": "latent"}, "output_type latent is not known; use pil or np or pt"),
        ({"prompt": "seven"}, "prompt=seven, but the model of its run reads no such thing"),
        ({"class_labels": [7]}, "class_labels="),
        ({"seeds": "0-3", "batch_size": 3}, "4 seeds, but batch_size says 3"),
        ({"seeds": "0-3", "generator": torch.Generator()}, "seeds and a generator"),
        ({"generator": torch.Generator(), "batch_size": 2}, "give a list of 2"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(given: dict[str, Any], part: str, corrected: tuple[Loaded, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        corrected[0].as_pipeline()(**given)
    assert part in one_sentence(error.value)


def test_its_parts_are_not_exchanged_and_its_noise_is_that_of_seeds(corrected: tuple[Loaded, Any]) -> None:
    pipeline, used = corrected[0].as_pipeline(), torch.Generator().manual_seed(3)
    for name in ("scheduler", "unet"):
        with pytest.raises(ConfigError, match=f"was to get another {name}"):
            setattr(pipeline, name, None)
    torch.randn(1, generator=used)
    with pytest.raises(ConfigError, match="has been drawn from already"):
        pipeline(generator=used)


def test_a_guided_text_model_of_latents(tmp_path: Path) -> None:
    model = pipelines.prompts(tmp_path / "model")
    settings = [word for word in pipelines.settings("prompts", model) if not word.startswith("model=")]
    loaded, pixels = sampled(model, tmp_path / "out", *settings, *FEW)
    pipeline = loaded.as_pipeline()
    assert np.array_equal(np.stack([np.asarray(sample)[..., None] for sample in pipeline(seeds="0-3").images]), pixels)
    conditions: Any = loaded.guide.conditions
    again = pipeline(conditions.subjects(range(4)), seeds="0-3", output_type="pt").images
    torch.testing.assert_close(again * 2 - 1, loaded.sample("0-3"), rtol=0, atol=1e-5)
    sample = pipeline(conditions.subjects([1])[0], seeds=[0, 1], output_type="pt").images * 2 - 1
    torch.testing.assert_close(sample[1:], loaded.sample("1-1"), rtol=0, atol=1e-5)


def test_what_is_asked_for_is_told_to_the_model_image_by_image() -> None:
    prompts = Prompts(["a", "bb"], lambda text: torch.full((2, 3), float(len(text))))
    guide = guide_for(Guide(prompts, 4.0), ["ccc", "a", "bb"], None, 3)
    rows: Any = guide.cond([70, 80, 90])
    assert rows["encoder_hidden_states"][:, 0, 0].tolist() == [3, 1, 2] and guide.scale == 4.0
    classes = guide_for(Guide(Classes(range(10), 10)), None, 7, 2)
    labels: Any = classes.cond([0, 1])
    assert labels["class_labels"].tolist() == [7, 7] and prompts.prompts == ["a", "bb"]
    with pytest.raises(ConfigError, match="class_labels has 12"):
        guide_for(Guide(Classes(range(10), 10)), None, [12], 1)
