"""The folder that an export hands on: the exported model under a name of its own, with a card for people."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dmq_cli.deploy.backends import BACKENDS
from dmq_cli.deploy.folder import METHOD
from dmq_cli.deploy.index import read_index, write_index
from dmq_cli.errors import ArtifactError
from dmq_cli.metrics import shown
from dmq_cli.results.record import Evaluation, as_evaluation, metrics_files
from dmq_cli.results.verdict import with_noise, with_unit
from dmq_cli.store.files import aside_folder, copy_file, write_text
from dmq_cli.store.integrity import MANIFEST
from dmq_cli.store.recorded import CONFIG, read_object

_CARD = """---
library_name: diffusers
{licence}base_model_relation: quantized
tags: [{tags}]
---
# {title}

{model}, quantized by {method} to {weight}-bit weights and {act}-bit activations{corrected}. Made by `{command}`; the base model has the
sha256 `{base}`.

{use}

{numbers}

{cite}
"""
_PACKED = """\
The weights are packed integers ({size:,} bytes, quantizers' tables included). Codes and images are those of the run, bit for bit; the
arithmetic between them is simulated in float32. It needs `pip install 'dmq-cli[export]'`, and no `trust_remote_code`:

```python
import dmq_cli  # diffusers learns to read quant_method "dmq"
from diffusers import DiffusionPipeline

DiffusionPipeline.from_pretrained("{title}")(seeds="0-3").images[0].save("0.png")
```"""
_DEPLOYED = """\
{graph} that runs in 8-bit integers on the CPU: {share:.1%} of all multiplications; made for processors with {instruction_set} or better.
Images are those of the run but for single roundings. It needs `pip install '{needs}'`:

```
dmq sample model={title} seeds=0-3
```"""
_NUMBERS = """Measured by dmq {protocol} on {count} images, seeds {seeds}; in brackets 95 % intervals of what other seeds give on average:

| | full precision | quantized |
| --- | --- | --- |
"""
_NOT_MEASURED = "Not measured: no evaluation of this network was found beside the export; `{command}` makes one."


def deliver(run: Path, artifact: Path, command: str, outputs: Path) -> Path:
    """Copy an artifact of export to RUN/<model>-<method>-<bits> with its card, and return that folder."""
    content = _as_asked(read_index(artifact), read_object(run / CONFIG))
    config = content["config"]
    target = run / "-".join(config[section]["name"] for section in ("model", "method", "bits"))
    with aside_folder(target) as scratch:
        shutil.copytree(
            artifact, scratch, copy_function=copy_file, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True
        )
        write_index(scratch, content)
        write_text(scratch / "README.md", _card(target.name, content, command, _evaluations(config, run, outputs)))
    return target


def _as_asked(content: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The index of an artifact with the names of this run: methods of equal parts share one, which has those of the first."""
    config = {**content["config"], **{section: asked[section] for section in ("method", "bits")}}
    return {**content, "config": config}


def _evaluations(config: Mapping[str, Any], run: Path, outputs: Path) -> Iterator[Evaluation]:
    """Evaluations of the network of this export, of all that are in the outputs folder."""
    keys = read_object(run / MANIFEST)["artifacts"]
    folders = [outputs / "runs" / "evaluate", *sorted((outputs / "tables").glob("*"))]
    for file in (file for folder in folders for file in metrics_files(folder)):
        try:
            evaluation = as_evaluation(read_object(file), file)
        except ArtifactError:
            continue
        if all(evaluation.artifacts.get(stage) == keys[stage] for stage in ("reconstruct", "correct")):
            yield evaluation


def _card(title: str, content: Mapping[str, Any], command: str, evaluations: Iterator[Evaluation]) -> str:
    config, about = content["config"], content["about"]
    method, bits = config["method"], config["bits"]
    measured = max(evaluations, key=lambda evaluation: evaluation.num_images, default=None)
    licence = f"license: {about['licence']}\n" if about["licence"] else ""
    return _CARD.format(
        licence=licence, title=title, model=config["model"]["name"], method=method["name"], weight=bits["weight"], act=bits["act"],
        tags=", ".join((METHOD, "quantized", method["name"], bits["name"])), base=config["model"]["sha256"], command=command,
        corrected="" if config["correct"]["_target_"].endswith("NoCorrection") else ", with the correction of its sampling",
        use=_use(title, content), cite=f"Method: {method['cite']}.",
        numbers=_NOT_MEASURED.format(command=command.replace("dmq export", "dmq evaluate", 1)) if measured is None else _numbers(measured),
    )  # fmt: skip


def _use(title: str, content: Mapping[str, Any]) -> str:
    """What the folder holds, and how it is loaded."""
    about, form = content["about"], content["config"]["format"]
    if (backend := BACKENDS.get(form)) is not None:
        numbers = {"share": about["integer_share"], "instruction_set": about["instruction_set"]}
        return _DEPLOYED.format(title=title, graph=backend.title, needs=backend.needs, **numbers)
    return _PACKED.format(title=title, size=about["cost"]["size_bytes"])


def _numbers(evaluation: Evaluation) -> str:
    protocol = evaluation.protocol
    head = _NUMBERS.format(
        protocol=f"(protocol {protocol['name']} `{protocol['hash']}`)", count=evaluation.num_images, seeds=", ".join(evaluation.seeds)
    )  # fmt: skip
    rows = [
        f"| {title} | {with_noise(evaluation.fp[key], key)} | {with_noise(evaluation.quantized[key], key)} |"
        for key, title in protocol["columns"].items()
        if key in evaluation.quantized
    ]
    rows += [
        f"| {shown(key).heading} |  | {with_unit(number)} |"
        for key, number in evaluation.paired.items()
        if shown(key).heading
    ]
    return head + "\n".join(rows) + f"\n\n`{evaluation.command}`"
