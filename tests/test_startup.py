"""What commands import, and when: the first line comes before torch, and what is finished needs no diffusers."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dmq_cli
from tests.chain import dmq, tiny_folder, words
from tests.tiny import SMALL

SLOW = ("diffusers", "transformers", "torch_fidelity", "torchvision", "torch._dynamo", "sklearn", "torchmetrics")
LATE = ["dmq_cli.deploy", "dmq_cli.deploy.bench", "dmq_cli.models", "dmq_cli.models.importers", "dmq_cli.sampling"]

_SEEING_TORCH = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is imported", file=sys.stderr, flush=True)
            os._exit(7)  # importing it and all that follows takes ten seconds
sys.meta_path.insert(0, Finder())
from dmq_cli.cli.app import main
main(sys.argv[1:])
"""
_LISTING = """
import sys
from dmq_cli.cli.app import main
try: main(sys.argv[1:])
except SystemExit as end: print("exit", end.code)
import dmq_cli.report.html, dmq_cli.papers
from dmq_cli.metrics.shown import results
from dmq_cli.report.widths import input_bits
assert input_bits({"resnet.conv1.input": 4}, ["down_blocks.0.resnets.0.conv1"]) and "fd" in results()
print(*sys.modules)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize("flags", [[], ["-q"]])
def test_the_first_line_comes_before_torch_is_imported(flags: list[str], tmp_path: Path) -> None:
    done = python(_SEEING_TORCH, "evaluate", "method=tac", "bits=w3a8", f"runtime.outputs={tmp_path}", *flags)
    lines = done.stderr.splitlines()
    assert done.returncode == 7
    assert ("evaluate: ddim_digits tac w3a8: loading" in lines[0]) is not bool(flags)
    assert lines[1 - bool(flags) :] == ["torch is imported"]


def test_a_finished_sweep_and_its_report_import_no_diffusers(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "tiny", **SMALL)
    command = words("calibrate", model, tmp_path, "-m", "bits.weight=4,3")
    assert dmq(*command).out.splitlines()[-1] == "2 done, 0 skipped, 0 failed"
    done = python(_LISTING, *command)
    assert "calibrate model=" in done.stderr.splitlines()[0] and "composing the jobs" in done.stderr.splitlines()[0]
    assert "0 done, 2 skipped, 0 failed" in done.stdout and "exit 0" in done.stdout, done.stderr
    assert set(SLOW) & set(done.stdout.splitlines()[-1].split()) == set()


@pytest.mark.parametrize("name", LATE)
def test_late_names_are_those_that_type_checkers_see(name: str) -> None:
    package = importlib.import_module(name)
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    by_name = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(by_name) == set(package.__all__) and len(by_name) >= 4
    for late_name, module in by_name.items():
        assert getattr(package, str(late_name)) is getattr(importlib.import_module(str(module)), str(late_name))
    modules = {file.stem for file in Path(str(package.__file__)).parent.iterdir()}
    assert modules.isdisjoint(package.__all__), "a module of that name would take its place"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_all_late_packages_are_looked_at() -> None:
    root = Path(dmq_cli.__file__).parent
    packages = [
        file for file in root.rglob("__init__.py") if "from dmq_cli.late import late" in file.read_text("utf-8")
    ]
    assert len(packages) == len(LATE)
