"""dmq fetch: what it takes from a repository, that it is checked, and that a failure leaves nothing."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.errors import ConfigError, MissingWeightsError, ModelError
from dmq_cli.models import folder_sha256
from dmq_cli.models.fetch import fetch_model, needed
from dmq_cli.obtain import WEIGHTS
from tests.chain import dmq, tiny_folder
from tests.models.hub import serving
from tests.tiny import one_sentence

SD14 = [
    ".gitattributes",
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "scheduler/scheduler_config.json",
    "sd-v1-4.ckpt",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.bin",
]


def model(repo: str | None = "me/tiny", **more: Any) -> dict[str, Any]:
    source = {"repo": repo, "url": None, "import": "ldm4_church", "note": "nobody published it"}
    return {"name": "tiny", "path": "/nowhere/tiny", "source": source, **more}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A repository: a model with a first stage that does not say its scale, and things that nobody needs."""
    folder = tiny_folder(tmp_path / "published")
    (folder / "vqvae").mkdir()
    (folder / "vqvae" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "vqvae" / "diffusion_pytorch_model.safetensors").write_bytes(b"tensors")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("about", encoding="utf-8")
    return folder


def test_the_needed_files_of_a_repository() -> None:
    assert needed(SD14) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    bare = ["config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json"]
    assert needed([*bare, "diffusion_pytorch_model.bin", "train.py", "logs/config.json"]) == bare
    assert needed(["../config.json", "unet/../../config.json", "unet/x/config.json", "tokenizer/../a.json"]) == []


def test_a_model_from_a_hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(published, "me/tiny") as (endpoint, sent):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        digest = fetch_model(model(latent=True, scaling_factor=1.0), tmp_path / "new" / "tiny", quiet=True)
    assert digest == folder_sha256(tmp_path / "new" / "tiny") == folder_sha256(published)
    assert "README.md" not in sent and not any(name.endswith(".bin") for name in sent)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiny"]
    files = {str(f.relative_to(tmp_path / "new" / "tiny")) for f in (tmp_path / "new").rglob("*") if f.is_file()}
    networks = {f"{part}/{name}" for part in ("unet", "vqvae") for name in ("config.json", WEIGHTS)}
    assert files == {"scheduler/scheduler_config.json", *networks}
    stage = json.loads((tmp_path / "new" / "tiny" / "vqvae" / "config.json").read_text(encoding="utf-8"))
    assert stage == {"scaling_factor": 1.0}, "older than the key"


def test_another_model_than_it_should_be_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(published, "me/tiny") as (endpoint, sent):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(ModelError, match="parameters and not 274,056,163"):
            fetch_model(model(parameters=274_056_163), tmp_path / "new" / "tiny", quiet=True)
        assert sent
        sent.clear()
        for part in ("vqvae", "unet"):
            (published / part / WEIGHTS).unlink()
            with pytest.raises(MissingWeightsError, match=f"{part}/ has no weights in safetensors") as caught:
                fetch_model(model(), tmp_path / "new" / "tiny", quiet=True)
            assert "no pickles" in one_sentence(caught.value) and sent == []
            (published / part / WEIGHTS).write_bytes(b"tensors")
        with pytest.raises(MissingWeightsError) as caught:
            fetch_model(model("me/other"), tmp_path / "new" / "tiny", quiet=True)
        assert "404" in one_sentence(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_no_network_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        result = dmq("fetch", "model=ddim_cifar10", f"runtime.outputs={tmp_path / 'out'}")
    assert result.code == 4, result.err
    assert "google/ddpm-cifar10-32 was to be fetched from http://127.0.0.1" in result.sentence
    assert "model.path=FOLDER" in result.sentence
    assert [path for path in tmp_path.rglob("*") if path.name != "models" and path.name != "out"] == []


def test_what_cannot_be_fetched(tmp_path: Path) -> None:
    result = dmq("fetch", "model=ldm4_ffhq", f"runtime.outputs={tmp_path}")
    assert result.code == 4 and "dmq import model.ckpt --as ldm4_ffhq" in result.sentence
    assert dmq("doctor", "model=ldm4_ffhq", f"runtime.outputs={tmp_path}").sentence == result.sentence
    assert "nothing to fetch" in dmq("fetch", "model=ddim_digits").sentence
    with pytest.raises(ConfigError, match="exists already"):
        fetch_model(model(), tmp_path)
    for words, part in ((["model=ldm44"], "Did you mean ldm4?"), ([], "given 0"), (["model=sd14,ldm4"], "given 2")):
        result = dmq("fetch", *words)
        assert result.code == 2 and part in result.sentence


@pytest.mark.network
def test_the_smallest_published_model(tmp_path: Path) -> None:
    result = dmq("fetch", "model=ddim_cifar10", "--to", str(tmp_path / "cifar"))
    assert result.code == 0, result.err
    assert dmq("doctor", f"model={tmp_path / 'cifar'}").code == 0
