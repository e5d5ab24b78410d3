"""Generated parts of README.md and docs/: tables of finished cells, docstrings of modules, files of conf/.

Each stands between two comments, of which the first says what it is:

    <!-- table digits_ptq bits=w4a4 method=minmax,tac columns=method,PSNR -->    filters are optional, see `tables.table`
    <!-- table digits_ptq,digits_qat bits=w4a4 columns=method,PSNR -->             rows of two tables
    <!-- seeds qat_seed base=lsq -->                                             its rows over several seeds, see `seeds.seeds_table`
    <!-- claims digits -->                                                     how the papers' claims fared at that scale
    <!-- docstring correct/tac.py -->                                           of a module of dmq_cli
    <!-- choice correct=tac -->                                                 conf/correct/tac.yaml
    <!-- end -->
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dmq_cli.errors import ConfigError
from dmq_cli.papers.outcomes import claims_table
from dmq_cli.paths import PACKAGE, conf_folder
from dmq_cli.report.seeds import seeds_table
from dmq_cli.report.tables import table

_PART = re.compile(
    r"<!-- (?P<kind>table|seeds|claims|docstring|choice) (?P<words>[^\n]+) -->\n.*?<!-- end -->", re.DOTALL
)


def documents(root: Path) -> list[Path]:
    """List the Markdown files of a checkout that may have generated parts: README.md and all below docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def fill(text: str, tables: Path) -> str:
    """Regenerate every generated part of a document's text. tables: the folder of tables, outputs/tables.

    Raises ConfigError for a table without such cells, and for a module or a choice that is not there.
    """
    kinds: dict[str, Callable[[str], str]] = {
        "table": lambda words: _table(words, tables),
        "seeds": lambda words: _seeds(words, tables),
        "claims": lambda scale: claims_table(tables, scale),
        "docstring": _docstring,
        "choice": _choice,
    }

    def generated(part: re.Match[str]) -> str:
        head = part[0].partition("\n")[0]
        return f"{head}\n{kinds[part['kind']](part['words'])}\n<!-- end -->"

    return _PART.sub(generated, text)


def _table(words: str, tables: Path) -> str:
    names, filters = _filters("table", words, ("bits", "method", "columns"))
    folder, *more = (tables / name for name in names.split(","))
    return table(folder, filters.get("bits"), filters.get("method"), filters.get("columns"), more)


def _seeds(words: str, tables: Path) -> str:
    name, filters = _filters("seeds", words, ("base",))
    return seeds_table(tables / name, *filters.get("base", ())[:1])


def _filters(kind: str, words: str, known: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    """Read `NAME key=a,b ...`: the name, and the values of each key. Raises ConfigError for a key that is not known."""
    name, *filters = words.split()
    by_key = {key: values.split(",") for key, _, values in (word.partition("=") for word in filters)}
    if unknown := [key for key in by_key if key not in known]:
        raise ConfigError(f"A {kind} comment of {name} was given {', '.join(unknown)}; use {' or '.join(known)}.")
    return name, by_key


def _docstring(module: str) -> str:
    return ast.get_docstring(ast.parse(_read(PACKAGE / module))) or ""


def _choice(word: str) -> str:
    group, _, name = word.partition("=")
    return f'```yaml title="{word}"\n{_read(conf_folder() / group / f"{name}.yaml").strip()}\n```'


def _read(file: Path) -> str:
    if not file.is_file():
        raise ConfigError(f"A document asks for the text of {file}, which is not there; correct the comment before it.")
    return file.read_text(encoding="utf-8")
