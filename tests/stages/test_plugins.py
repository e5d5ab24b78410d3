"""Code that is not dmq's: it is in the key of every stage that it has a part in, and what is wrong with it is told first."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import platform
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import dmq_cli
from dmq_cli.errors import ArtifactError, ConfigError
from dmq_cli.results import later
from dmq_cli.stages.graph import Graph, identity
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.plugins import code_of, resolve
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.targets import allowed
from dmq_cli.stages.validate import check_types
from dmq_cli.store import ArtifactStore
from tests.chain import ONLY_FD, artifacts, counting, dmq, images, tiny_folder, words
from tests.test_conf import composed
from tests.tiny import SMALL, one_sentence

SHIFT = """
from dataclasses import dataclass
import torch
from {helper} import amount

class Used:
    def __init__(self, shift):
        self.shift = shift
    def pre(self, sample, call):
        return sample
    def post(self, eps, call):
        return eps + self.shift
    def variance(self, sigma, noise_gain, call):
        return sigma

@dataclass(frozen=True)
class Shift:
    seeds: str = "2000000-2000003"
    name: str = "constant"
    def check(self, eta): ...
    def estimate(self, full, quantized, scheduler, shape, eta, report=None, guide=None):
        return {{"shift": torch.tensor(amount())}}
    def shapes(self, calls, shape, guided):
        return {{"shift": ()}}
    def load(self, tensors):
        return Used(tensors["shift"])
    def cost(self, calls):
        return 8.0 * calls
