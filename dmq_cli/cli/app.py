"""The command line: click outside, Hydra inside. Imports no torch at the top."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dmq_cli import __version__, choices, paths
from dmq_cli.cli.commands import COMMANDS
from dmq_cli.cli.commands.tables import write_tables
from dmq_cli.cli.completion import complete_words, completion
from dmq_cli.cli.helping import page
from dmq_cli.cli.starting import is_first, say_composing, say_loading, set_up_logging
from dmq_cli.errors import ConfigError, nearest
from dmq_cli.overrides import as_hydra, own_folder, quoted, split, sweeps
from dmq_cli.printing import printable
from dmq_cli.sentences import guarded, with_flags

_FLAGS = {"-v": "verbose", "--verbose": "verbose", "-q": "quiet", "--quiet": "quiet", "--json": "json"}
_VERBS = {
    "calibrate": "Fit the ranges of all quantizers.",
    "reconstruct": "Learn rounding and activation scales, block by block.",
    "correct": "Estimate the correction that is applied while sampling.",
    "sample": "Sample images, full precision and quantized, from the same noise.",
    "evaluate": "Measure the images: distances, and each against its full-precision twin.",
    "export": "Write the quantized model as a folder that diffusers and dmq load.",
}
_PAGES = {  # of the documentation, by command; of all others guides/command-line
    "clean": "guides/running", "verify": "guides/running", "report": "guides/reports", "compare": "guides/reports",
    "measure": "guides/references", "reference": "guides/references",
    "doctor": "guides/checkpoints", "fetch": "guides/checkpoints", "import": "guides/checkpoints",
}  # fmt: skip
_OPTIONS = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "help_option_names": [],
    "allow_interspersed_args": False,
}


class _WithOwnFolder(click.Group):
    """Takes --config-dir from anywhere on the line."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        folder, remaining = own_folder(arguments)
        with contextlib.ExitStack() as stack:
            folder_scope = paths.with_own(None if folder is None else Path(folder).expanduser())
            if code := guarded(lambda: stack.enter_context(folder_scope), "--json" in arguments):
                sys.exit(code)
            return super().main(remaining, *more, **extra)


@click.group(
    cls=_WithOwnFolder,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Documentation: docs/index.md; what can be chosen: docs/guides/command-line.md.",
)
@click.version_option(__version__, prog_name="dmq")
@with_flags
@click.pass_context
def main(context: click.Context, /, **flags: bool) -> None:
    """Quantize diffusion models: dmq <verb> [group=choice] [key=value] [-m].

    For example: dmq evaluate model=ddim_digits method=tac bits=w3a8

    Each verb makes what it needs first and takes from the cache what is there. `dmq <verb> --help` lists the groups.
    """
    context.obj = {name for name, on in flags.items() if on}


def _verb(name: str, about: str) -> None:
    @main.command(name, help=about, context_settings=_OPTIONS, add_help_option=False)
    @click.argument("overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_words)
    @click.pass_context
    def command(context: click.Context, overrides: tuple[str, ...]) -> None:
        _start(context, name, overrides, _run)


@main.command(context_settings=_OPTIONS, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="VERB [OVERRIDES]...", shell_complete=complete_words)
@click.pass_context
def plan(context: click.Context, words: tuple[str, ...]) -> None:
    """Print what a verb would compute: plan <verb> [overrides]."""
    _start(context, None, words, _plan)


@main.command(context_settings=_OPTIONS, add_help_option=False)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_words)
@click.pass_context
def train(context: click.Context, overrides: tuple[str, ...]) -> None:
    """Train an embedded model, and what it rests on, from the data."""
    _start(context, "train", overrides, _train)


@main.command(context_settings=_OPTIONS, add_help_option=False)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_words)
@click.pass_context
def cost(context: click.Context, overrides: tuple[str, ...]) -> None:
    """Count MACs, bit operations and bytes of a model; no weights needed."""
    _start(context, "cost", overrides, _cost)


@main.command(context_settings=_OPTIONS, add_help_option=False)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_words)
@click.pass_context
def benchmark(context: click.Context, overrides: tuple[str, ...]) -> None:
    """Measure how long a network call takes: in PyTorch, in OpenVINO, and quantized in integers."""
    _start(context, "benchmark", overrides, _benchmark)


