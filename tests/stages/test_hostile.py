"""A run folder of a stranger's: loading it runs nothing that its configuration names, and reads no secret."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dmq_cli
from dmq_cli.errors import ArtifactCorruptError, ArtifactError, ConfigError, DmqError, ModelError
from dmq_cli.paths import conf_folder
from dmq_cli.sampling import Sampler
from dmq_cli.stages import build
from dmq_cli.stages.targets import allowed, check_targets
from dmq_cli.store import write_json
from tests.chain import TAC, dmq, words

Config = dict[str, Any]
yaml: Any = import_module("yaml")
OWN = f"{__name__}.Own"


class Evil:
    """Unpickling one leaves a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


class Own(Sampler):
    """Stands for a user's own class."""


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of dmq correct."""
    outputs = tmp_path_factory.mktemp("outputs")
    result = dmq(*words("correct", small, outputs, *TAC, "recon=none", "budget.num_samples=8"), "--json")
    assert result.code == 0, result.err
    return Path(json.loads(result.out)["run"])


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy whose links still lead to the artifacts."""
    copied = tmp_path / "run"
    shutil.copytree(finished, copied, symlinks=True)
    for link in (copied / "artifacts").iterdir():
        target = (finished / "artifacts" / link.name).resolve()
        link.unlink()
        link.symlink_to(target)
    return copied


def edit(run: Path, change: Callable[[Config], object]) -> None:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    change(config)
    write_json(run / "config.json", config)


def hostile(folder: Path, mark: Path) -> dict[str, Config]:
    """Sections that leave `mark` where something instantiates them."""
    torch.save(Evil(str(mark)), folder / "evil.pt")
    np.save(folder / "evil.npy", np.array([Evil(str(mark))], dtype=object), allow_pickle=True)
    (folder / "source").write_text("x", encoding="utf-8")
    touch = f"touch {mark}"
    python = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    system = {"_target_": "os.system", "_args_": [touch]}
    return {
        "collect_env": {"_target_": "torch.utils.collect_env.run", "command": touch},
        "torch.load": {"_target_": "torch.load", "f": str(folder / "evil.pt"), "weights_only": False},
        "numpy.load": {"_target_": "numpy.load", "file": str(folder / "evil.npy"), "allow_pickle": True},
        "copyfile": {"_target_": "shutil.copyfile", "src": str(folder / "source"), "dst": str(mark)},
        "system": system,
        "posix": {"_target_": "posix.system", "_args_": [touch]},
        "subprocess": {"_target_": "subprocess.check_output", "args": touch, "shell": True},
        "eval": {"_target_": "builtins.eval", "_args_": [python]},
        "exec": {"_target_": "builtins.exec", "_args_": [python]},
        "in a list": {"_target_": "dmq_cli.correct.NoCorrection", "_args_": [[{"deep": [system]}]]},
        "partial": {"_target_": "os.system", "_partial_": True, "_args_": [touch]},
        "not recursive": {"_target_": "dmq_cli.correct.NoCorrection", "_recursive_": False, "clamp": system},
        "interpolated": {"_target_": "${name}", "name": "os.system", "_args_": [touch]},
        "resolver": {"_target_": "${oc.decode:os.system}", "_args_": [touch]},
        "through ours": {"_target_": "dmq_cli.stages.build.torch.utils.collect_env.run", "command": touch},
        "own method": {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(mark)]}]},
        "write": {"_target_": "dmq_cli.store.write_json", "path": {"_target_": "pathlib.Path", "_args_": [str(mark)]}, "value": 1},
        "hydra": {"_target_": "hydra.utils.instantiate", "_args_": [system]},
        "no text": {"_target_": ["os.system"], "_args_": [touch]},
    }  # fmt: skip


