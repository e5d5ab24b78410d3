"""dmq measure: the numbers of images that something else sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dmq_cli import choices
from dmq_cli.cli.commands.output import HELP, pairs, protocol_section, run, say, show
from dmq_cli.sentences import with_flags


@click.command(context_settings=HELP)
@click.argument("what", metavar="FOLDER|FILE.npz")
@click.argument("words", nargs=-1, metavar="[protocol.KEY=VALUE]...")
@click.option("--protocol", default="digits", show_default=True, help="What is measured, and how.")
@click.option("--reference", help="A reference by name or file; default: the protocol's.")
@click.option(
    "--prompts", help="What the images were to show: a text file, its first line for 0.png, from the start again."
)
@click.option("--device", default="cpu", show_default=True, help="Where extractors run: cpu, cuda.")
@with_flags
@click.pass_context
def measure(context: click.Context, /, what: str, **options: Any) -> None:
    """Measure a folder of PNG files, or an .npz of images, against a reference: measure samples/ --protocol digits."""
    flags = {flag: options.pop(flag) for flag in ("verbose", "quiet", "json")}
    run(context, flags, lambda on: _measure(what, options, on))


def _measure(what: str, options: Mapping[str, Any], flags: set[str]) -> None:
    section = protocol_section(options["protocol"], options["words"])
    say(f"measure: {what} by protocol={options['protocol']}: loading PyTorch and the extractors ...", flags)
    from dmq_cli.models.texts import read_prompts
    from dmq_cli.stages import build
    from dmq_cli.stages.find_reference import reference_section
    from dmq_cli.stages.measuring import measure_images
    from dmq_cli.stages.validate import check_device, check_types

    check_types("protocol", section)
    section |= reference_section(options["reference"]) if options["reference"] else {}
    choices.check_given(section)
    protocol, device = build.make(section), check_device(options["device"], "--device")
    prompts = read_prompts(options["prompts"], "--prompts") if options["prompts"] else None
    result = measure_images(what, protocol, prompts, device)
    identity = {key: value for key, value in result["protocol"].items() if key == "reference"}
    identity["protocol"] = result["protocol"]["hash"]
    show(result, pairs({**_numbers(result), **identity, **_images(result["images"])}), flags)


def _images(record: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, and what lay beside it."""
    from dmq_cli.metrics.reading.listing import tell_kinds, tell_skipped

    kinds = tell_kinds(record["kinds"] or {})
    skipped = {"skipped": tell_skipped(record["skipped"])} if record["skipped"] else {}
    return {"images": f"{record['count']} of {record['source']}{kinds}", **skipped}


def _numbers(result: Mapping[str, Any]) -> dict[str, str]:
    """Every number, with its 95 % interval where it has one."""
    from dmq_cli.results.record import over_ranges
    from dmq_cli.results.verdict import precise

    return {key: precise(number) for key, number in over_ranges([result["numbers"]], result["intervals"]).items()}