@main.command(context_settings=_OPTIONS, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="NAME [OVERRIDES]...", shell_complete=complete_words)
@click.pass_context
def table(context: click.Context, words: tuple[str, ...]) -> None:
    """Fill a table, going on where it stopped, and write it: table NAME [overrides]."""
    name, *overrides = words or ("--help",)
    if name in ("-h", "--help"):
        click.echo(page("table NAME", str(context.command.help)))
        return
    parts: list[str] = []
    codes = [guarded(lambda: parts.extend(choices.table_parts(name)), "--json" in overrides)]
    verb, job = (
        ("benchmark", _benchmark)
        if parts and (choices.table(name) or {}).get("verb") == "benchmark"
        else ("evaluate", _run)
    )
    codes += [_code(context, verb, [f"table={part}", *overrides], job) for part in parts]
    if parts:
        codes.append(guarded(lambda: write_tables([name], *_scale_and_outputs(overrides)), "--json" in overrides))
    sys.exit(max(codes))


def _scale_and_outputs(overrides: Sequence[str]) -> tuple[str, Path]:
    values = dict(word.split("=", 1) for word in overrides if "=" in word)
    return values.get("scale", "paper"), Path(values.get("runtime.outputs", "outputs"))


for _name, _about in _VERBS.items():
    _verb(_name, _about)
for _command in (*COMMANDS, completion):
    _command.epilog = f"Documentation: docs/{_PAGES.get(str(_command.name), 'guides/command-line')}.md."
    main.add_command(_command)


def _start(context: click.Context, verb: str | None, words: Sequence[str], job: Callable[..., dict[str, Any]]) -> None:
    """Run a job for every configuration that Hydra makes of the words, and exit with its code; see `_code`."""
    sys.exit(_code(context, verb, words, job))


def _code(context: click.Context, verb: str | None, words: Sequence[str], job: Callable[..., dict[str, Any]]) -> int:
    """Run the job, turn errors into sentences, and return the exit code.

    verb: None where it is the first of the words that is no flag.
    """
    flags = set(context.obj) | {_FLAGS[word] for word in words if word in _FLAGS}
    if not is_first():
        flags |= {"quiet"}
    remaining = [word for word in words if word not in _FLAGS]
    if "--version" in remaining:
        click.echo(f"dmq, version {__version__}")
        return 0

    def start() -> None:
        hydra_flags, overrides = split(remaining)
        if "--help" in hydra_flags:
            click.echo(page(verb or "plan", str(context.command.help or "").partition("\n")[0]))
            return
        first = overrides.pop(0) if verb is None and overrides else verb
        if verb is None and first not in _VERBS:
            raise ConfigError(f"The command plan was given {first or 'no verb'}.{nearest(first or '', _VERBS)}")
        _hydra(str(first), hydra_flags, overrides, flags, job)

    return guarded(start, "json" in flags)


def _hydra(
    verb: str, hydra_flags: list[str], overrides: list[str], flags: set[str], job: Callable[..., dict[str, Any]]
) -> None:
    import hydra

    from dmq_cli.overrides.bits import register_bits
    from dmq_cli.overrides.check import check_words
    from dmq_cli.sweep import CURRENT, Command

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise to `guarded` instead of printing and exiting
    check_words(overrides)
    register_bits(overrides)
    failed: list[Exception] = []
    run = _in_any_process(verb, flags, job)

    def task(config: Any) -> None:
        """The only job; those of a sweep are run by dmq_cli.sweep."""
        try:
            result = run(config)
        except Exception as error:
            failed.append(error)  # Hydra would print all overrides before the sentence
            return
        _show(result, flags)

    # Where Hydra makes a folder of its own, even if nothing is written to it.
    quiet = [] if job in (_run, _train, _benchmark) else ["hydra.run.dir=."]
    # Hydra takes flags before all overrides or after them, but not in between.
    words = [f"stage={verb}", *quiet, *_plugin_words(), *as_hydra(overrides, sweeps(hydra_flags, overrides))]
    hydra_flags = [
        *hydra_flags,
        *([] if (user_folder := paths.own_folder()) is None else ["--config-dir", str(user_folder)]),
    ]
    sys.argv = ["dmq", *hydra_flags, *([] if "--hydra-help" in hydra_flags else words)]  # that is about no job
    set_up_logging(flags)
    if swept := sweeps(hydra_flags, overrides):
        if not is_first():
            raise ConfigError(
                "A sweep was started several times, by torchrun or srun, but only a single job is shared by processes; start it once,"
                " with hydra/launcher=submitit_slurm for jobs of their own."
            )
        say_composing(verb, overrides)
    command = Command(verb, flags, run, _rows, recorded=job in (_run, _benchmark))
    token = CURRENT.set(command)
    try:
        if hydra_flags or swept or any(word.lstrip("+~").startswith("hydra.") for word in overrides):
            hydra.main(version_base="1.3", config_path=str(paths.conf_folder()), config_name="config")(task)()
        else:
            _alone(words, task)
    finally:
        CURRENT.reset(token)
    if failed:
        raise failed[0]
    if command.jobs is not None:
        _end_sweep(command.jobs, flags)


