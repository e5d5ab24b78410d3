"""Find the weights of a feature extractor on this machine and check their sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NoReturn

from dmq_cli.errors import EvaluationError, MissingWeightsError
from dmq_cli.models.files import sha256_of
from dmq_cli.paths import resolve
from dmq_cli.store.hashing import digest

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
ALEXNET_SHA256 = "7be5be79"
"""The first eight digits, which torchvision puts into the file's name."""

FOLDERS = ("dinov2", "clip")
"""Networks in folders of transformers' layout; the others are single files. A protocol names the place of each as <name>_path."""

_REMEDY = {
    "digits_cnn": "dmq ships it and makes it again with: dmq train model=ddim_digits",
    "fashion_cnn": "dmq ships it and makes it again with: dmq train model=ddim_fashion train.unet=null",
    "inception-v3-compat": f"download {INCEPTION_URL} and give its place as protocol.extractor_path",
    "lpips": f"download {ALEXNET_URL} and give its place as protocol.lpips_path",
    "dinov2": "copy facebook/dinov2-large from the Hugging Face hub (config.json, model.safetensors) and give its folder as protocol.dinov2_path",
    "clip": (
        "copy openai/clip-vit-large-patch14 from the Hugging Face hub (config.json, model.safetensors and the tokenizer's files)"
        " and give its folder as protocol.clip_path"
    ),
}


def read_weights(extractor: str, path: str | None, sha256: str | None = None) -> tuple[bytes, str]:
    """Read the bytes of an extractor's weights file and hash them, without interpreting them.

    extractor: `digits_cnn`, `fashion_cnn`, `inception-v3-compat` or `lpips`; the last two must be the published files, as numbers of other weights
    could not be called FID or LPIPS. sha256: the expected one, or None. Raises MissingWeightsError (exit code 4) if there is no
    such file and EvaluationError if its hash differs.
    """
    file = _present(extractor, path, resolve(path) if path else None)
    data = file.read_bytes()
    actual = hashlib.sha256(data).hexdigest()
    published = {"inception-v3-compat": INCEPTION_SHA256, "lpips": ALEXNET_SHA256}.get(extractor, "")
    if not actual.startswith(published):
        _refuse(extractor, file, actual, published if len(published) == len(actual) else f"{published}...")
    _check(extractor, file, actual, sha256)
    return data, actual


def find_folder(extractor: str, path: str | None, sha256: str | None = None) -> tuple[Path, str]:
    """Find the folder of a transformers model and hash its model.safetensors, as shown on the hub.

    extractor: `dinov2` or `clip`. Errors as in `read_weights`.
    """
    folder = resolve(path) if path else None
    file = _present(extractor, path, folder and folder / "model.safetensors")
    _present(extractor, path, file.with_name("config.json"))
    actual = sha256_of(file)
    _check(extractor, file, actual, sha256)
    return file.parent, actual


def settings_sha256(folder: Path) -> str:
    """Hash the other files of a transformers model: configurations and a tokenizer's files."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in (".json", ".txt"))
    return digest([[file.name, sha256_of(file)] for file in files], length=64)


def _present(extractor: str, path: str | None, file: Path | None) -> Path:
    if file is None or not file.is_file():
        place = f"but {file} is not a file" if path else "but no path was given"
        raise MissingWeightsError(f"The weights of {extractor} were asked for, {place}; {_REMEDY[extractor]}")
    return file


def _check(extractor: str, file: Path, actual: str, expected: str | None) -> None:
    if expected is not None and actual != expected.lower():
        _refuse(extractor, file, actual, expected)


def _refuse(extractor: str, file: Path, actual: str, expected: str) -> NoReturn:
    raise EvaluationError(
        f"The weights of {extractor} must have the sha256 {expected}, but {file} has {actual}; {_REMEDY[extractor]}"
    )