NAMES = [
    "collect_env", "torch.load", "numpy.load", "copyfile", "system", "posix", "subprocess", "eval", "exec", "in a list",
    "partial", "not recursive", "interpolated", "resolver", "through ours", "own method", "write", "hydra", "no text",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_strangers_run_is_executed(name: str, run: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    section = hostile(tmp_path, mark)[name]
    before = (run / "config.json").read_bytes()
    places: list[Callable[[Config], object]] = [
        lambda config: config["correct"].update(clamp=section),
        lambda config: config.update(correct=section),
        lambda config: config.update(sampler=section),
        lambda config: config["scheme"]["rules"].append(section),
    ]
    for put in places:
        (run / "config.json").write_bytes(before)
        edit(run, put)
        with pytest.raises(ConfigError, match=r"was not run|resolved on the command line"):
            dmq_cli.load(run)
    with pytest.raises(ConfigError, match=r"was not run|resolved on the command line"):
        build.make(section)
    assert not mark.exists()


def test_the_effects_are_real(tmp_path: Path) -> None:
    """What the configurations above would do, if something did run them."""
    from hydra.utils import instantiate

    mark = tmp_path / "mark"
    sections, acted = hostile(tmp_path, mark), 0
    for name in ("collect_env", "torch.load", "numpy.load", "copyfile", "own method", "write", "through ours"):
        instantiate(sections[name])
        acted += mark.exists()
        mark.unlink(missing_ok=True)
    assert acted == 7


def test_no_secret_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMQ_SECRET", "hunter2")
    edit(run, lambda config: config["sampler"].update(num_inference_steps="${oc.env:DMQ_SECRET}"))
    with pytest.raises(ConfigError, match="interpolation") as caught:
        dmq_cli.load(run)
    assert "hunter2" not in str(caught.value)


def test_an_own_class_runs_on_the_command_line_and_is_loaded_by_name_only(finished: Path, small: Path) -> None:
    outputs = finished.parents[2]
    command = words("correct", small, outputs, *TAC, "recon=none", "budget.num_samples=8", f"sampler._target_={OWN}")
    result = dmq(*command, "--json")
    assert result.code == 0, result.err
    run = Path(json.loads(result.out)["run"])
    with pytest.raises(ConfigError, match=re.escape(f"sampler._target_ names '{OWN}'")):
        dmq_cli.load(run)
    assert type(dmq_cli.load(run, trusted=[OWN]).settings) is Own
    with pytest.raises(ConfigError):
        dmq_cli.load(run)  # not from then on


def test_allowed_is_what_the_yaml_files_name() -> None:
    named: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            if "_target_" in node:
                named.add(node["_target_"])
            node = list(node.values())
        for child in node if isinstance(node, list) else ():
            collect(child)

    for file in conf_folder().rglob("*.yaml"):
        if "hydra" not in file.relative_to(conf_folder()).parts:
            collect(yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader))
    assert allowed() == named and len(named) > 40
    check_targets({"a": [{"_target_": sorted(named)[0]}]}, allowed())


def test_the_run_is_loaded_without_its_links(finished: Path, run: Path, tmp_path: Path) -> None:
    assert dmq_cli.load(finished).settings == dmq_cli.load(run).settings
    shutil.rmtree(run / "artifacts")  # its configuration still says where the outputs are
    assert dmq_cli.load(run).settings.num_inference_steps == 4
    edit(run, lambda config: config["runtime"].update(outputs=str(tmp_path / "gone")))
    key = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["artifacts"]["reconstruct"]
    with pytest.raises(ArtifactError, match=f"its artifact reconstruct/{key} is not in .*gone.*copy it there"):
        dmq_cli.load(run)


def test_what_was_altered_is_not_loaded(finished: Path, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "artifacts")
    for stage in ("reconstruct", "correct"):
        shutil.copytree(finished / "artifacts" / stage, run / "artifacts" / stage)
    dmq_cli.load(run)
    for stage, name in (("correct", "tables"), ("reconstruct", "quantizers")):
        file = run / "artifacts" / stage / f"{name}.safetensors"
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ArtifactCorruptError, match=f"its file {name}.safetensors was altered"):
            dmq_cli.load(run)
        file.write_bytes(whole)
    (run / "artifacts" / "reconstruct").rename(run / "other")
    (run / "artifacts" / "correct").rename(run / "artifacts" / "reconstruct")
    (run / "other").rename(run / "artifacts" / "correct")
    with pytest.raises(ArtifactCorruptError, match="another artifact"):
        dmq_cli.load(run)


def test_a_configuration_that_was_edited_is_noticed(run: Path) -> None:
    edit(run, lambda config: config["scheme"]["rules"][0].update(bits=2))
    with pytest.raises(ArtifactCorruptError, match="made with another scheme"):
        dmq_cli.load(run)


def test_a_model_that_changed_since_is_noticed(run: Path, small: Path, tmp_path: Path) -> None:
    other = shutil.copytree(small, tmp_path / "other")
    edit(run, lambda config: config["model"].update(path=str(other)))
    assert dmq_cli.load(run).settings.num_inference_steps == 4
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match="sha256 changed since"):
        dmq_cli.load(run)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"model": 1}', "[" * 5000 + "]" * 5000, "{}"])
@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_malformed_files_are_one_sentence(name: str, content: str, run: Path) -> None:
    (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        dmq_cli.load(run)
    assert str(run) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "section", [{"_target_": "dmq_cli.ops.MinMax"}, {"_target_": "dmq_cli.correct.Tac", "_partial_": True}]
)
def test_another_class_of_ours_in_a_section_is_one_sentence(section: Config, run: Path) -> None:
    edit(run, lambda config: config.update(sampler=section))
    with pytest.raises(DmqError):
        dmq_cli.load(run)
