"""The committed tables of papers are what the command makes of the committed cells, at both scales."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dmq_cli.papers import names, write_table
from dmq_cli.papers.runnable import folder_name

COMMITTED = Path(__file__).resolve().parents[2] / "outputs" / "tables"
FILES = ("table.md", "table.csv", "table.tex", "table.json")
FEW = (("tcaq_figb", "paper"), ("tac_b", "paper"), ("tcaq_figb", "digits"), ("tfmq_1", "digits"))
PAGES = [
    (name, scale)
    for name in names()
    for scale in ("paper", "digits")
    if (COMMITTED / folder_name(name, scale)).is_dir()
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the committed tables, to be written anew."""
    folder = tmp_path_factory.mktemp("outputs")
    shutil.copytree(COMMITTED, folder / "tables")
    return folder


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="the tables are in a checkout")
@pytest.mark.parametrize(
    ("name", "scale"), [pytest.param(*page, marks=[] if page in FEW else pytest.mark.slow) for page in PAGES]
)
def test_a_committed_table_is_what_the_command_makes(name: str, scale: str, outputs: Path) -> None:
    folder, _ = write_table(name, scale, outputs)
    committed = COMMITTED / folder.name
    changed = [file for file in FILES if (folder / file).read_bytes() != (committed / file).read_bytes()]
    assert not changed, f"run .venv/bin/python -m dmq_cli.cli.commands.tables {name} --scale {scale}"


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="the tables are in a checkout")
def test_every_table_has_a_page_at_both_scales() -> None:
    assert set(FEW) < set(PAGES) and len(PAGES) >= 50
