"""dmq pack: put a run into one file to hand on."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dmq_cli.cli.commands.output import HELP, bytes_of, run, show
from dmq_cli.errors import ArtifactError, ConfigError
from dmq_cli.paths import resolve
from dmq_cli.results.naming import stage_of
from dmq_cli.sentences import with_flags
from dmq_cli.store import check_artifact, read_json
from dmq_cli.store.files import aside
from dmq_cli.store.rundir import RUN_FILES

_NEEDED = ("config.json", "manifest.json", "status.json")
_STAGES = ("reconstruct", "correct", "trace", "evaluate", "evaluate_fp")  # what loading and reports read
_IMAGES = ("sample", "sample_fp")


@click.command(context_settings=HELP)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to", "file", type=click.Path(path_type=Path), help="The file to write; default: RUN's name with .zip, here."
)
@click.option("--with-model", is_flag=True, help="Also the files of the full-precision model.")
@click.option("--with-images", is_flag=True, help="Also all sampled images.")
@with_flags
@click.pass_context
def pack(
    context: click.Context, /, folder: Path, file: Path | None, with_model: bool, with_images: bool, **flags: bool
) -> None:
    """Put a finished run into one file: its record, what was learned and corrected, its numbers and trace.

    Unpacked, dmq_cli.load takes the folder as it takes the run, and dmq report shows it; without --with-model the model has to be
    where the configuration says.
    """
    run(context, flags, lambda on: _pack(folder, file, with_model, with_images, on))


def _pack(folder: Path, file: Path | None, with_model: bool, with_images: bool, flags: set[str]) -> None:
    folder = folder.expanduser()
    if not all((folder / name).is_file() for name in _NEEDED):
        raise ConfigError(
            f"A run was to be packed from {folder}, which is no run folder; give one of outputs/runs/<verb>/."
        )
    target = (file or Path(f"{folder.resolve().name}.zip")).expanduser()
    members = dict(_members(folder, _STAGES + (_IMAGES if with_images else ())))
    if with_model:
        model = resolve(read_json(folder / "config.json")["model"]["path"])
        members |= {f"model/{path.relative_to(model)}": path for path in _files(model)}
    above = f"{folder.resolve().parent.name}/{folder.resolve().name}"
    with aside(target) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in members.items():
            archive.write(path, f"{above}/{name}")
    result: dict[str, Any] = {"file": str(target), "bytes": target.stat().st_size, "files": len(members)}
    show(result, f"Packed: {target} ({len(members)} files, {bytes_of(result['bytes'])})", flags)


def _members(folder: Path, stages: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Yield the name in the archive and the path of every file to pack; artifacts are checked first."""
    yield from ((name, folder / name) for name in RUN_FILES if (folder / name).is_file())
    for name, key in read_json(folder / "manifest.json")["artifacts"].items():
        stage = stage_of(name)
        if stage not in stages:
            continue
        place = folder / "artifacts" / name
        if not place.is_dir():
            raise ArtifactError(f"The run {folder} was to be packed, but its {name} is gone; run its command again.")
        check_artifact(place, stage, key)
        yield from ((f"artifacts/{name}/{path.relative_to(place)}", path) for path in _files(place))


def _files(folder: Path) -> list[Path]:
    """List all files below a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
