"""dmq reference: build or show the statistics of real images that protocols compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dmq_cli import choices
from dmq_cli.cli.commands.output import HELP, pairs, protocol_section, run, show
from dmq_cli.obtain import built_reference
from dmq_cli.sentences import with_flags


@click.group(context_settings=HELP)
def reference() -> None:
    """Build or show what images are compared with: reference build FOLDER --as NAME."""


@reference.command(context_settings=HELP)
@click.argument("what", metavar="FOLDER|DATASET|FILE.npz")
@click.argument("words", nargs=-1, metavar="[protocol.KEY=VALUE]...")
@click.option("--as", "name", required=True, help="Its name, for protocol.reference=NAME.")
@click.option("--crop", default="none", show_default=True, help="none, or center: the largest square in the middle.")
@click.option("--resize", type=int, help="Then scale to this side; default: as it is.")
@click.option(
    "--filter", "resize_filter", default="bicubic", show_default=True, help="PIL's, antialiased: bicubic or box."
)
@click.option("--protocol", default="digits", show_default=True, help="Whose extractor reads the images.")
@click.option(
    "--to", "file", type=click.Path(path_type=Path), help="The new file; default outputs/references/NAME.safetensors."
)
@click.option("--device", default="cpu", show_default=True, help="Where the extractor runs: cpu, cuda.")
@with_flags
@click.pass_context
def build(context: click.Context, /, what: str, name: str, file: Path | None, **options: Any) -> None:
    """Statistics of real images: a folder of PNG, JPEG or WEBP files, an .npz of images, digits or digits32."""
    flags = {flag: options.pop(flag) for flag in ("verbose", "quiet", "json")}
    run(context, flags, lambda on: _build(what, name, file, options, on))


@reference.command("show", context_settings=HELP)
@click.argument("what", metavar="NAME|FILE")
@with_flags
@click.pass_context
def show_reference(context: click.Context, /, what: str, **flags: bool) -> None:
    """What a reference is made of: one that was built, digits, or a file of ADM, clean-fid or torch-fidelity."""
    run(context, flags, lambda on: _show(what, on))


def _build(what: str, name: str, file: Path | None, options: Mapping[str, Any], flags: set[str]) -> None:
    section = protocol_section(options["protocol"], options["words"]) | {"reference": name, "reference_path": None}
    choices.check_given(section)
    from dmq_cli.metrics.reading.image_files import Framing
    from dmq_cli.stages import build as made
    from dmq_cli.stages.find_reference import OUTPUTS, build
    from dmq_cli.stages.validate import check_device, check_types

    check_types("protocol", section)
    device = check_device(options["device"], "--device")
    framing = Framing(options["crop"], options["resize"], options["resize_filter"])
    target = file.expanduser().absolute() if file else built_reference(name, OUTPUTS)
    record = build(what, framing, made.make(section), name, target, bool(flags & {"quiet", "json"}), device)
    _print({"file": str(target), **record}, flags)


def _show(what: str, flags: set[str]) -> None:
    from dmq_cli.stages.find_reference import known_reference

    reference = known_reference(what)
    _print({"name": reference.name, "sha256": reference.sha256, **reference.record}, flags)


def _print(record: dict[str, Any], flags: set[str]) -> None:
    show(record, pairs({_plain(key): _text(key, value) for key, value in record.items() if value is not None}), flags)


def _text(key: str, value: object) -> str:
    """Format a value of the record."""
    from dmq_cli.metrics.reading.listing import tell_skipped

    return _plain(tell_skipped(value) if key == "skipped" and isinstance(value, dict) else str(value))


def _plain(text: str) -> str:
    """Escape characters that control a terminal: a record may come from a stranger's file."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
