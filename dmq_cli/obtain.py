"""Find the weights of models and the files of references, or say in one sentence how to get them. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.paths import resolve

WEIGHTS = "diffusion_pytorch_model.safetensors"
# of Stable Diffusion's tokenizer
VOCABULARY = "vocab.json and merges.txt of https://huggingface.co/openai/clip-vit-large-patch14"

REFERENCES = {"digits": 16, "digits32": 32}
"""The references that come with scikit-learn, and the side of their images."""

FASHION = "fashion"
"""The reference, and the data set, that is read from the idx files of Fashion-MNIST."""

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the idx files."""

FASHION_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def reference_file(name: str, path: str | None, outputs: str | Path) -> Path | None:
    """The file of a reference, whether it exists or not: `path`, or where it is built; None for one that comes with scikit-learn.

    Of Fashion-MNIST it is the folder of its files.
    """
    if name == FASHION:
        return fashion_folder(path)
    if path is not None:
        return resolve(path)
    return None if name in REFERENCES else built_reference(name, outputs)


def fashion_folder(path: str | None) -> Path:
    """The folder of Fashion-MNIST's idx files: `path`, or Debian's."""
    return FASHION_FOLDER if path is None else resolve(path)


def fashion_file(folder: Path, name: str) -> Path | None:
    """Find an idx file by its published name, as it is or with .gz; None where the folder has neither."""
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def fashion_missing(folder: Path) -> str | None:
    """Write how to get Fashion-MNIST, in one sentence; None if its four files are in the folder."""
    lacking = [name for name in FASHION_FILES if fashion_file(folder, name) is None]
    if not lacking:
        return None
    return (
        f"Fashion-MNIST was to be read from {folder}, but {lacking[0]}[.gz] is not there; install it with: apt install"
        " dataset-fashion-mnist; or give the folder of its four idx files as data.path=FOLDER."
    )


def built_reference(name: str, outputs: str | Path) -> Path:
    """The file that `dmq reference build --as NAME` writes."""
    return Path(outputs).expanduser().absolute() / "references" / f"{name}.safetensors"


def find_network(path: Path) -> Path | None:
    """Find the folder with the network's config.json: `path`/unet or `path`/transformer in a pipeline, or `path` itself."""
    return next((f for f in (path / "unet", path / "transformer", path) if (f / "config.json").is_file()), None)


def has_weights(folder: Path) -> bool:
    """Whether a network's folder has weights in a form that dmq reads: one file, or an index of shards."""
    return any((folder / name).is_file() for name in (WEIGHTS, f"{WEIGHTS}.index.json"))


def missing(model: Mapping[str, Any]) -> str | None:
    """Write how to get the weights of a model of conf/model, in one sentence; None if they exist, or if that is not known.

    Weights are missing where the folder does not exist or has no safetensors weights; their content is checked elsewhere.
    """
    path = resolve(model["path"])
    folder = find_network(path)
    if (
        not {"source", "made_with"} & set(model)
        or (folder is None and path.is_dir())
        or (folder and has_weights(folder))
    ):
        return None
    problem = f"{folder} has no {WEIGHTS}" if folder else f"{path} does not exist"
    return f"The weights of {model['name']} were asked for, but {problem}; {remedy(model)}."


def remedy(model: Mapping[str, Any]) -> str:
    """Write the half of a sentence that says how to get a model with a `source`, or with a command in `made_with`."""
    ways = ["give the place of a diffusers folder as model.path=FOLDER"]
    if "source" not in model:
        return "; or ".join([f"make them with: {model['made_with']}", *ways])
    name, source = model["name"], model["source"]
    if source["import"]:
        texts = " --tokenizer FOLDER" if source.get("texts") else ""
        command = f"dmq import model.ckpt --as {source['import']}{texts}{_to(model, source['import'])}"
        ways.insert(0, f"{_original(source)} and convert it with: {command}")
    if source["repo"]:
        command = f"dmq fetch model={name}{_to(model, name)}"
        ways.insert(0, f"fetch them from https://huggingface.co/{source['repo']} with: {command}")
    return "; or ".join(ways)


def _original(source: Mapping[str, Any]) -> str:
    """Write how to get the files for `dmq import`. note: a hint; texts: it needs a vocabulary."""
    if source["url"]:
        more = f" and to FOLDER {VOCABULARY}" if source.get("texts") else ""
        return f"download {source['url']}" + (", unpack it" if source["url"].endswith(".zip") else more)
    return str(source.get("note", "take the original checkpoint"))


def _to(model: Mapping[str, Any], name: str) -> str:
    """The --to option with which a command writes to this model's path, "" where that is the default."""
    path = resolve(model["path"])
    return "" if path == Path("outputs", "models", name).absolute() else f" --to {shlex.quote(str(path))}"