def _alone(words: Sequence[str], task: Callable[[Any], None]) -> None:
    """Run a single job without Hydra's own start, which composes everything twice."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict, read_write

    with initialize_config_dir(str(paths.conf_folder()), job_name="dmq", version_base="1.3"):
        whole = compose("config", ["hydra.mode=RUN", *words], return_hydra_config=True)
        HydraConfig.instance().set_config(whole)
        config = copy.deepcopy(whole)
        with read_write(config), open_dict(config):
            del config["hydra"]
        task(config)


def _plugin_words() -> list[str]:
    """Where Hydra finds the choices of installed plugins."""
    folders = [quoted(str(folder)) for folder in paths.plugin_folders()]
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


def _rows(table: dict[str, Any], scale: str) -> list[list[str]]:
    """The jobs of a paper's table, read only where one is swept over."""
    from dmq_cli.papers import jobs

    return jobs(table, scale)


def _title(path: Any, *names: Any) -> str:
    """The names of model, method and bits; of an exported model its folder: the method of the command line says nothing of it."""
    from dmq_cli.deploy.index import is_exported

    if isinstance(path, str) and is_exported(folder := paths.resolve(path)):
        return folder.name
    return " ".join(str(name) for name in names)


def _in_any_process(verb: str, flags: set[str], job: Callable[..., dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """The job as a function of Hydra's configuration that launchers can take to another process, where it says less."""
    pid = os.getpid()

    def run(config: Any) -> dict[str, Any]:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from dmq_cli.overrides import current

        job_flags = flags if os.getpid() == pid else flags | {"quiet"}
        swept = HydraConfig.get().mode.name == "MULTIRUN"  # which shows how far it is itself
        set_up_logging(job_flags)
        words_of = ("model.path", "model.name", "method.name", "bits.name")
        say_loading(f"{verb}: {_title(*(OmegaConf.select(config, word) for word in words_of))}")
        from dmq_cli.overrides.check import check_config
        from dmq_cli.stages.plugins import import_plugins

        words, folder = current.words(), current.folder()
        command = shlex.join(["dmq", verb, *([] if folder is None else ["--config-dir", str(folder)]), *words])
        with paths.with_own(folder):
            import_plugins()
            check_config(config, words)
            plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            result = job(
                {**plain, "overrides": current.overrides(config)},
                command,
                job_flags | {"quiet"} if swept else job_flags,
            )
        if swept and job not in (_run, _benchmark) and "json" not in job_flags:
            _show(result, job_flags)
        return result

    return run


def _end_sweep(jobs: list[Any], flags: set[str]) -> None:
    """One line of JSON with --json; an error if a job failed."""
    from dmq_cli.sweep.show import as_json, failure

    if (error := failure(jobs)) is not None:
        raise error
    if "json" in flags:
        click.echo(json.dumps(as_json(jobs)))


def _run(config: dict[str, Any], command: str, flags: set[str]) -> dict[str, Any]:
    from dmq_cli.stages.verbs import run

    return run(config, command, quiet="quiet" in flags)


def _plan(config: dict[str, Any], command: str, flags: set[str]) -> dict[str, Any]:
    from dmq_cli.stages.plan import planned

    return planned(config, config["stage"])


def _train(config: dict[str, Any], command: str, flags: set[str]) -> dict[str, Any]:
    from dmq_cli.stages.train import train

    return train(config, command, quiet="quiet" in flags)


def _cost(config: dict[str, Any], command: str, flags: set[str]) -> dict[str, Any]:
    from dmq_cli.stages.costing import cost_of

    return cost_of(config)


def _benchmark(config: dict[str, Any], command: str, flags: set[str]) -> dict[str, Any]:
    from dmq_cli.overrides import current
    from dmq_cli.stages.benchmark import benchmark

    return benchmark(config, command, current.with_words, quiet="quiet" in flags)


def _show(result: dict[str, Any], flags: set[str]) -> None:
    if not result:  # of a process that helped another
        return
    if "json" in flags:
        click.echo(json.dumps(result))
    elif "quiet" not in flags:
        from dmq_cli.report import describe

        click.echo(printable(describe(result)))


if __name__ == "__main__":
    main()
