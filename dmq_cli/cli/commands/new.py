"""dmq new: the YAML, the Python and a passing test of a method or a part of one's own, to be changed into what it is to be."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

import click

from dmq_cli import paths
from dmq_cli.cli.commands.output import HELP, run, show
from dmq_cli.errors import ConfigError, nearest
from dmq_cli.sentences import with_flags
from dmq_cli.store.files import write_text

_TEMPLATES = paths.PACKAGE / "cli" / "templates"
# By kind, as the group is called: the word that chooses it.
_USED = {
    "calib": "calib=NAME",
    "family": "model=FOLDER",
    "method": "method=NAME",
    "metric": "+metric@protocol.metrics.NAME=NAME",
}
_SHARED = "dmq_plugin.py"  # of all families in a folder
_TEXT = ".txt"  # after the names of templates that are Python, which no tool takes for modules of the package


@click.command("new", context_settings=HELP)
@click.argument("kind", metavar="KIND")
@click.argument("name", metavar="NAME")
@click.option("--into", default="mine", show_default=True, metavar="FOLDER", help="Where to write; made if needed.")
@with_flags
@click.pass_context
def new(context: click.Context, /, kind: str, name: str, into: str, **flags: bool) -> None:
    """Write a method, metric, calib or family of your own, with a test: new KIND NAME.

    What is written works as it stands: dmq plan evaluate method=NAME --config-dir mine.
    """
    run(context, flags, lambda on: _new(kind, name, Path(into).expanduser(), on))


def kinds() -> list[str]:
    """What there are templates of; each is named after the group that its choice is in."""
    return sorted(_USED)


def _new(kind: str, name: str, folder: Path, flags: set[str]) -> None:
    if kind not in kinds():
        raise ConfigError(f"There is no template of {kind}.{nearest(kind, kinds())}")
    _check_name(kind, name)
    files = _files(kind, name, folder)
    for file in files:
        if file.exists() and (file.name != _SHARED or file.read_text(encoding="utf-8") != files[file]):
            raise ConfigError(f"{file} exists already, and dmq new replaces nothing; choose another name than {name}.")
    _check_free(name)
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    chosen, test = _USED[kind].replace("NAME", name), next(file for file in files if file.name.startswith("test_"))
    steps = [f"python -m pytest {test}", f"dmq plan evaluate {chosen} --config-dir {folder}"]
    lines = [*(f"wrote {file}" for file in files), *(f"next: {step}" for step in steps)]
    show({"files": [str(file) for file in files], "next": steps}, "\n".join(lines), flags)


def _check_name(kind: str, name: str) -> None:
    """Raise ConfigError for a name that no module, or no choice, could have here."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name} was to be the name of a {kind}, and so of a Python module; use small letters, digits and _."
        )
    if (file := paths.choice_files(kind).get(name)) is not None:
        raise ConfigError(f"There is a {kind} {name} already ({file}); choose another name.")


def _check_free(name: str) -> None:
    """Raise ConfigError for the name of a module that Python would find before the new one."""
    if importlib.util.find_spec(name) is not None:
        raise ConfigError(
            f"A Python module {name} is installed already and would be taken instead; choose another name."
        )


def _files(kind: str, name: str, folder: Path) -> dict[Path, str]:
    """The text of every file by its place: that of the template with NAME and CLASS filled in."""
    title = "".join(word.capitalize() for word in name.split("_"))
    files: dict[Path, str] = {}
    for template in sorted(file for file in (_TEMPLATES / kind).rglob("*") if file.is_file()):
        place = str(template.relative_to(_TEMPLATES / kind)).removesuffix(_TEXT).replace("NAME", name)
        text = template.read_text(encoding="utf-8").replace("NAME", name).replace("CLASS", title)
        files[folder / place] = text
    return files
