"""`dmq import --as sd14`: the folder computes what the single file's networks do, and what is wrong or lacking is refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu

from dmq_cli.errors import ConfigError, DiskError, DmqError, MissingWeightsError, ModelError
from dmq_cli.models import load_adapter
from dmq_cli.models.conditions import load_conditions
from dmq_cli.models.first_stage import load_decoder
from dmq_cli.models.importers import convert, import_checkpoint, read_state
from tests.chain import dmq
from tests.models.importers.checkpoints import save
from tests.models.importers.miniatures import WORDS, single_file, stable_diffusion, vocabulary
from tests.models.importers.test_hostile import Reduced
from tests.models.importers.test_import import files
from tests.models.importers.test_numbers import TIMES, assert_agree, picture
from tests.tiny import one_sentence

pytestmark = pytest.mark.usefixtures("checkpoint")  # the recipe has few channels
TEXTS = {  # pieces by hand: "ab" ends a word, "ca" does not come about in "cab" because "ab" is joined first
    "A ab cab": [8, 3, 6, 2, 6, 9, 9, 9],
    "ca caa": [8, 2, 3, 7, 3, 9, 9, 9],
    "a b c a b c a b c": [8, 3, 4, 5, 3, 4, 5, 9],
    "": [8, 9, 9, 9, 9, 9, 9, 9],
}


def written(path: Path, state: dict[str, Any], **more: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        return path
    return save(path, {"state_dict": state, "global_step": 470000, **more})


def imported(folder: Path, name: str = "sd-v1-4.ckpt") -> Path:
    """The file of random networks, imported."""
    file = written(folder / name, single_file(stable_diffusion()))
    return import_checkpoint(file, "sd14", folder / "out", vocabulary(folder / "words")).folder


@pytest.fixture(scope="module", params=["sd-v1-4.ckpt", "sd-v1-4.safetensors"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_folder_computes_what_the_file_does(name: str, tmp_path: Path) -> None:
    out = imported(tmp_path, name)
    unet, stage, texts = stable_diffusion().values()
    (tmp_path / "prompts.txt").write_text("\n".join(text for text in TEXTS if text), encoding="utf-8")
    conditions = load_conditions(out, None, str(tmp_path / "prompts.txt"))
    assert conditions is not None
    context = conditions.of(range(3))["encoder_hidden_states"]
    tokens = torch.tensor(list(TEXTS.values()))
    assert_agree(context, texts(tokens[:3]))
    assert_agree(conditions.none()["encoder_hidden_states"], texts(tokens[3:]))
    assert float((context - texts(tokens[:3], gelu)).abs().max()) > 1e-4, "the activation counts"
    x = picture(4, 8, torch.float32)
    estimate = load_adapter(out).predict(x, TIMES, {"encoder_hidden_states": context})
    assert_agree(estimate, unet(x, TIMES, context))
    assert float((estimate - unet(x, TIMES, context.flip(0))).abs().max()) > 1e-3, "so does the text"
    decode = load_decoder(out)
    assert decode is not None
    assert_agree(decode(x), stage.decode(x / 0.18215))


def test_the_folder_is_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    out = imported(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(out, local_files_only=True, low_cpu_mem_usage=False)
    assert type(pipeline.scheduler) is PNDMScheduler and pipeline.scheduler.config.skip_prk_steps
    assert not pipeline.scheduler.config.set_alpha_to_one and pipeline.scheduler.config.steps_offset == 1
    assert pipeline.vae.config.scaling_factor == 0.18215 and pipeline.safety_checker is None
    assert pipeline.tokenizer.model_max_length == 8 and pipeline.text_encoder.config.hidden_act == "quick_gelu"
    assert pipeline.tokenizer("ca caa").input_ids == TEXTS["ca caa"][:6]
    assert json.loads((out / "model_index.json").read_text(encoding="utf-8"))["safety_checker"] == [None, None]
    tensors = read_state(out / "text_encoder" / "model.safetensors")[0]
    assert all(name.startswith("text_model.") for name in tensors), "as in the published folder"


def test_the_command(tmp_path: Path) -> None:
    file = written(tmp_path / "sd.safetensors", single_file(stable_diffusion()))
    command = ["import", str(file), "--as", "sd14", "--to", str(tmp_path / "models" / "out")]
    refused = dmq(*command)
    assert refused.code == 4 and "no folder with one was given" in refused.sentence
    assert "https://huggingface.co/openai/clip-vit-large-patch14" in refused.sentence
    assert not (tmp_path / "models").exists(), "before anything is written"
    done = dmq(*command, "--tokenizer", str(vocabulary(tmp_path / "words")), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["weights"] == "as stored"
    parts = ("scheduler/", "text_encoder/", "tokenizer/", "unet/", "vae/")
    assert all(
        entry.startswith(parts) or entry in ("imported.json", "model_index.json")
        for entry in files(tmp_path / "models/out")
    )
    assert dmq("doctor", f"model={tmp_path / 'models' / 'out'}").code == 0


def test_averages_of_the_full_file_are_taken(tmp_path: Path) -> None:
    networks = stable_diffusion()
    unet = networks["model.diffusion_model."].state_dict()
    averages = {f"model_ema.{f'diffusion_model.{k}'.replace('.', '')}": v + 1 for k, v in unet.items()}
    file = written(tmp_path / "full.ckpt", single_file(networks) | averages)
    done = import_checkpoint(file, "sd14", tmp_path / "out", vocabulary(tmp_path / "words"))
    assert done.average
    assert torch.equal(load_adapter(done.folder).model.state_dict()["conv_out.bias"], unet["out.2.bias"] + 1)


CLIP = "cond_stage_model.transformer.text_model."
WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "has 1 tensor (text_projection.weight)": lambda found: found.update(
        {"cond_stage_model.transformer.text_projection.weight": torch.ones(8, 8)}
    ),
    "has 1 tensor (cond_stage_model.logit_scale)": lambda found: found.update(
        {"cond_stage_model.logit_scale": torch.ones(1)}
    ),
    "has 1 tensor (logvar)": lambda found: found.update(logvar=torch.ones(1000)),
    "lacks 1 tensor (text_model.final_layer_norm.bias)": lambda found: found.pop(f"{CLIP}final_layer_norm.bias"),
    "of shape (8, 9)": lambda found: found.update({f"{CLIP}encoder.layers.1.mlp.fc2.weight": torch.ones(8, 9)}),
    "another noise schedule": lambda found: found.update(betas=found["betas"] * 2),
    "lacks 16 tensors": lambda found: [found.pop(key) for key in list(found) if ".encoder.layers.1." in key],
}  # fmt: skip


def refused(tmp_path: Path, file: Path, words: Path | None, kind: type[DmqError] = ModelError) -> str:
    """The sentence of an import, which leaves nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind) as caught:
        import_checkpoint(file, "sd14", tmp_path / "models" / "out", words)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "models"] == before
    return one_sentence(caught.value)


