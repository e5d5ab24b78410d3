"""dmq completion SHELL, and the completion of words after a verb: groups, their choices, and keys."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")
_KEYED = ("sampler", "calib", "correct", "recon", "bits", "budget", "runtime", "store", "cond", "trace")
_VARIABLE = "_DMQ_COMPLETE"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes verbs, groups and keys: eval "$(dmq completion bash)"."""
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(context.find_root().command, {}, "dmq", _VARIABLE).source())


def complete_words(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a word after a verb. bash splits words at "=": then the group is the word before the last."""
    from dmq_cli.overrides.shape import groups

    before = [*context.params.get(parameter.name or "", ()), *context.args]
    split = before[-1:] == ["="] and len(before) > 1
    group, sign, begun = (before[-2], "=", incomplete) if split else incomplete.partition("=")
    if not incomplete and before and "=" not in before[-1] and before[-1] in groups():  # bash, right behind the "="
        group, sign, split = before[-1], "=", True
    words = _choices(group, begun) if sign else _keys(incomplete)
    prefix = f"{group}=" if sign and not split else ""
    return [CompletionItem(prefix + word) for word in words]


def _choices(group: str, begun: str) -> Iterator[str]:
    """Yield the choices of a group; after a comma, those for the next one."""
    from dmq_cli.overrides.shape import choices, groups

    before, comma, last = begun.rpartition(",")
    if group in groups():
        yield from (f"{before}{comma}{name}" for name in choices(group) if name.startswith(last))


def _keys(begun: str) -> Iterator[str]:
    """Yield groups and keys with an equals sign; keys inside sections once there is a dot."""
    from dmq_cli.overrides.shape import choices, groups, section_of, top_keys

    keys = {*groups(), *top_keys()}
    if "." in begun:
        group = begun.partition(".")[0]
        inner = {
            f"{group}.{key}"
            for name in (choices(group) if group in groups() else ())
            for key in section_of(group, name)
        }
        keys |= {key for key in inner if not key.rpartition(".")[2].startswith("_")}
    yield from sorted(f"{key}=" for key in keys if key.startswith(begun))
    if "." not in begun:
        yield from (f"{name}." for name in _KEYED if name.startswith(begun) and begun)
