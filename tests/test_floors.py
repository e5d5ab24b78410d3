"""The architecture (shared/design/house.md, section 6.3): an import only ever points down."""

from __future__ import annotations

import ast
import functools
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dmq_cli

ROOT = Path(dmq_cli.__file__).resolve().parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    "__init__": 0, "compat": 0, "late": 0, "errors": 0, "paths": 0, "printing": 0, "obtain": 0, "store": 0,
    "ops": 1, "sentences": 1, "choices": 1,
    "quant": 2, "models": 2,
    "wrap": 3,
    "sampling": 4,
    "transform": 5, "calib": 5, "recon": 5, "correct": 5, "metrics": 5, "diagnose": 5, "zoo": 5,
    "results": 6, "qat": 6, "deploy": 6,
    "stages": 7,
    "overrides": 8,
    "report": 9, "papers": 10, "sweep": 10,
    "api": 11, "cli": 12, "__main__": 13,
}  # fmt: skip
SIDEWAYS = {
    ("paths", "errors"): "every part may raise",
    ("store", "errors"): "every part may raise",
    ("obtain", "paths"): "where files lie",
    ("store", "__init__"): "the version",
    ("__init__", "compat"): "torchvision and diffusers are prepared before anybody imports them",
}
UPWARD = {
    ("__init__", "stages"): "dmq_cli.load reaches up when it is called",
    ("__init__", "api"): "dmq_cli.quantize reaches up when it is called",
    ("compat", "deploy"): "diffusers loads exported models by it, when it is imported itself",
    ("deploy", "stages"): "a pipeline of diffusers loads the run that was exported, when it is called",
}
ONLY_IN = {
    "hydra": {"stages", "cli", "choices", "overrides", "papers", "report", "results", "sweep"},
    "omegaconf": {"api", "stages", "cli", "choices", "overrides", "papers", "results", "sweep"},
    "diffusers": {"models", "wrap", "sampling", "zoo", "deploy"},
    "huggingface_hub": {"models"},
    "jinja2": {"report"},
    "matplotlib": {"report"},
    "click": {"cli", "sentences"},
    "rich": {"stages", "report", "sweep"},
    "sklearn": {"zoo"},
    "torch_fidelity": {"metrics"},
    "torchmetrics": {"metrics"},
    "lpips": {"metrics"},
    "openvino": {"deploy"},
    "onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "onnxscript": {"deploy"},
    "nncf": {"deploy"},
}


def part(file: Path) -> str:
    """The package or module of dmq_cli that a file belongs to."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


@functools.cache
def parsed(file: Path) -> ast.Module:
    """The tree of a file, read once by a process."""
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def imports(file: Path) -> tuple[str, ...]:
    """Every name that a file imports, in full: at the top, inside functions and by import_module; not for the type checker alone."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            name = node.args[0]
            yield name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "by a variable"
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return tuple(visit(parsed(file)))


def own(name: str) -> str | None:
    """The part of dmq_cli that an imported name lies in; None for other packages."""
    first, _, rest = name.partition(".")
    if first != "dmq_cli":
        return None
    second = rest.partition(".")[0]
    return second if second in FLOORS else "__init__"


def test_every_file_has_a_floor() -> None:
    assert len(FILES) >= 90
    assert {part(file) for file in FILES} == set(FLOORS)


def test_imports_point_down() -> None:
    crossings, wrong = 0, []
    for file in FILES:
        here = part(file)
        for name in imports(file):
            there = own(name)
            if there is None or there == here:
                continue
            crossings += 1
            down = FLOORS[there] < FLOORS[here]
            if not down and (here, there) not in {**SIDEWAYS, **UPWARD}:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert crossings >= 150
    assert wrong == []


def test_imports_inside_functions_and_by_import_module_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    file.write_text(
        "def f():\n    from dmq_cli.papers import jobs\n    import importlib\n    importlib.import_module('dmq_cli.report')\n"
    )
    assert list(imports(file)) == ["dmq_cli.papers.jobs", "importlib", "dmq_cli.report"]


def test_only_plugins_and_metrics_of_conf_are_imported_by_a_variable() -> None:
    users = {str(file.relative_to(ROOT)) for file in FILES for name in imports(file) if name == "by a variable"}
    assert users <= {"stages/plugins.py", "metrics/shown.py", "late.py"}  # own conf/metric; own modules


def test_libraries_stay_where_they_belong() -> None:
    counts, wrong = dict.fromkeys(ONLY_IN, 0), []
    for file in FILES:
        for name in imports(file):
            library = name.partition(".")[0]
            if library in ONLY_IN:
                counts[library] += 1
                if part(file) not in ONLY_IN[library]:
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert all(counts.values()), counts
    assert wrong == []


def test_the_store_needs_no_networks_and_the_lower_floors_no_config() -> None:
    for file in FILES:
        for name in imports(file):
            if part(file) == "store":
                assert not name.startswith(("torch.nn", "diffusers")), f"{file} imports {name}"


def test_files_are_short() -> None:
    lines = {file.relative_to(ROOT): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert max(lines.values()) <= 400, max(lines, key=lambda file: lines[file])
    assert statistics.median(lines.values()) <= 120


def test_no_assert_and_no_unpickling() -> None:
    forbidden = {"allow_pickle": True, "weights_only": False}
    calls = loads = 0
    for file in FILES:
        for node in ast.walk(parsed(file)):
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.Assert), where
            if not isinstance(node, ast.Call):
                continue
            calls += 1
            constants = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            assert not any(constants.get(name) is value for name, value in forbidden.items()), where
            called = ast.unparse(node.func)
            if called == "torch.load":
                loads += 1
                # Foreign pickles are read as notes (models/importers/restricted.py); these files dmq knows by their sha256.
                assert constants.get("weights_only") is True and file.stem in ("inception", "perceptual", "lpips"), (
                    where
                )
            if called in ("np.load", "numpy.load"):
                loads += 1
                assert constants.get("allow_pickle") is False, where
        for name in imports(file):
            assert name.split(".")[0] not in ("pickle", "dill", "joblib", "cloudpickle"), f"{file} imports {name}"
            # pickletools splits a pickle into opcodes and runs none; one file reads notes of tensors from them.
            assert name != "pickletools" or file == ROOT / "models/importers/restricted.py", f"{file} imports {name}"
    assert calls >= 1500 and loads >= 2


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["evaluate", "--version"], ["import", "--help"], ["nonsense"]]
)
def test_help_is_quick_to_import(words: list[str]) -> None:
    code = (
        "import sys; from dmq_cli.cli.app import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as end: print('exit', end.code)\n"
        "slow = {'torch', 'diffusers', 'hydra', 'omegaconf', 'numpy', 'torchvision', 'rich', 'matplotlib', 'jinja2'}\n"
        "heavy = slow & set(sys.modules)\n"
        "print('heavy', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy []"
    assert done.stdout.splitlines()[-2] == ("exit 2" if words == ["nonsense"] else "exit 0")


def test_a_class_means_one_thing() -> None:
    names = [
        node.name
        for file in FILES
        for node in parsed(file).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == set() and len(names) >= 150
