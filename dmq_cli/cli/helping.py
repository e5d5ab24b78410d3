"""`dmq VERB --help`: what the verb does, its commonest words, the choices of every group, and the commented conf/config.yaml."""

from __future__ import annotations

import textwrap

from dmq_cli.choices import names
from dmq_cli.paths import conf_folder

_COMMON = (
    ("model=ddim_digits", "a name of `dmq list models`, or a diffusers folder: model=/path/to/folder"),
    ("method=tac bits=w4a8", "a paper's method, and widths: a choice, or any such as w5a7 and w4a8e4 (both ends at 4)"),
    ("sampler.num_inference_steps=50", "steps; sampler=plms another sampler"),
    ("seeds=0-1999", "which images; several ranges: seeds=[0-1999,10000-11999]"),
    ("budget=smoke", "how long methods learn: smoke in seconds, light, medium, paper as published"),
    ("protocol=digits", "what is measured, and how; `dmq list protocols`"),
    ("method=tac,tfmq -m", "a sweep: one job for each combination; table=NAME keeps its cells"),
    ("runtime.device=cuda", "where; runtime.batch_size=100, runtime.outputs=/big/disk"),
    ("--config-dir mine", "a folder with choices and code of your own"),
    ("--cfg job", "print the composed configuration and stop"),
)
_GROUPS = (
    "model", "method", "bits", "budget", "calib", "transform", "scheme", "policy", "recon", "correct", "sampler", "numerics",
    "protocol", "logger", "table",
)  # fmt: skip
_WIDTH = 110


def page(verb: str, about: str) -> str:
    """Write the help of one verb."""
    width = max(len(word) for word, _ in _COMMON)
    common = [f"  {word:{width}}  {meaning}" for word, meaning in _COMMON]
    parts = [
        f"dmq {verb} [group=choice] [key=value]... [-m]\n\n{about}",
        "The commonest words:\n" + "\n".join(common),
        "Groups and their choices:\n" + "\n".join(_choices(group) for group in _GROUPS),
        "The whole configuration, conf/config.yaml:\n\n" + (conf_folder() / "config.yaml").read_text(encoding="utf-8"),
        f"Flags: -v, -q, --json, --version; those of Hydra: dmq {verb} --hydra-help. Guides: docs/index.md.",
    ]
    return "\n\n".join(part.rstrip() for part in parts)


def _choices(group: str) -> str:
    text = f"{group}: {', '.join(names(group))}"
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="      ")