"""
FEWER = (*ONLY_FD, "seeds=0-7", "protocol.num_images=8", "sampler.num_inference_steps=2")
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """write(text, name) puts a module onto the path of imports and gives its name, which no other test has."""
    folder, before = tmp_path / "mine", set(sys.modules)
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    tag = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]

    def put(text: str, name: str = "own") -> str:
        file = folder / f"{name.replace('TAG', tag)}.py" if "TAG" in name else folder / f"{name}_{tag}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("TAG", tag), encoding="utf-8")
        os.utime(file, (1, 1))  # the same second, whenever it is written
        importlib.invalidate_caches()
        return str(file.relative_to(folder).with_suffix("")).replace("/", ".")

    yield put
    for name in set(sys.modules) - before:
        if tag in name:
            del sys.modules[name]


def own(target: str, *more: str) -> list[str]:
    return ["method=minmax", f"++correct._target_={target}", *more]


def config(*more: str) -> dict[str, Any]:
    return composed(*more)


def code(target: str, section: str = "correct") -> str:
    (fingerprint,) = code_of({section: {"_target_": target}}, [section])[section].values()
    return fingerprint


def prepared(model: Path, *more: str) -> dict[str, Any]:
    return prepare({**composed("model=folder", f"model.path={model}", "model.name=tiny", *more), "stage": "sample"})


def test_a_change_of_own_code_is_computed_and_told(tmp_path: Path, write: Write) -> None:
    model = tiny_folder(tmp_path / "model", **SMALL)
    helper = write("def amount(): return 0.125\n", "helper")
    target = f"{write(SHIFT.format(helper=helper))}.Shift"
    command = words("evaluate", model, tmp_path, *own(target), *FEWER, "--json")
    with counting() as ran:
        first = dmq(*command)
    assert first.code == 0, first.err
    assert "correct" in ran
    before = images(tmp_path, "sample")
    with counting() as ran:
        assert dmq(*command).code == 0
    assert ran == []

    write("def amount(): return 0.875\n", "helper")  # of the same length, in the same second
    plan = json.loads(dmq("plan", "evaluate", *command[1:]).out)["plan"]
    missing = {row["stage"]: row["why"] for row in plan if not row["cached"]}
    assert missing == {
        "correct": f"differs in the code of {target}",
        "sample": f"differs in the code of {target}",
        "evaluate": "something upstream is new",
    }
    with counting() as ran:
        second = dmq(*command)
    assert ran == ["correct", "sample", "evaluate"] and artifacts(tmp_path)["correct"] == 2
    runs = [json.loads(result.out)["run"] for result in (first, second)]
    pixels = [np.load(Path(run) / "artifacts" / "sample-0-7" / "images.npz")["arr_0"].astype(int) for run in runs]
    assert np.array_equal(pixels[0], before) and np.abs(pixels[1] - before).mean() > 1
    compared = dmq("compare", *runs)
    assert f"code.correct.{target}" in compared.out and "nothing differs" not in compared.out.split("machine")[0]

    assert dmq_cli.load(runs[1], trusted=[target]).sample("0-1").isfinite().all()
    with pytest.raises(ArtifactError, match=r"made with another own_\w+.Shift") as error:
        dmq_cli.load(runs[0], trusted=[target])
    one_sentence(error.value)


def test_it_is_in_the_keys_of_what_reads_it_and_of_what_follows(small: Path, tmp_path: Path, write: Write) -> None:
    target = f"{write(SHIFT.format(helper=write('def amount(): return 1.0', 'helper')))}.Shift"
    graph = Graph(NODES, ArtifactStore(tmp_path), Progress(quiet=True))
    keys = []
    for text in ("def amount(): return 1.0", "def amount(): return 2.0"):
        write(text, "helper")
        settings = prepared(small, *own(target))
        keys.append({name: graph.key(name, settings) for name in NODES})
    assert {name for name in NODES if keys[0][name] != keys[1][name]} == {
        "correct",
        "sample",
        "trace",
        "evaluate",
        "export",
    }
    assert "code" not in prepared(small) and "code" not in prepare({**prepared(small), "code": {"correct": {"x": "y"}}})


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        ({"own": "class A: ...\n"}, "own"),
        ({"own": "import base_TAG\nclass A(base_TAG.B): ...\n", "base": "class B: ...\n"}, "base"),
        ({"own": "class A:\n def f(self):\n  import late_TAG\n", "late": "X = 1\n"}, "late"),
        ({"own": "import importlib\nm = importlib.import_module('named_TAG')\nclass A: ...\n", "named": "X = 1\n"}, "named"),
        ({"own": "from importlib import import_module as i\nm = i('na' + 'med_TAG')\nclass A(m.B): ...\n", "named": "class B: ...\n"}, "named"),
        ({"own": "from one_TAG import x\nclass A: ...\n", "one": "from two_TAG import *\n", "two": "x = 1\n"}, "two"),
        ({"own": "from packTAG.inner import A\n", "packTAG/__init__": "", "packTAG/inner": "from .deep import A\n", "packTAG/deep": "class A: ...\n"}, "packTAG/deep"),
        ({"own": "from packTAG import inner\nclass A: ...\n", "packTAG/__init__": "y = 1\n", "packTAG/inner": "x = 1\n"}, "packTAG/__init__"),
        ({"own": "from spaceTAG import inner\nclass A: ...\n", "spaceTAG/inner": "x = 1\n"}, "spaceTAG/inner"),
    ],
)  # fmt: skip
def test_whatever_own_file_is_changed_the_code_is_another(files: dict[str, str], changed: str, write: Write) -> None:
    for name, text in reversed(files.items()):
        module = write(text, name)
    module = write(files["own"], "own")
    before = code(f"{module}.A")
    assert len(before) == 32 and code(f"{module}.A") == before
    write(files[changed] + "z = 2\n", changed)
    after = code(f"{module}.A")
    write(files[changed], changed)
    assert after != before == code(f"{module}.A")
    write("class C: ...\n", "stranger")
    assert code(f"{module}.A") == before


def test_the_code_that_runs_is_that_of_the_key(write: Write) -> None:
    module = write("from helper_TAG import number\ndef part(): return number\n")
    values = {}
    for number in (1, 2, 3):
        write(f"number = {number}\n", "helper")
        if number == 3:  # changed and imported by somebody else before dmq looks
            importlib.reload(sys.modules[module])
        plugin = resolve("correct._target_", f"{module}.part")
        values[plugin.code] = plugin.value()
    assert list(values.values()) == [1, 2, 3]
    assert sys.modules[module].part() == 3


def test_two_parts_of_one_module_are_read_once(write: Write) -> None:
    module = write("class A: ...\nclass B: ...\n")
    first = resolve("a", f"{module}.A")
    assert resolve("b", f"{module}.B").code == first.code and resolve("a", f"{module}.A").value is first.value


def test_installed_code_is_known_by_its_version() -> None:
    assert code("torch.nn.Identity") == f"torch {version('torch')}"
    assert code("numpy.random.default_rng") == f"numpy {version('numpy')}"
    assert code("collections.OrderedDict") == f"python {platform.python_version()}"
    assert code("dmq_cli.correct.tac.torch.nn.Identity") == f"torch {version('torch')}"
    assert code_of({"correct": {"_target_": "dmq_cli.correct.Tac"}}, ["correct"]) == {}


def test_what_the_package_itself_names_is_its_own_code() -> None:
    targets = [target for target in allowed() if target.startswith("dmq_cli.")]
    assert len(targets) >= 60 and all(resolve("a.key", target).code is None for target in targets)


def test_targets_are_found_at_any_depth(write: Write) -> None:
    module = write("class A: ...\nclass B: ...\n")
    rule = {"_target_": "dmq_cli.wrap.Rule", "match": "*", "scale": {"_target_": f"{module}.A"}}
    getter = {"_target_": "hydra.utils.get_class", "path": f"{module}.B"}
    codes = code_of({"scheme": {"_target_": "dmq_cli.wrap.Scheme", "rules": [rule, {"grid": getter}]}}, ["scheme"])
    assert set(codes["scheme"]) == {f"{module}.A", f"{module}.B", "hydra.utils.get_class"}


def test_code_that_no_file_holds_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    module = write("class A: ...\n")
    memory_module = types.ModuleType(f"made_{module}")
    exec("class A: ...", vars(memory_module))
    monkeypatch.setitem(sys.modules, memory_module.__name__, memory_module)
    user = write(f"import {memory_module.__name__}\nclass A: ...\n", "user")
    monkeypatch.setattr(sys.modules["__main__"], "A", int, raising=False)
    for target in (f"{memory_module.__name__}.A", f"{user}.A", "__main__.A"):
        with pytest.raises(ConfigError, match="has no file of its own") as error:
            resolve("correct._target_", target)
        one_sentence(error.value)


def test_what_somebody_elses_class_is_given_is_in_the_key_whatever_it_is_called() -> None:
    section = {"_target_": "mine.A", "name": "sine", "path": "x", "inner": {"name": "y"}}
    assert identity(section) == section
    assert identity({**section, "_target_": "dmq_cli.x.A"}) == {"_target_": "dmq_cli.x.A", "inner": {}}


def test_a_sweep_does_not_skip_what_other_code_made(write: Write) -> None:
    from dmq_cli.store import digest
    from dmq_cli.sweep.jobs import OUTSIDE, job_key

    plain = composed()
    before = copy.deepcopy(
        {name: value for name, value in plain.items() if name not in (*OUTSIDE, "hydra", "benchmark", *later._TOP)}
    )
    assert (
        before.pop("data")["_target_"] == "dmq_cli.qat.Digits" and before["budget"].pop("training")["candidates"] == 5
    )
    assert [before["train"].pop(name) for name in ("loss", "accumulate", "lr", "min_snr")] == [
        "noise",
        1,
        1e-4,
        None,
    ], "all of them act through recon"
    assert [before["scheme"].pop(name) for name in ("range", "network", "samples")] == ["scale", "full", None]  # later
    assert before["numerics"].pop("autotune") is False
    before["budget"]["refine_iterations"] = 100  # as it was
    assert job_key(OmegaConf.create(plain)) == digest(
        [
            before,
            {
                **{name: node.version for name, node in NODES.items() if name not in ("training_set", "export")},
                "trace": 3,
            },
        ]
    )
    target = f"{write('class A: x = 1')}.A"
    keys = []
    for number in (1, 2, 1):
        write(f"class A: x = {number}")
        keys.append(job_key(OmegaConf.create({**copy.deepcopy(plain), "correct": {"_target_": target}})))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("text", "name", "parts"),
    [
        ("class Shift: ...", "nothing_there_TAG.Shift", ["there is no module nothing_there_", "PYTHONPATH"]),
        ("class Shift: ...", "ownn_TAG.Shift", ["there is no module ownn_", "did you mean own_"]),
        ("class Shift: ...", "own_TAG.Shiftt", ["has no Shiftt.", "Did you mean Shift?"]),
        ("class Shift: ...", "own_TAG.inner.Shift", ["no module own_", ".inner"]),
        ("class Shift: ...", "own_TAG.Shift.Inner", ["Shift has no Inner"]),
        ("Shift = 3", "own_TAG.Shift", ["is a int", "name a class or a function"]),
        ("class Shift(: ...", "own_TAG.Shift", ["raises SyntaxError", "line 1"]),
        ("import missing_module", "own_TAG.Shift", ["raises ModuleNotFoundError: No module named 'missing_module'", "line 1"]),
        ("\n1 / 0", "own_TAG.Shift", ["raises ZeroDivisionError: division by zero (own_", ".py, line 2)"]),
        ("raise SystemExit(3)", "own_TAG.Shift", ["raises SystemExit: 3"]),
        ("from collections import nothing", "own_TAG.Shift", ["raises ImportError: cannot import name 'nothing'"]),
        ("class Shift: ...", "Shift", ["is no name of a class", "module.Class"]),
        ("class Shift: ...", "own_TAG..Shift", ["is no name of a class"]),
        ("class Shift: ...", "dmq_cli.correct.Tacc", ["dmq_cli.correct has no Tacc.", "Did you mean Tac?"]),
        ("class Shift: ...", "dmq_cli.corect.Tac", ["no module dmq_cli.corect", "did you mean dmq_cli.correct?"]),
    ],
)  # fmt: skip
def test_a_target_that_is_not_there_is_one_sentence(text: str, name: str, parts: list[str], write: Write) -> None:
    target = name.replace("TAG", write(text).rpartition("_")[2])
    with pytest.raises(ConfigError) as error:
        check_types("correct", {"_target_": target})
    sentence = str(error.value)
    assert sentence.startswith(f"correct._target_={target} ") and "\n" not in sentence and sentence.endswith(".")
    assert all(part in sentence for part in parts), sentence


def test_the_command_line_tells_it_before_anything_is_computed(small: Path, tmp_path: Path, write: Write) -> None:
    target = f"{write('class Shift(: ...')}.Shift"
    with counting() as ran:
        result = dmq(*words("sample", small, tmp_path / "out", *own(target)))
    assert result.code == 2 and result.sentence.startswith(f"correct._target_={target} could not be imported")
    assert ran == [] and not list((tmp_path / "out").glob("runs/sample/*"))


def test_a_target_in_a_list_is_told_with_its_place(small: Path) -> None:
    rules = "[{_target_: dmq_cli.wrap.Rule, match: '*', bits: 8, scale: {_target_: dmq_cli.quant.Nothing}}]"
    with pytest.raises(
        ConfigError, match=r"^scheme\.rules\.0\.scale\._target_=dmq_cli\.quant\.Nothing .* has no Nothing"
    ):
        prepared(small, f"scheme.rules={rules}")


def test_annotations_that_only_a_type_checker_can_read_are_left_alone(write: Write) -> None:
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    module = write(f"{head}@dataclass\nclass A:\n    lr: Unknown = 1\n    def start(self, weights, iterations): ...\n")
    check_types("scheme", {"_target_": "dmq_cli.wrap.Scheme", "part": {"_target_": f"{module}.A", "lr": 2}})


OWN_FAMILY = """
from dmq_cli.models import UNetAdapter
from diffusers import UNet2DModel

