"""The architecture (shared/design/house.md, section 6.3): an import only ever points down."""

from __future__ import annotations

import ast
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
    "__init__": 0, "compat": 0, "errors": 0, "paths": 0, "printing": 0, "obtain": 0, "store": 0,
    "ops": 1,
    "quant": 2, "models": 2,
    "wrap": 3,
    "sampling": 4,
    "transform": 5, "calib": 5, "recon": 5, "correct": 5, "metrics": 5, "zoo": 5,
    "stages": 6,
    "cli": 7, "overrides": 7, "catalog": 7, "commands": 7, "doctor": 7, "guard": 7, "inventory": 7, "report": 7, "sweep": 7,
    "papers": 7,
}  # fmt: skip
# On floor 0, errors is below the others. dmq_cli.load reaches up when it is called.
SIDEWAYS = {("paths", "errors"), ("obtain", "paths"), ("store", "errors"), ("store", "__init__")}
SIDEWAYS |= {("cli", "report"), ("cli", "guard"), ("cli", "commands"), ("report", "guard")}
SIDEWAYS |= {
    ("report", "papers"),
    ("papers", "catalog"),
    ("papers", "report"),
    ("papers", "sweep"),
    ("commands", "report"),
}
SIDEWAYS |= {("cli", "sweep"), ("sweep", "guard"), ("sweep", "report")}
SIDEWAYS |= {
    ("cli", "overrides"),
    ("sweep", "overrides"),
    ("overrides", "guard"),
    ("inventory", "overrides"),
    ("report", "overrides"),
}
SIDEWAYS |= {
    ("commands", "guard"),
    ("commands", "catalog"),
    ("commands", "inventory"),
    ("commands", "doctor"),
    ("doctor", "catalog"),
}
UPWARD = {("__init__", "stages", "inside a function")}
ONLY_IN = {
    "hydra": {"stages", "catalog", "cli", "overrides", "papers", "report", "sweep"},
    "omegaconf": {"stages", "cli", "catalog", "overrides", "papers", "sweep"},
    "diffusers": {"models", "wrap", "sampling", "zoo"},
    "huggingface_hub": {"models"},
    "jinja2": {"report"},
    "matplotlib": {"report"},
    "click": {"cli", "commands", "guard", "report"},
    "rich": {"stages", "report", "sweep"},
    "sklearn": {"zoo"},
    "torch_fidelity": {"metrics"},
    "torchmetrics": {"metrics"},
    "lpips": {"metrics"},
}


def part(file: Path) -> str:
    """The package or module of dmq_cli that a file belongs to."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every imported name in full, and whether it is inside a function; TYPE_CHECKING blocks left out."""

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file} has a relative import"
            yield from ((f"{node.module}.{alias.name}", inside) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            main = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
            yield from visit(child, inside or main or isinstance(node, ast.FunctionDef))

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), False)


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
    seen, wrong = 0, []
    for file in FILES:
        here = part(file)
        for name, inside in imports(file):
            there = own(name)
            if there is None or there == here:
                continue
            seen += 1
            down = FLOORS[there] < FLOORS[here]
            known = (here, there) in SIDEWAYS or (inside and (here, there, "inside a function") in UPWARD)
            if not down and not known:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert seen >= 150
    assert wrong == []


def test_libraries_stay_where_they_belong() -> None:
    seen, wrong = dict.fromkeys(ONLY_IN, 0), []
    for file in FILES:
        for name, _ in imports(file):
            library = name.partition(".")[0]
            if library in ONLY_IN:
                seen[library] += 1
                if part(file) not in ONLY_IN[library]:
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert all(seen.values()), seen
    assert wrong == []


def test_the_store_needs_no_networks_and_the_lower_floors_no_config() -> None:
    for file in FILES:
        for name, _ in imports(file):
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
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.Assert), where
            if not isinstance(node, ast.Call):
                continue
            calls += 1
            given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            assert not any(given.get(name) is value for name, value in forbidden.items()), where
            called = ast.unparse(node.func)
            if called == "torch.load":
                loads += 1
                assert given.get("weights_only") is True, where
            if called in ("np.load", "numpy.load"):
                loads += 1
                assert given.get("allow_pickle") is False, where
        for name, _ in imports(file):
            assert name.split(".")[0] not in ("pickle", "dill", "joblib", "cloudpickle"), f"{file} imports {name}"
            # pickletools splits a pickle into opcodes and runs none; one file reads notes of tensors from them.
            assert name != "pickletools" or file == ROOT / "models/importers/restricted.py", f"{file} imports {name}"
    assert calls >= 1500 and loads >= 3


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["evaluate", "--version"], ["import", "--help"], ["nonsense"]]
)
def test_help_is_quick_to_import(words: list[str]) -> None:
    code = (
        "import sys; from dmq_cli.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as end: print('exit', end.code)\n"
        "slow = {'torch', 'diffusers', 'hydra', 'omegaconf', 'numpy', 'torchvision', 'rich', 'matplotlib', 'jinja2'}\n"
        "heavy = slow & set(sys.modules)\n"
        "print('heavy', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy []"
    assert done.stdout.splitlines()[-2] == ("exit 2" if words == ["nonsense"] else "exit 0")
