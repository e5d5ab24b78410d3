"""conf/ and the shipped weights are found in a checkout and in a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dmq_cli.paths import PACKAGE, conf_folder, resolve

ROOT = PACKAGE.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="a wheel is built from a checkout")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip wheel .` would give, by the build backend itself."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_what_the_package_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    configured = {f"dmq_cli/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    sources = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")} | {"hydra_plugins/dmq_sweeper.py"}
    weights = {str(path.relative_to(ROOT)) for path in (PACKAGE / "zoo" / "weights").rglob("*") if path.is_file()}
    assert len(configured) >= 80 and len(sources) >= 90 and len(weights) >= 2
    folders = (PACKAGE / "report" / "templates", PACKAGE / "cli" / "templates")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    templates = {str(path.relative_to(ROOT)) for path in files}
    assert len(templates) >= 11 and configured | sources | weights | templates <= names
    assert "dmq_cli/conf/config.yaml" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "dmq_cli/zoo/weights/digits_cnn/model.safetensors" in names
    assert [name for name in names if not name.startswith(("dmq_cli/", "dmq_cli-"))] == [
        "hydra_plugins/dmq_sweeper.py"
    ], "nothing else is installed, and hydra_plugins stays a namespace"


def test_an_unpacked_wheel_runs_from_its_own_conf(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import dmq_cli.cli.app; from dmq_cli.paths import conf_folder, resolve\n"
        "print(conf_folder()); print(resolve('package:zoo/weights/digits_cnn/model.safetensors').is_file())\n"
        "dmq_cli.cli.app.main(['evaluate', 'method=tac', '--cfg', 'job'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [str(site / "dmq_cli" / "conf"), "True"]
    assert "  _target_: dmq_cli.correct.Tac" in lines


def test_the_checkout_uses_what_lies_in_it() -> None:
    assert conf_folder() == ROOT / "conf"
    assert resolve("package:zoo/weights/digits_cnn/model.safetensors").is_file()
