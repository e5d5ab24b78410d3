"""dmq doctor: what is here, what is not, in the same words as the jobs that need it; and models with random weights."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dmq_cli import choices
from dmq_cli.models import folder_sha256, identified
from dmq_cli.models.architectures import ARCHITECTURES
from dmq_cli.obtain import FASHION_FOLDER, fashion_missing
from dmq_cli.paths import PACKAGE, resolve
from dmq_cli.report.tables import table
from dmq_cli.stages.graph import identity
from dmq_cli.store import file_sha256
from dmq_cli.store.locking import kind_of
from dmq_cli.store.mounts import file_system
from tests.chain import FEW, dmq, tiny_folder

PAGE = PACKAGE.parent / "docs" / "guides" / "checkpoints.md"


def test_a_line_for_everything(tmp_path: Path) -> None:
    result = dmq("doctor", f"runtime.outputs={tmp_path}")
    assert (result.code, result.err) == (0, "doctor: looking at models, extractors and references ...\n")
    *lines, blank, summary = result.out.splitlines()
    assert blank == "" and re.search(r"models \d+ of \d+ present; extractors 2 of", summary)
    names = [(kind, name) for kind, name, *_ in map(str.split, lines)]
    assert [name for kind, name in names if kind == "model"] == choices.names("model")
    assert {("extractor", "digits_cnn"), ("extractor", "inception-v3-compat"), ("reference", "digits")} <= set(names)
    (clip,) = [line for line in lines if line.startswith("extractor") and " clip " in line]
    assert "missing" in clip and "copy openai/clip-vit-large-patch14" in clip and "protocol.clip_path" in clip
    (lock,) = [line for line in lines if line.startswith("lock ")]
    kind, system = kind_of("auto", tmp_path), file_system(tmp_path)
    assert re.search(
        rf"^lock +{kind} +present  {tmp_path} on {system}: (processes of one machine|many machines may) ", lock
    )
    here = {line.split()[1]: " present " in line for line in lines if line.startswith("reference")}
    assert here.pop("fashion") == (fashion_missing(FASHION_FOLDER) is None)
    assert here == {"adm": False, "coco-val2014": False, "digits": True, "digits32": True, "fid_torch_fidelity": False}
    states = [re.search(r" (present|missing) ", line) for line in lines]
    assert len({state.start() for state in states if state}) == 1 and all(states), "aligned"


def test_as_json_with_hashes(tmp_path: Path) -> None:
    rows = json.loads(dmq("doctor", "--json", f"runtime.outputs={tmp_path}").out)["doctor"]
    entries = {(row["kind"], row["name"]): row for row in rows}
    digits = entries["model", "ddim_digits"]
    weights = Path(digits["where"]) / "unet" / "diffusion_pytorch_model.safetensors"
    assert digits["state"] == "present" and digits["sha256"] == file_sha256(weights) and digits["advice"] is None
    sd14 = entries["model", "sd14"]
    assert sd14["state"] == "missing" and sd14["sha256"] is None and "dmq fetch model=sd14" in sd14["advice"]
    assert "sd-v1-4.ckpt and to FOLDER vocab.json" in sd14["advice"] and "--tokenizer FOLDER" in sd14["advice"]
    assert "LDM-4 of LSUN-Church" in entries["model", "ldm4_church"]["advice"]
    assert "dmq import model.ckpt --as ldm4_church" in entries["model", "ldm4_church"]["advice"]


@pytest.mark.parametrize("verb", ["evaluate", "calibrate"])
def test_a_missing_model_is_told_in_the_same_words(verb: str, tmp_path: Path) -> None:
    outputs = f"runtime.outputs={tmp_path}"
    report, needed = dmq("doctor", "model=ldm4", outputs), dmq(verb, "model=ldm4", outputs)
    assert (report.code, report.out) == (4, "") and needed.code == 4
    assert report.sentence == needed.sentence and "--as ldm4_bedroom" in report.sentence
    record = json.loads(dmq("doctor", "model=ldm4", outputs, "--json").out)
    assert record == {"error": report.sentence, "exit_code": 4}


def test_chosen_models_and_folders(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny")
    result = dmq("doctor", "model=ddim_digits", f"model={folder}", "-v")
    assert result.code == 0 and len(result.out.splitlines()) == 4 and str(folder) in result.out
    assert dmq("doctor", "model=ddim_digits", "-q").out == ""
    (folder / "scheduler" / "scheduler_config.json").unlink()
    result = dmq("doctor", f"model={folder},ddim_digits")
    assert result.code == 1 and "scheduler_config.json" in result.sentence and "ddim_digits" in result.out
    assert dmq("doctor", f"model={tmp_path / 'none'}").code == 4


def test_a_wrong_folder_is_wrong_and_the_others_are_shown(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "models" / "ddim_cifar10")
    outputs = f"runtime.outputs={tmp_path}"
    rows = json.loads(dmq("doctor", outputs, "--json").out)["doctor"]
    (row,) = [row for row in rows if row["name"] == "ddim_cifar10"]
    assert row["state"] == "wrong" and "was given as ddim_cifar10, but in_channels" in row["advice"]
    result = dmq("evaluate", "model=ddim_cifar10", outputs)
    assert result.code == 1 and result.sentence == row["advice"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["model=ldm"], "Did you mean ldm4?"),
        (["modell=ldm4"], "reads only model=NAME"),
        (["model="], "reads only model=NAME"),
    ],
)
def test_words_it_does_not_know(words: list[str], part: str) -> None:
    result = dmq("doctor", *words)
    assert result.code == 2 and part in result.sentence


def test_only_the_hash_of_a_model_is_in_keys_and_the_seed_of_random_weights() -> None:
    model = choices.model("ddim_digits")
    expected = {"sha256": folder_sha256(resolve(model["path"]))}
    assert identity(identified(model)) == expected, "what earlier versions keyed"
    more = {"latent": False, "expects": {"in_channels": 1}, "weights": "file", "seed": 3, "scaling_factor": 2.0}
    assert identity(identified({**model, **more})) == expected
    random = identity(identified({**choices.model("ddim_cifar10"), "weights": "random", "seed": 3}))
    assert set(random) == {"sha256", "weights", "seed"}


def test_random_weights_are_declared_in_everything_they_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((tiny_folder(tmp_path / "tiny") / "unet" / "config.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    (network,) = ARCHITECTURES["ddim_cifar10"].networks
    small = replace(ARCHITECTURES["ddim_cifar10"], networks=(replace(network, config=settings),))
    monkeypatch.setitem(ARCHITECTURES, "ddim_cifar10", small)
    command = ["evaluate", "model=ddim_cifar10", "model.weights=random", *FEW, f"runtime.outputs={tmp_path}"]
    command.append("sampler.spacing=uniform")
    result = dmq(*command)
    assert result.code == 0, result.err
    assert result.out.startswith("ddim_cifar10 (random weights) minmax w4a8")
    record = json.loads(dmq(*command, "--json").out)
    assert record["weights"] == "random" and record["config"]["model"]["seed"] == 0
    cell = tmp_path / "cells" / "one"
    cell.mkdir(parents=True)
    (cell / "metrics.json").write_text(json.dumps(record), encoding="utf-8")
    assert "| minmax (random weights) |" in table(tmp_path / "cells")
    other = json.loads(dmq(*command, "model.seed=1", "--json").out)
    assert not set(other["artifacts"].values()) & set(record["artifacts"].values())


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is in a checkout")
def test_every_model_is_in_the_documentation() -> None:
    rows = [line.split("|")[1].strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    named = {name for row in rows for name in row.split(", ")}
    assert [name for name in choices.names("model") if name not in named] == []