@pytest.mark.parametrize("words", WRONG)
def test_wrong_files(words: str, name: str, tmp_path: Path) -> None:
    state: dict[str, Tensor] = single_file(stable_diffusion())
    WRONG[words](state)
    assert words in refused(tmp_path, written(tmp_path / name, state), vocabulary(tmp_path / "words"))


def test_hostile_and_damaged_files(tmp_path: Path) -> None:
    words, marker = vocabulary(tmp_path / "words"), tmp_path / "ran"
    attack = Reduced(os.system, f"touch {marker}")
    state = single_file(stable_diffusion())
    refused(tmp_path, written(tmp_path / "a.ckpt", {**state, f"{CLIP}x": attack}), words)
    import_checkpoint(written(tmp_path / "b.ckpt", state, callbacks=[attack]), "sd14", tmp_path / "b", words)
    assert not marker.exists()
    whole = written(tmp_path / "c.safetensors", state).read_bytes()
    for content in (b"", whole[:-1], whole[:100], b"\xff" * 64, (tmp_path / "a.ckpt").read_bytes()):
        (tmp_path / "c.safetensors").write_bytes(content)
        assert "is not a whole safetensors file" in refused(tmp_path, tmp_path / "c.safetensors", words)
    assert "does not exist" in refused(tmp_path, tmp_path / "d.safetensors", words, MissingWeightsError)


def test_vocabularies_that_cannot_be(tmp_path: Path) -> None:
    file, words = tmp_path / "none.ckpt", vocabulary(tmp_path / "words")
    for number, wrong in enumerate([WORDS[1:], [*WORDS, "d"], [*WORDS[:-1], "d"]]):
        assert "needs a vocabulary of 10 words" in refused(tmp_path, file, vocabulary(tmp_path / str(number), wrong))
    (words / "vocab.json").write_text("[]", encoding="utf-8")
    assert "could not be read as JSON" in refused(tmp_path, file, words)
    (words / "merges.txt").unlink()
    assert "words has no merges.txt" in refused(tmp_path, file, words, MissingWeightsError)
    assert "has no vocab.json" in refused(tmp_path, file, tmp_path / "nowhere", MissingWeightsError)


def test_a_vocabulary_that_nobody_reads(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file, words = checkpoint("ddim_cifar10"), vocabulary(tmp_path / "words")
    with pytest.raises(ConfigError) as caught:
        import_checkpoint(file, "ddim_cifar10", tmp_path / "out", words)
    assert "reads no texts" in one_sentence(caught.value) and not (tmp_path / "out").exists()


def test_without_the_package_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, words = written(tmp_path / "sd.ckpt", single_file(stable_diffusion())), vocabulary(tmp_path / "words")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install" in refused(tmp_path, file, words, ConfigError)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file, words = written(tmp_path / "sd.ckpt", single_file(stable_diffusion())), vocabulary(tmp_path / "words")
    monkeypatch.setattr(convert, "write_tokenizer", full)
    assert "No space left" in refused(tmp_path, file, words, DiskError)
