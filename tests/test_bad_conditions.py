"""Conditional and latent models given what they cannot take: one sentence, the exit code, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import pipelines
from tests.chain import FEW, dmq, tiny_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    models = {kind: make(base / kind) for kind, make in pipelines.FOLDERS.items()}
    return {**models, "pixels": tiny_folder(base / "pixels")}


def refused(folder: Path, outputs: Path, *words: str) -> tuple[int, str]:
    """Exit code and sentence of `evaluate`, which must not have left an artifact."""
    result = dmq("evaluate", f"model={folder}", *FEW, f"runtime.outputs={outputs}", *words)
    assert result.code and not list(outputs.glob("artifacts/*/*")), result.out
    assert result.sentence.endswith("."), result.sentence
    return result.code, result.sentence


GUIDED = "cond.guidance=2"
CASES: list[tuple[str, tuple[str, ...], int, str]] = [
    ("pixels", (GUIDED,), 2, "this model is unconditional"),
    ("latent", (GUIDED,), 2, "this model is unconditional"),
    ("pixels", ("cond.classes=[1]",), 2, "has no classes"),
    ("transformer", ("cond.classes=[3,10]",), 2, "class 10 is none of them; use 0 to 9"),
    ("tokens", ("cond.classes=[-1]",), 2, "class -1 is none of them"),
    ("transformer", ("cond.prompts=p.txt",), 2, "reads no texts"),
    ("prompts", (), 2, "no texts were given"),
    ("prompts", ("cond.prompts=nowhere.txt",), 2, "is no file"),
    ("transformer", ("cond.guidance=-1",), 2, "at least 0"),
    ("transformer", ("cond.guidance=much",), 2, "give a number"),
    ("transformer", ("correct.target=uncond", "method=tac"), 2, "there is no guidance"),
    ("transformer", (GUIDED, "correct.target=left", "method=tac"), 2, "correct.target=left is not possible"),
    ("transformer", (GUIDED, "correct.target=uncond", "method=ptqd"), 2, "guided estimate"),
    ("transformer", ("calib=tdac",), 2, "has none there"),
]


@pytest.mark.parametrize(("kind", "words", "code", "part"), CASES)
def test_settings(
    kind: str, words: tuple[str, ...], code: int, part: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    exit_code, sentence = refused(folders[kind], tmp_path / "outputs", *words)
    assert exit_code == code and part in sentence, sentence


@pytest.mark.parametrize(("content", "part"), [(b"", "holds no prompt"), (b"caf\xe9\n", "is not UTF-8")])
def test_prompt_files(content: bytes, part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(content)
    code, sentence = refused(folders["prompts"], tmp_path / "outputs", f"cond.prompts={tmp_path / 'mine.txt'}")
    assert code == 2 and part in sentence


def changed(file: str, **entries: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps({**config, **entries}), encoding="utf-8")

    return change


DAMAGED: list[tuple[str, Callable[[Path], None], str]] = [
    ("latent", changed("vqvae/config.json", scaling_factor=0), "scaling_factor=0"),
    ("latent", changed("vqvae/config.json", scaling_factor="1"), "scaling_factor=1"),
    ("latent", changed("vqvae/config.json", _class_name="AutoencoderTiny"), "to be a VQModel, but vqvae/config.json says"),
    ("tokens", changed("vqvae/config.json", _class_name="AutoencoderTiny"), "is a AutoencoderTiny"),
    ("latent", lambda folder: (folder / "vqvae" / "diffusion_pytorch_model.safetensors").unlink(), "has no diffusion_pytorch"),
    ("latent", changed("scheduler/scheduler_config.json", prediction_type="flow_prediction"), "has to be epsilon or v_prediction or sample"),
    ("transformer", changed("scheduler/scheduler_config.json", variance_type="learned_range"), "predict its variance"),
    ("tokens", lambda folder: shutil.rmtree(folder / "class_embedding"), "neither text_encoder/ nor class_embedding/"),
    ("prompts", lambda folder: shutil.rmtree(folder / "tokenizer"), "has no tokenizer/"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "damage", "part"), DAMAGED)
def test_folders(
    kind: str, damage: Callable[[Path], None], part: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[kind], tmp_path / "model"))
    damage(folder)
    words = pipelines.settings(kind, folder)[1:]
    code, sentence = refused(folder, tmp_path / "outputs", *words)
    assert code in (1, 2, 4) and part in sentence, sentence