class OwnUNet(UNet2DModel):
    pass

class OwnAdapter(UNetAdapter):
    '''{text}'''
"""


def test_the_code_of_a_registered_family_is_in_the_keys_of_its_models(write: Write, tmp_path: Path) -> None:
    from dmq_cli.models.families import Family, register, unregister
    from dmq_cli.sweep.jobs import job_key

    folder = tiny_folder(tmp_path / "tiny")
    plain = code_of({"model": {"path": str(folder)}}, ["model"])
    file = next(folder.rglob("unet/config.json"))
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "_class_name": "OwnUNet"}), encoding="utf-8")
    codes, keys = [], []
    for text in ("one", "another", "one"):
        module = importlib.import_module(write(OWN_FAMILY.format(text=text)))
        register(Family(module.OwnUNet, module.OwnAdapter))
        try:
            codes.append(code_of({"model": {"path": str(folder)}}, ["model"])["model"])
            keys.append(job_key(OmegaConf.create(composed("model=folder", f"model.path={folder}"))))
        finally:
            unregister("OwnUNet")
    assert plain == {} and {name.rpartition(".")[2] for name in codes[0]} == {"OwnUNet", "OwnAdapter"}
    assert codes[0] == codes[2] != codes[1] and keys[0] == keys[2] != keys[1]


def test_a_module_whose_package_was_imported_again_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "imported_twice"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text("class A: pass", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    inner = importlib.import_module("imported_twice.inner")
    del sys.modules["imported_twice"]
    try:
        assert resolve("correct", "imported_twice.inner.A").value.__qualname__ == inner.A.__qualname__
    finally:
        for name in [name for name in sys.modules if name.startswith("imported_twice")]:
            del sys.modules[name]
