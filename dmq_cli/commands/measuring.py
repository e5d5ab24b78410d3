"""dmq measure: the numbers of images that something else sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dmq_cli import catalog
from dmq_cli.commands.output import HELP, pairs, run, show
from dmq_cli.guard import with_flags


@click.command(context_settings=HELP)
@click.argument("what", metavar="FOLDER|FILE.npz")
@click.option("--protocol", default="digits", show_default=True, help="What is measured, and how.")
@click.option("--reference", help="A reference by name or file; default: the protocol's.")
@click.option("--num-images", type=int, help="How many images there must be; default: the protocol's number.")
@click.option("--extractor-path", help="The extractor's weights, where the protocol's own place is not theirs.")
@with_flags
@click.pass_context
def measure(context: click.Context, /, what: str, **given: Any) -> None:
    """Measure a folder of PNG files, or an .npz of images, against a reference: measure samples/ --protocol digits."""
    flags = {flag: given.pop(flag) for flag in ("verbose", "quiet", "json")}
    run(context, flags, lambda on: _measure(what, given, on))


def _measure(what: str, given: Mapping[str, Any], flags: set[str]) -> None:
    section = catalog.protocol(given["protocol"])
    section |= {key: given[key] for key in ("num_images", "extractor_path") if given[key] is not None}
    from dmq_cli.stages import build
    from dmq_cli.stages.reference import measure_images, reference_section

    section |= reference_section(given["reference"]) if given["reference"] else {}
    found = measure_images(what, build.make(section))
    told = {"reference": found["protocol"]["reference"], "protocol": found["protocol"]["hash"]}
    numbers = {key: f"{value:.6g}" for key, value in found["numbers"].items()}
    show(found, pairs({**numbers, **told}), flags)
