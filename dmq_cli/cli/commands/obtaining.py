"""dmq import, dmq doctor, dmq fetch: get models, extractors and references onto this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dmq_cli import choices
from dmq_cli.cli.commands.output import HELP, aligned, pairs, run, say, show
from dmq_cli.errors import ConfigError, DmqError
from dmq_cli.sentences import with_flags


@click.command("import", context_settings=HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", required=True, help="Which published checkpoint it is, e.g. ddim_cifar10 or ldm8_church.")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="The new folder; default outputs/models/NAME.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A folder with vocab.json and merges.txt, for sd14.")
@with_flags
@click.pass_context
def import_file(
    context: click.Context, /, file: Path, name: str, folder: Path | None, tokenizer: Path | None, **flags: bool
) -> None:
    """Convert an original checkpoint: import model.ckpt --as ddim_cifar10."""
    run(context, flags, lambda on: _import(file.expanduser(), name, folder, tokenizer, on))


@click.command(context_settings=HELP)
@click.argument("words", nargs=-1, metavar="[model=NAME]...")
@with_flags
@click.pass_context
def doctor(context: click.Context, /, words: tuple[str, ...], **flags: bool) -> None:
    """Say which models, extractors and references are here, and how to get the others."""
    run(context, flags, lambda on: _doctor(words, on))


@click.command(context_settings=HELP)
@click.argument("words", nargs=-1, metavar="model=NAME")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="The new folder; default outputs/models/NAME.")
@with_flags
@click.pass_context
def fetch(context: click.Context, /, words: tuple[str, ...], folder: Path | None, **flags: bool) -> None:
    """Download a model that is published as a diffusers folder: fetch model=ddim_cifar10."""
    run(context, flags, lambda on: _fetch(words, folder, on))


def _import(file: Path, name: str, folder: Path | None, tokenizer: Path | None, flags: set[str]) -> None:
    from dmq_cli.models.importers import import_checkpoint

    target = (folder or Path("outputs", "models", name)).expanduser().absolute()
    imported = import_checkpoint(file, name, target, tokenizer and tokenizer.expanduser())
    weights = "moving averages" if imported.average else "as stored"
    summary = {"folder": str(imported.folder), "weights": weights}
    summary |= {"entry": imported.taken} if imported.taken else {}
    summary |= {"left in the file": ", ".join(imported.beside)} if imported.beside else {}
    summary |= {"source_sha256": imported.source_sha256, "model_sha256": imported.model_sha256}
    show(summary, pairs(summary), flags)


def _doctor(words: Sequence[str], flags: set[str]) -> None:
    """Print what is on this machine; for models that were named, a missing or wrong part is an error."""
    from dmq_cli.cli.doctor import examine, lines, summary

    chosen, outputs = _chosen("doctor", words)
    say(f"doctor: looking at {', '.join(chosen) or 'models, extractors and references'} ...", flags)
    findings = examine(chosen, outputs)
    errors = [finding.error for finding in findings if finding.error is not None] if chosen else []
    shown = [finding for finding in findings if finding.error is None] if chosen else findings
    if shown and not (errors and "json" in flags):
        show({"doctor": [finding.row() for finding in shown]}, f"{aligned(lines(shown))}\n\n{summary(shown)}", flags)
    if errors:
        raise _joined(errors)


def _joined(errors: Sequence[DmqError]) -> DmqError:
    """Join errors to one with all their sentences."""
    return type(errors[0])(" ".join(map(str, errors)))


def _fetch(words: Sequence[str], folder: Path | None, flags: set[str]) -> None:
    chosen, outputs = _chosen("fetch", words)
    if len(chosen) != 1:
        raise ConfigError(f"The command fetch takes one model and was given {len(chosen)}; write: dmq fetch model=NAME")
    model = choices.model(chosen[0], outputs)
    from dmq_cli.models.fetch import fetch_model

    target = (folder or Path(model["path"])).expanduser().absolute()
    result = {"folder": str(target), "model_sha256": fetch_model(model, target, bool(flags & {"quiet", "json"}))}
    show(result, pairs(result), flags)


def _chosen(command: str, words: Sequence[str]) -> tuple[list[str], str]:
    """Read the chosen models (model=a model=b or model=a,b), each once, and runtime.outputs. Raises ConfigError."""
    values = {"model": "", "runtime.outputs": "outputs"}
    chosen: list[str] = []
    for word in words:
        key, sign, value = word.partition("=")
        if key not in values or not sign or not value:
            raise ConfigError(
                f"The command {command} was given {word}, but reads only model=NAME and runtime.outputs=FOLDER; leave it out."
            )
        if key == "model":
            chosen += value.split(",")
        values[key] = value
    return list(dict.fromkeys(chosen)), values["runtime.outputs"]
